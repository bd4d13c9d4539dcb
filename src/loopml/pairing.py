"""Labels to curves: which rows of a batch are joined, and which curves are negatives of which.

How many curves there are is a question of labels alone. It is answered on the CPU, where labels
mostly come from, so that the curves have known shapes and nobody waits for a GPU. Which rows of a
large class lie nearest to another class is a question of embeddings: it decides the order of the
rows of a class, on the device, and curves join places in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loopml._checks import values_readable
from loopml._devices import onto
from loopml._types import Gram, Pairs
from loopml.batch import Batch, own_references

Integers = NDArray[np.int64]

PAIRINGS = ("auto", "all", "consecutive")

# pairing="auto": up to this many rows of a class every two are joined, ...
ALL_UP_TO = 8
# ... and in a larger class each row with this many. Measured by benchmarks/study/pairing_rules.py.
PARTNERS = 2
# Numbers in a temporary of one block: 4 MiB of float32.
_BLOCK = 1 << 20


class Pairing(NamedTuple):
    """The curves of a batch; every index counts the batch first and the references after it.

    A row that is itself among the references has one positive less than others. Where nobody may
    look, as on a GPU, the row joined with itself, ``(i, i)``, takes the place of that one.

    Attributes:
        positives: the curves that an anchor can be on, each once.
        negatives: the curves that can be a negative: pairs, and lone samples as pairs (i, i).
        anchor: (o,) the anchor of each ordered positive pair.
        positive: (o,) its positive.
        curve: (o,) the curve of ``positives`` that joins the two.
        least: every positive curve has at least so many negative ones; 0 where that is not known,
            or a positive curve may be a row joined with itself.
    """

    positives: Pairs
    negatives: Pairs
    anchor: Tensor
    positive: Tensor
    curve: Tensor
    least: int


def pair_up(pairing: str, batch: Batch, nearness: Callable[[], Tensor] | None = None) -> Pairing:
    """The curves of a batch.

    Labels are read. Where they came on a GPU this waits for it, but not under "consecutive".

    Args:
        pairing: "all" joins every two rows of a class. "auto" does so up to 8 rows of a class; in a
            larger one it joins each row with the two rows, other than itself, that lie nearest to
            another class. "consecutive" joins rows (0, 1), (2, 3), ...
        batch: anchors come from its embeddings, positives and negatives from its references.
            Embeddings are read only to find references that are rows of the batch.
        nearness: how near another class is to each of the rows that positives and negatives come
            from, (m,). It is asked where "auto" meets a class of more than 8 rows.

    Returns:
        :class:`Pairing`. With references its indices count them from n on.

    Raises:
        ValueError: under "consecutive" the batch is odd, a pair has two labels, or references
            are given.
    """
    if pairing == "consecutive":
        return _consecutive(batch)
    labels, device = batch.labels_of_others(), batch.labels.device
    given, given_of_others = batch.given_labels()
    read = _read(given_of_others)
    classes = _classes(read)
    few = pairing == "auto" and bool((classes.size > ALL_UP_TO).any())
    order = None
    if few:
        assert nearness is not None
        order = _frontier(nearness(), labels)
    curves = _few_curves(classes) if few else _all_curves(classes)
    first, second = (_rows(order, end, device) for end in curves.ends)
    if few:
        first, second = torch.minimum(first, second), torch.maximum(first, second)
    negatives = Pairs(first, second, labels[first])
    if batch.ref_emb is None:
        lone = len(first) - curves.joined
        anchor, positive = (_rows(order, end, device) for end in curves.ordered)
        curve = onto(device, torch.from_numpy(curves.curve))
        positives = negatives.take(slice(curves.joined)) if lone else negatives
        return Pairing(positives, negatives, anchor, positive, curve, curves.least)
    if order is None:
        order = onto(device, torch.from_numpy(classes.order))
    anchor, positive, known = _positives(batch, _read(given), read[classes.order], order, few)
    offset = batch.offset()
    positives = Pairs(anchor, positive, batch.labels[anchor])
    negatives = Pairs(first + offset, second + offset, negatives.label)
    curve = torch.arange(len(anchor), device=device)
    return Pairing(positives, negatives, anchor, positive, curve, curves.least if known else 0)


def _consecutive(batch: Batch) -> Pairing:
    labels = batch.labels
    if batch.ref_emb is not None:
        raise ValueError(
            "pairing='consecutive' joins the rows of one batch and cannot use ref_emb; "
            "use pairing='auto' or pairing='all'"
        )
    if len(labels) % 2:
        raise ValueError(
            f"pairing='consecutive' needs an even batch, got {len(labels)} rows; "
            "drop one or use pairing='auto' or pairing='all'"
        )
    given, least = batch.given_labels()[0], 0
    if values_readable(given):
        one, other = _read(given).reshape(-1, 2).T
        if (one != other).any():
            pair = int((one != other).argmax())
            raise ValueError(
                "pairing='consecutive' needs labels that agree in rows (0, 1), (2, 3), ..., "
                f"got {one[pair]} and {other[pair]} in rows {2 * pair} and {2 * pair + 1}; "
                "draw it with MPerClassSampler(labels, m=2) or use pairing='auto' or pairing='all'"
            )
        least = _least(np.unique(one, return_inverse=True)[1])
    index = torch.arange(len(labels), device=labels.device)
    first, second = index[0::2], index[1::2]
    curves, curve = Pairs(first, second, labels[0::2]), index[: len(first)]
    anchor, positive = torch.cat([first, second]), torch.cat([second, first])
    return Pairing(curves, curves, anchor, positive, torch.cat([curve, curve]), least)


def every_two(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Every two rows of a class, the first before the second, in the order of the rows: (p,) each.

    Labels are read.
    """
    first, second = _every_two(_classes(_read(labels)))
    return _rows(None, first, labels.device), _rows(None, second, labels.device)


