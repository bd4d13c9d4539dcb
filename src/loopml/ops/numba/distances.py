"""Distances of points on curves and their gradient, compiled: one pair of points at a time."""

import math

import numpy as np
from numba import njit
from torch import Tensor, from_numpy

from loopml.ops.numba.arrays import rows_of

# Which points are divided by their length.
NONE, BETWEEN, ALL = 0, 1, 2
# The order of a sum is left to the compiler, which can then add several numbers at a time.
_ANY_ORDER = {"reassoc", "contract"}


def distances(
    points: Tensor, ends: Tensor, weights: Tensor, scaled: int, touch: float, sq_size: Tensor
) -> Tensor:
    """How far two points are apart, each a weighted sum of two rows: (m,).

    Args:
        points: (n, d) rows.
        ends: (m, 4) of p0, p1, q0, q1.
        weights: (m, 4) of them.
        scaled: which sums are divided by their length: none, those with two weights above 0, or
            all.
        touch: under this distance, as a share of the size, the points touch: distance 0.
        sq_size: (m,) or (1,) squares of the size of the numbers.
    """
    arrays = (rows_of(x) for x in (points, ends, weights))
    return from_numpy(_distances(*arrays, scaled, touch, rows_of(sq_size)))


def distances_backward(
    points: Tensor, ends: Tensor, weights: Tensor, scaled: int, distance: Tensor, of: Tensor
) -> Tensor:
    """The gradient (n, d) of the points from that ``of`` the distances."""
    arrays = (rows_of(x) for x in (points, ends, weights))
    return from_numpy(_distances_backward(*arrays, scaled, rows_of(distance), rows_of(of)))


@njit
def _is_scaled(w0, w1, scaled):
    return scaled == ALL or (scaled == BETWEEN and w0 > 0 and w1 > 0)


@njit(fastmath=_ANY_ORDER)
def _scale(first, last, w0, w1, scaled):
    """What a sum is multiplied by: one over its length, or 1."""
    if not _is_scaled(w0, w1, scaled):
        return 1.0
    square = 0.0
    for k in range(len(first)):
        x = w0 * first[k] + w1 * last[k]
        square += x * x
    return 1 / math.sqrt(square) if square > 0 else 0.0


@njit(cache=True, nogil=True, fastmath=_ANY_ORDER)
def _distances(points, ends, weights, scaled, touch, sq_size):
    m, d = len(ends), points.shape[1]
    distance = np.empty(m, points.dtype)
    for i in range(m):
        p0, p1 = points[ends[i, 0]], points[ends[i, 1]]
        q0, q1 = points[ends[i, 2]], points[ends[i, 3]]
        w0, w1 = float(weights[i, 0]), float(weights[i, 1])
        v0, v1 = float(weights[i, 2]), float(weights[i, 3])
        p, q = _scale(p0, p1, w0, w1, scaled), _scale(q0, q1, v0, v1, scaled)
        square = 0.0
        for k in range(d):
            x = p * (w0 * p0[k] + w1 * p1[k]) - q * (v0 * q0[k] + v1 * q1[k])
            square += x * x
        size = math.sqrt(sq_size[i if len(sq_size) > 1 else 0])
        apart = math.sqrt(square)
        distance[i] = 0.0 if apart <= touch * size else apart
    return distance


@njit(cache=True, nogil=True, fastmath=_ANY_ORDER)
def _distances_backward(points, ends, weights, scaled, distance, of):
    m, d = len(ends), points.shape[1]
    gradient = np.zeros_like(points)
    for i in range(m):
        if of[i] == 0 or distance[i] == 0:
            continue
        share = float(of[i]) / distance[i]
        p0, p1 = points[ends[i, 0]], points[ends[i, 1]]
        q0, q1 = points[ends[i, 2]], points[ends[i, 3]]
        w0, w1 = float(weights[i, 0]), float(weights[i, 1])
        v0, v1 = float(weights[i, 2]), float(weights[i, 3])
        p, q = _scale(p0, p1, w0, w1, scaled), _scale(q0, q1, v0, v1, scaled)
        # What the difference has along a point of the sphere does not move the point.
        along_p = along_q = 0.0
        for k in range(d):
            x = p * (w0 * p0[k] + w1 * p1[k])
            y = q * (v0 * q0[k] + v1 * q1[k])
            along_p += (x - y) * x
            along_q += (x - y) * y
        along_p = along_p if _is_scaled(w0, w1, scaled) else 0.0
        along_q = along_q if _is_scaled(v0, v1, scaled) else 0.0
        for k in range(d):
            x = p * (w0 * p0[k] + w1 * p1[k])
            y = q * (v0 * q0[k] + v1 * q1[k])
            of_p = share * p * (x - y - along_p * x)
            of_q = share * q * (y - x + along_q * y)
            gradient[ends[i, 0], k] += w0 * of_p
            gradient[ends[i, 1], k] += w1 * of_p
            gradient[ends[i, 2], k] += v0 * of_q
            gradient[ends[i, 3], k] += v1 * of_q
    return gradient
