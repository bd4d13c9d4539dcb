"""Distances of points on curves and their gradient, compiled: one pair of points at a time."""

import math

import numpy as np
from numba import njit
from torch import Tensor, from_numpy

from loopml.ops.numba.rows import ANY_ORDER, array_of, inverse_length, length_of, product, scale_of
from loopml.ops.numba.scores import ENTRY, INNER

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
    of_points = _backward(
        array_of(points), least, *arrays, scaled, array_of(distance), array_of(of_distance)
    )
    return from_numpy(of_points)


@njit(**INNER)
def _share(points, index, weight, least, scales):
    """The weight of a row, over its length where rows are; a length is computed once."""
    if least >= 0 and scales[index] == 0:
        scales[index] = scale_of(points[index], least)
    return weight * scales[index]


@njit(fastmath=ANY_ORDER, **INNER)
def _point(first, last, a, b, is_scaled, point):
    """Fill ``point`` with the sum of two rows; what it has to be multiplied by."""
    for k in range(len(point)):
        point[k] = a * first[k] + b * last[k]
    return inverse_length(product(point, point), 0.0) if is_scaled else 1.0


@njit(**INNER)
def _points(points, least, ends, weights, scaled, scales, p, q):
    """Fill ``p`` and ``q`` with two points; what each has to be multiplied by."""
    w0, w1, v0, v1 = weights
    a0, a1 = _share(points, ends[0], w0, least, scales), _share(points, ends[1], w1, least, scales)
    b0, b1 = _share(points, ends[2], v0, least, scales), _share(points, ends[3], v1, least, scales)
    is_p = scaled == ALL or (scaled == BETWEEN and w0 > 0 and w1 > 0)
    is_q = scaled == ALL or (scaled == BETWEEN and v0 > 0 and v1 > 0)
    p_scale = _point(points[ends[0]], points[ends[1]], a0, a1, is_p, p)
    q_scale = _point(points[ends[2]], points[ends[3]], b0, b1, is_q, q)
    return p_scale, q_scale, is_p, is_q


@njit(fastmath=ANY_ORDER, **INNER)
def _sq_apart(p, q, p_scale, q_scale):
    total = 0.0
    for k in range(len(p)):
        apart = p_scale * p[k] - q_scale * q[k]
        total += apart * apart
    return total


@njit(**ENTRY)
def _distances(points, least, ends, weights, scaled, touch, sq_size):
    m, d = len(ends), points.shape[1]
    distance = np.empty(m, points.dtype)
    p, q = np.empty(d), np.empty(d)
    scales = np.full(len(points), 0.0 if least >= 0 else 1.0)
    for i in range(m):
        p_scale, q_scale, _, _ = _points(points, least, ends[i], weights[i], scaled, scales, p, q)
        apart = math.sqrt(_sq_apart(p, q, p_scale, q_scale))
        size = math.sqrt(sq_size[i if len(sq_size) > 1 else 0])
        distance[i] = 0.0 if apart <= touch * size else apart
    return distance


@njit(fastmath=ANY_ORDER, **INNER)
def _of_point(point, other, scale, other_scale, is_scaled, share):
    """Make ``point`` the gradient of the sum that it is, from that of a distance to another."""
    along = 0.0
    if is_scaled:  # along itself nothing moves it
        for k in range(len(point)):
            along += (scale * point[k] - other_scale * other[k]) * scale * point[k]
    for k in range(len(point)):
        x = scale * point[k]
        point[k] = share * scale * (x - other_scale * other[k] - along * x)


@njit(fastmath=ANY_ORDER, **INNER)
def _add(gradient, of_point, weight):
    for k in range(len(of_point)):
        gradient[k] += weight * of_point[k]


@njit(**ENTRY)
def _backward(points, least, ends, weights, scaled, distance, of_distance):
    m, d = len(ends), points.shape[1]
    gradient = np.zeros((len(points), d), points.dtype)
    p, q, of_p = np.empty(d), np.empty(d), np.empty(d)
    scales = np.full(len(points), 0.0 if least >= 0 else 1.0)
    for i in range(m):
        if of_distance[i] == 0 or distance[i] == 0:
            continue
        p_scale, q_scale, is_p, is_q = _points(
            points, least, ends[i], weights[i], scaled, scales, p, q
        )
        share = of_distance[i] / distance[i]
        of_p[:] = p
        _of_point(of_p, q, p_scale, q_scale, is_p, share)
        _of_point(q, p, q_scale, p_scale, is_q, share)
        for j in range(4):
            if weights[i, j] != 0:
                _add(gradient[ends[i, j]], of_p if j < 2 else q, weights[i, j])
    if least >= 0:
        for i in range(len(points)):
            if scales[i] != 0:
                _through_length(points[i], gradient[i], least)
    return gradient


@njit(fastmath=ANY_ORDER, **INNER)
def _through_length(row, of_unit, least):
    """Make the gradient of a row over its length that of the row."""
    length = length_of(row)
    # A zero row has none, and below the least length the scale is constant.
    scale = scale_of(row, least) if length > 0 else 0.0
    along = product(row, of_unit) * scale * scale if length >= least else 0.0
    for k in range(len(row)):
        of_unit[k] = scale * (of_unit[k] - along * row[k])
