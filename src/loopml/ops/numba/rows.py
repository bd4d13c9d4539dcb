"""Rows of tensors, as compiled functions read them: in float64, over their length if they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from torch import Tensor

from loopml.ops.numba.scores import INNER

# The order of a sum is left to the compiler, which can then add several numbers at a time.
ANY_ORDER = {"reassoc", "contract"}


def array_of(x: Tensor) -> np.ndarray[Any, Any]:
    """The numbers of a tensor, row after row, so that a function is compiled for one layout."""
    # A call for each tensor that has no gradient would cost as much as a small search.
    plain = x.detach() if x.requires_grad else x
    array: np.ndarray[Any, Any] = plain.contiguous().numpy()
    return array


@njit(fastmath=ANY_ORDER, **INNER)
def product(x, y):
    """The inner product of two vectors."""
    total = 0.0
    # Not float(), which leaves a number of float32 what it is.
    for k in range(len(x)):
        total += np.float64(x[k]) * np.float64(y[k])
    return total


@njit(**INNER)
def inverse_length(sq_length, least):
    """``cones.inverse_length``."""
    return 1 / math.sqrt(sq_length) if sq_length > least else 0.0


@njit(**INNER)
def length_of(row):
    """The length of a vector."""
    square = product(row, row)
    if not square < 2.0**-900:
        return math.sqrt(square)
    # Of numbers whose squares are none.
    largest = 0.0
    for x in row:
        largest = max(largest, abs(np.float64(x)))
    square = 0.0
    for x in row:
        square += (np.float64(x) / largest) ** 2 if largest > 0 else 0.0
    return largest * math.sqrt(square)


@njit(**INNER)
def scale_of(row, least):
    """What a row is multiplied by: one over its length, or over ``least``; 1 if that is below 0."""
    return 1 / max(length_of(row), least) if least >= 0 else 1.0


@njit(fastmath=ANY_ORDER, **INNER)
def take_rows(points, index, least, rows):
    """Fill ``rows`` (e, d) with the points at ``index`` (e,)."""
    for j in range(len(index)):
        point = points[index[j]]
        scale = scale_of(point, least)
        for k in range(len(point)):
            rows[j, k] = scale * np.float64(point[k])