def nearest_others(gram: Gram, labels: Tensor, others: Tensor, similarity: bool) -> Tensor:
    """How near the nearest row of another label is to each point.

    Args:
        gram: (n, m) inner products of rows with points.
        labels: (n,) of the rows.
        others: (m,) of the points.
        similarity: whether near is a large inner product or a small distance.

    Returns:
        (m,) that product, or minus half the squared distance; -inf where there is no other label.
    """
    inner, row_square, col_square = gram
    half = 0.0 if similarity else 0.5
    nearest = torch.full_like(col_square, -torch.inf)
    size = _BLOCK // max(1, len(others)) + 1
    for start in range(0, len(labels), size):
        block = slice(start, start + size)
        nearness = inner[block] - half * row_square[block].unsqueeze(1)
        nearness.masked_fill_(labels[block].unsqueeze(1) == others, -torch.inf)
        nearest = torch.maximum(nearest, nearness.amax(0))
    return nearest - half * col_square


def _frontier(nearness: Tensor, labels: Tensor) -> Tensor:
    """The rows class by class, in each the nearest first, and of equally near ones the first."""
    order = nearness.argsort(descending=True, stable=True)
    return order[labels[order].argsort(stable=True)]


class _Classes(NamedTuple):
    """Where the rows of each class are when rows come class by class: (m,) each."""

    order: Integers  # the rows, class by class
    place: Integers  # of each row in that order
    start: Integers  # of each row's class in that order
    size: Integers  # of each row's class


def _classes(labels: Integers) -> _Classes:
    order = labels.argsort(kind="stable")
    ranked = labels[order]
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    start = ranked.searchsorted(labels)
    return _Classes(order, place, start, ranked.searchsorted(labels, "right") - start)


class _Curves(NamedTuple):
    """Curves between rows, or between places in an order of the rows."""

    ends: Integers  # (2, p + l) of p curves, each once, and l lone samples
    joined: int  # p
    ordered: Integers  # (2, o) ordered pairs
    curve: Integers  # (o,) their curves
    least: int  # as in ``Pairing``


def _all_curves(classes: _Classes) -> _Curves:
    """Every two rows of a class."""
    ends = _every_two(classes)
    (lone,) = (classes.size == 1).nonzero()
    curve = np.tile(np.arange(ends.shape[1], dtype=np.int64), 2)
    ordered = np.hstack([ends, ends[::-1]])
    with_lone = np.hstack([ends, [lone, lone]])
    return _Curves(with_lone, len(ends[0]), ordered, curve, _least(classes.start[with_lone[0]]))


