"""Labels, compiled: their ranks, and what is least or farthest among those of one."""

import numpy as np
from numba import njit
from torch import Tensor, from_numpy

from loopml.ops.numba.rows import array_of
from loopml.ops.numba.scores import ENTRY, INNER, number


def farthest_positives(inner: Tensor, square: Tensor, labels: Tensor) -> Tensor:
    """As the op in ``loopml.ops.positives``."""
    arrays = (array_of(x) for x in (inner, square, labels.long()))
    return from_numpy(_farthest_positives(*arrays))


def smallest_per_group(value: Tensor, group: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """As ``loopml.selection.smallest_per_group``."""
    position, found = _smallest_per_group(array_of(value), array_of(group), groups)
    return from_numpy(position), from_numpy(found)


@njit(**INNER)
def ranks_of(labels):
    """Numbers from 0 on for the labels, in the order in which they come first; how many."""
    n = len(labels)
    slots = 2
    while slots < 2 * n:
        slots *= 2
    holder = np.full(slots, -1)  # the first position with the label of a slot
    rank, ranks = np.empty(n, np.int64), 0
    for i in range(n):
        # A product with an odd number of many bits, whose high bits depend on all of the label.
        slot = labels[i] * -7046029254386353131
        slot = (slot ^ (slot >> 32)) & (slots - 1)
        while holder[slot] >= 0 and labels[holder[slot]] != labels[i]:
            slot = (slot + 1) & (slots - 1)
        if holder[slot] < 0:
            holder[slot], rank[i] = i, ranks
            ranks += 1
        else:
            rank[i] = rank[holder[slot]]
    return rank, ranks


@njit(**INNER)
def chains(key, keys):
    """Lists of the positions that have the same key, in ascending order.

    Returns:
        The first position of each key and the one after each position, -1 where there is none.
    """
    head, after = np.full(keys, -1), np.empty(len(key), np.int64)
    for i in range(len(key) - 1, -1, -1):
        after[i], head[key[i]] = head[key[i]], i
    return head, after


@njit(**ENTRY)
def _farthest_positives(gram, square, labels):
    """The farthest other row of its label that each row has, -1 where there is none."""
    n = len(labels)
    rank, ranks = ranks_of(labels)
    head, after = chains(rank, ranks)
    farthest = np.full(n, -1)
    for i in range(n):
        most = number(-np.inf, gram[0, 0])
        j = head[rank[i]]
        while j >= 0:
            farness = square[j] - number(2, most) * gram[i, j]
            if j != i and farness > most:
                most, farthest[i] = farness, j
            j = after[j]
    return farthest


@njit(**ENTRY)
def _smallest_per_group(value, group, groups):
    """The position of the lowest finite value of each group, and which groups have one."""
    position, found = np.zeros(groups, np.int64), np.zeros(groups, np.bool_)
    for e in range(len(value)):
        g = group[e]
        if value[e] < np.inf and (not found[g] or value[e] < value[position[g]]):
            position[g], found[g] = e, True
    return position, found
