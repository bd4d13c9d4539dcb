"""Distances of points on curves and their gradient, compiled: one pair of points at a time."""

import math

import numpy as np
from numba import njit
from torch import Tensor, from_numpy

from loopml.ops.numba.rows import (
    ANY_ORDER,
    array_of,
    inverse_length,
    length_of,
    product,
    scale_of,
    take_rows,
)

# Which points are divided by their length: the numbers of ``Scaled``.
NONE, BETWEEN, ALL = 0, 1, 2


def distances(
    points: Tensor,
    least: float,
    ends: Tensor,
    weights: Tensor,
    scaled: int,
    touch: float,
    sq_size: Tensor,
) -> Tensor:
    """How far two points are apart, each a weighted sum of two rows: (m,).

    Args:
        points: (n, d) rows.
        least: rows are divided by their length, or by this if that is more; below 0 they are taken
            as they are.
        ends: (m, 4) of p0, p1, q0, q1.
        weights: (m, 4) of them.
        scaled: which sums are divided by their length: none, those with two weights above 0, or
            all.
        touch: under this distance, as a share of the size, the points touch: distance 0.
        sq_size: (m,) or (1,) squares of the size of the numbers.
    """
    arrays = (array_of(x) for x in (ends, weights))
    return from_numpy(
        _distances(array_of(points), least, *arrays, scaled, touch, array_of(sq_size))
    )


def distances_backward(
    points: Tensor,
    least: float,
    ends: Tensor,
    weights: Tensor,
    scaled: int,
    distance: Tensor,
    of_distance: Tensor,
) -> Tensor:
    """The gradient (n, d) of the points from that of the distances."""
    arrays = (array_of(x) for x in (ends, weights))
    return from_numpy(
        _backward(
            array_of(points), least, *arrays, scaled, array_of(distance), array_of(of_distance)
        )
    )


@njit
def _is_scaled(w0, w1, scaled):
    return scaled == ALL or (scaled == BETWEEN and w0 > 0 and w1 > 0)


@njit(fastmath=ANY_ORDER)
def _point(first, last, w0, w1, scaled, point):
    """Fill ``point`` with the sum of two rows, over its length if it is; one over that, or 1."""
    for k in range(len(point)):
        point[k] = w0 * first[k] + w1 * last[k]
    if not _is_scaled(w0, w1, scaled):
        return 1.0
    scale = inverse_length(product(point, point), 0.0)
    for k in range(len(point)):
        point[k] *= scale
    return scale


@njit(cache=True, nogil=True, fastmath=ANY_ORDER)
def _distances(points, least, ends, weights, scaled, touch, sq_size):
    m, d = len(ends), points.shape[1]
    distance = np.empty(m, points.dtype)
    rows, p, q = np.empty((4, d)), np.empty(d), np.empty(d)
    for i in range(m):
        take_rows(points, ends[i], least, rows)
        w0, w1, v0, v1 = weights[i]
        _point(rows[0], rows[1], w0, w1, scaled, p)
        _point(rows[2], rows[3], v0, v1, scaled, q)
        square = 0.0
        for k in range(d):
            square += (p[k] - q[k]) * (p[k] - q[k])
        apart, size = math.sqrt(square), math.sqrt(sq_size[i if len(sq_size) > 1 else 0])
        distance[i] = 0.0 if apart <= touch * size else apart
    return distance


@njit(cache=True, nogil=True, fastmath=ANY_ORDER)
def _backward(points, least, ends, weights, scaled, distance, of_distance):
    m, d = len(ends), points.shape[1]
    gradient = np.zeros((len(points), d), points.dtype)
    moved = np.zeros(len(points), np.bool_)
    rows, p, q = np.empty((4, d)), np.empty(d), np.empty(d)
    for i in range(m):
        if of_distance[i] == 0 or distance[i] == 0:
            continue
        take_rows(points, ends[i], least, rows)
        w0, w1, v0, v1 = weights[i]
        p_scale = _point(rows[0], rows[1], w0, w1, scaled, p)
        q_scale = _point(rows[2], rows[3], v0, v1, scaled, q)
        # Along a point that is divided by its length nothing moves it.
        along_p = along_q = 0.0
        for k in range(d):
            along_p += (p[k] - q[k]) * p[k]
            along_q += (p[k] - q[k]) * q[k]
        along_p = along_p if _is_scaled(w0, w1, scaled) else 0.0
        along_q = along_q if _is_scaled(v0, v1, scaled) else 0.0
        share = of_distance[i] / distance[i]
        for k in range(d):
            apart = p[k] - q[k]
            rows[0, k] = share * p_scale * (apart - along_p * p[k])
            rows[1, k] = share * q_scale * (along_q * q[k] - apart)
        for j in range(4):
            to, weight, of_point = gradient[ends[i, j]], weights[i, j], rows[j // 2]
            moved[ends[i, j]] = True
            for k in range(d):
                to[k] += weight * of_point[k]
    if least >= 0:
        for i in range(len(points)):
            if moved[i]:
                _through_length(points[i], gradient[i], least)
    return gradient


@njit(fastmath=ANY_ORDER)
def _through_length(row, of_unit, least):
    """Make the gradient of a row over its length that of the row."""
    length = length_of(row)
    # A zero row has none, and below the least length the scale is constant.
    scale = scale_of(row, least) if length > 0 else 0.0
    along = product(row, of_unit) * scale * scale if length >= least else 0.0
    for k in range(len(row)):
        of_unit[k] = scale * (of_unit[k] - along * row[k])