def _every_two(classes: _Classes) -> Integers:
    first, place = _runs(classes.place + 1, classes.start + classes.size)
    return np.stack([first, classes.order[place]])


def _few_curves(classes: _Classes) -> _Curves:
    """Every two of a small class, and few of a large one, by their places in a frontier."""
    start, size = classes.start[classes.order], classes.size[classes.order]
    rank = np.arange(len(start)) - start
    # A row is joined with the first of its class, so many that ``PARTNERS`` stay without itself.
    reach = np.where(size <= ALL_UP_TO, size, PARTNERS + (rank < PARTNERS))
    row, partner = _runs(start, start + reach)
    ordered = np.stack([row, partner])[:, row != partner]
    # A number for each pair, the same in both orders.
    number = ordered.min(0) * len(start) + ordered.max(0)
    number, curve = np.unique(number, return_inverse=True)
    (lone,) = (size == 1).nonzero()
    ends = np.hstack([np.divmod(number, len(start)), [lone, lone]])
    return _Curves(ends, len(number), ordered, curve, _least(start[ends[0]]))


def _runs(start: Integers, end: Integers) -> tuple[Integers, Integers]:
    """For each i all numbers from ``start[i]`` up to ``end[i]``: i and the number."""
    count = end - start
    which = np.repeat(np.arange(len(count), dtype=np.int64), count)
    return which, np.arange(len(which), dtype=np.int64) + (end - count.cumsum())[which]


def _least(of_class: Integers) -> int:
    """How many curves of another class there are at least, from the class of each: (c,) >= 0."""
    return len(of_class) - int(np.bincount(of_class, minlength=1).max())


def _positives(
    batch: Batch, read: Integers, ranked: Integers, order: Tensor, few: bool
) -> tuple[Tensor, Tensor, bool]:
    """Each row with its positives among the references, in order: (o,) and (o,).

    Args:
        batch: the batch, with references.
        read: (n,) its labels.
        ranked: (m,) the labels of the references, class by class.
        order: (m,) the references, class by class.
        few: whether rows are joined with few references of a large class.

    Returns:
        Anchors and positives, and whether they are all pairs of two samples.
    """
    start, end = ranked.searchsorted(read), ranked.searchsorted(read, "right")
    size = end - start
    reach = np.where((size > ALL_UP_TO) & few, PARTNERS, size)
    row, place = _runs(start, start + reach)
    columns = row, place, end[row]
    anchor, at, end_of_class = (onto(order.device, torch.from_numpy(x)) for x in columns)
    # Where the row itself is among them it is left out: those behind it move up by one, and the
    # last of a small class moves out of it.
    m = len(order)
    own = order.new_full((m + 1,), m).scatter_(0, order, torch.arange(m, device=order.device))
    at = at + (at >= own[own_references(batch)][anchor])  # -1, no reference, is at place m
    joined = at < end_of_class
    if values_readable(batch.embeddings):
        (kept,) = joined.nonzero(as_tuple=True)
        return anchor[kept], order[at[kept]] + batch.offset(), True
    positive = order[at.clamp(max=m - 1)] + batch.offset()
    return anchor, torch.where(joined, positive, anchor), False


def _rows(order: Tensor | None, places: Integers, device: torch.device) -> Tensor:
    """The rows at the places of an order; without one the places are rows."""
    index = onto(device, torch.from_numpy(places))
    return index if order is None else order[index]


def _read(labels: Tensor) -> Integers:
    """The labels as an array."""
    if torch.compiler.is_compiling():
        array: Integers = labels.cpu().numpy()  # a compiler would compile each list anew
        return array
    while torch._C._functorch.is_gradtrackingtensor(labels):
        labels = torch._C._functorch.get_unwrapped(labels)
    # Within torch.func no tensor is an array, nor before torch 2.5 a list.
    with torch._C._DisableFuncTorch():
        return np.array(labels.tolist(), dtype=np.int64)
