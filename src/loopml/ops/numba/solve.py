"""Where chosen pairs of curves come nearest, compiled: one pair at a time, in float64.

The formulas are those of ``loopml.geometry``: ``cones`` for arcs, ``segments``, and
``ops.scores.sample_terms`` for samples. There is why they are right.
"""

import math

import numpy as np
from numba import njit
from torch import Tensor, from_numpy

from loopml.ops.numba.rows import ANY_ORDER, array_of, inverse_length, product, take_rows
from loopml.ops.numba.scores import ENTRY, INNER

_EPS = 2.0**-52
_TINY = 2.0**-1022
# Squared distances that differ by more do so whatever their rounding.
_CLEAR = 1e-12


def solve_arcs(points: Tensor, ends: Tensor, opposite: float) -> Tensor:
    """The weights (m, 4) of the ``points`` at ``ends`` (m, 4) in the nearest points of two arcs.

    Args:
        points: (n, d) rows, which are divided by their length; a zero row stays zero.
        ends: (m, 4) of p0, p1, q0, q1.
        opposite: squared length of a sum of unit vectors under which they are opposite.
    """
    return from_numpy(_arcs(array_of(points), array_of(ends), opposite))


def solve_segments(points: Tensor, least: float, ends: Tensor) -> tuple[Tensor, Tensor]:
    """The weights (m, 4) in the nearest points of two segments; the largest square of an end."""
    weights, sq_size = _segments(array_of(points), least, array_of(ends))
    return from_numpy(weights), from_numpy(sq_size)


def solve_samples(
    points: Tensor,
    least: float,
    ends: Tensor,
    p_fractions: tuple[float, ...],
    q_fractions: tuple[float, ...],
    normalize: bool,
    similarity: bool,
    unit: bool,
) -> Tensor:
    """The weights (m, 4) in the nearest two of the points at these fractions of two pairs."""
    at = (np.array(fractions, np.float64) for fractions in (p_fractions, q_fractions))
    arrays = array_of(points), least, array_of(ends)
    return from_numpy(_samples(*arrays, *at, normalize, similarity, unit))


@njit(fastmath=ANY_ORDER, **INNER)
def _sq_distance_at(vectors, weights):
    """The square of ``w0 v0 + w1 v1 - w2 v2 - w3 v3``."""
    total = 0.0
    w0, w1, w2, w3 = weights
    for k in range(vectors.shape[1]):
        x = w0 * vectors[0, k] + w1 * vectors[1, k] - w2 * vectors[2, k] - w3 * vectors[3, k]
        total += x * x
    return total


@njit(**INNER)
def _sq_distance_of(products, weights):
    """The same from the products of the vectors: (4, 4), of which the upper half is filled."""
    total = 0.0
    for j in range(4):
        for k in range(j, 4):
            sign = 1.0 if (j < 2) == (k < 2) else -1.0
            total += sign * (1 if j == k else 2) * weights[j] * weights[k] * products[j, k]
    return total


@njit(**INNER)
def _cone(sq_sum, sq_difference, inner, least):
    """``cones.cones_of``: per_sum, per_difference, half, skew, lean."""
    per_sum = inverse_length(sq_sum, least) if abs(inner) < 0.5 else 0.0
    per_difference = inverse_length(sq_difference, _EPS * _EPS)
    half = math.atan2(per_difference * sq_difference, per_sum * sq_sum)
    lean = 0.0 if per_sum > 0 else inner / 2 * per_difference
    return per_sum, per_difference, half, inner * per_sum * per_sum, lean


@njit(**INNER)
def _on_frame(of_sum, of_difference, cone):
    return of_sum * cone[0], (of_difference - cone[3] * of_sum) * cone[1]


@njit(**INNER)
def _clamped(angle, half):
    return min(max(angle, -half), half)


@njit(**INNER)
def _answer(x, y, cone):
    return _clamped(math.atan2(y - cone[4], x - _TINY), cone[2])


@njit(**INNER)
def _weights_at(angle, cone):
    """``cones.weights_at``: of the sum and of the difference."""
    half = cone[2]
    middle, along = cone[0] * math.cos(angle), cone[1] * math.sin(angle)
    if angle <= -half or middle + along <= 8 * _EPS * (middle - along):
        return 0.5, -0.5
    if angle >= half or middle - along <= 8 * _EPS * (middle + along):
        return 0.5, 0.5
    return middle, along


@njit(**ENTRY)
def _arcs(points, ends, opposite):
    m, d = len(ends), points.shape[1]
    weights = np.empty((m, 4))
    # Sums and differences of unit endpoints, which keep the digits of near ones.
    vectors = np.empty((4, d))
    products = np.empty((4, 4))
    angles = np.empty((5, 2))
    tried = np.empty((5, 4))
    distance = np.empty(5)
    for i in range(m):
        take_rows(points, ends[i], _TINY, vectors)
        for k in range(d):
            p0, p1, q0, q1 = vectors[0, k], vectors[1, k], vectors[2, k], vectors[3, k]
            vectors[0, k], vectors[1, k] = p0 + p1, p1 - p0
            vectors[2, k], vectors[3, k] = q0 + q1, q1 - q0
        for j in range(4):
            for k in range(j, 4):
                products[j, k] = product(vectors[j], vectors[k])
        p = _cone(products[0, 0], products[1, 1], products[0, 1], opposite)
        q = _cone(products[2, 2], products[3, 3], products[2, 3], opposite)
        ss, sd, ds, dd = products[0, 2], products[0, 3], products[1, 2], products[1, 3]
        # Each end of an arc with the best answer of the other, then the top singular vectors.
        angles[0, 0], angles[1, 0] = p[2], -p[2]
        x, y = _on_frame((ss + ds) / 2, (sd + dd) / 2, q)
        angles[0, 1] = _answer(x, y, q)
        x, y = _on_frame((ss - ds) / 2, (sd - dd) / 2, q)
        angles[1, 1] = _answer(x, y, q)
        angles[2, 1], angles[3, 1] = q[2], -q[2]
        x, y = _on_frame((ss + sd) / 2, (ds + dd) / 2, p)
        angles[2, 0] = _answer(x, y, p)
        x, y = _on_frame((ss - sd) / 2, (ds - dd) / 2, p)
        angles[3, 0] = _answer(x, y, p)
        sum_x, sum_y = _on_frame(ss, sd, q)
        difference_x, difference_y = _on_frame(ds, dd, q)
        xx, yx = _on_frame(sum_x, difference_x, p)
        xy, yy = _on_frame(sum_y, difference_y, p)
        a = math.atan2(2 * (xx * yx + xy * yy), xx * xx + xy * xy - yx * yx - yy * yy - _TINY)
        a = _clamped(a / 2, p[2])
        angles[4, 0] = a
        x, y = xx * math.cos(a) + yx * math.sin(a), xy * math.cos(a) + yy * math.sin(a)
        angles[4, 1] = _answer(x, y, q)
        # By products, which tell candidates apart that differ by more than 1e-12, ...
        least_sq = np.inf
        for j in range(5):
            tried[j, 0], tried[j, 1] = _weights_at(angles[j, 0], p)
            tried[j, 2], tried[j, 3] = _weights_at(angles[j, 1], q)
            distance[j] = _sq_distance_of(products, tried[j])
            least_sq = min(least_sq, distance[j])
        nearest = np.inf
        for j in range(5):
            # ... and by differences, which tell all that float64 can.
            if distance[j] <= least_sq + _CLEAR:
                distance[j] = math.sqrt(_sq_distance_at(vectors, tried[j]))
                nearest = min(nearest, distance[j])
            else:
                distance[j] = np.inf
        best = 0
        while best < 4 and not distance[best] <= nearest + 2 * _EPS:
            best += 1
        for curve in range(2):
            middle, along = tried[best, 2 * curve], tried[best, 2 * curve + 1]
            weights[i, 2 * curve] = middle - along
            weights[i, 2 * curve + 1] = middle + along
    return weights


@njit(**ENTRY)
def _segments(points, least, ends):
    m, d = len(ends), points.shape[1]
    weights = np.empty((m, 4))
    sq_sizes = np.empty(m, points.dtype)
    rows = np.empty((4, d))
    u, v, r = np.empty(d), np.empty(d), np.empty(d)
    for i in range(m):
        take_rows(points, ends[i], least, rows)
        p0, p1, q0, q1 = rows
        # In units that leave the squares of differences in range.
        p_unit = q_unit = _TINY
        for k in range(d):
            p_unit = max(p_unit, abs(p0[k]), abs(p1[k]))
            q_unit = max(q_unit, abs(q0[k]), abs(q1[k]))
        unit = max(p_unit, q_unit)
        sq_size = 0.0
        for j in range(4):
            square = 0.0
            for k in range(d):
                x = rows[j, k] / unit
                square += x * x
            sq_size = max(sq_size, square)
        sq_sizes[i] = sq_size * unit * unit
        for k in range(d):
            u[k] = p1[k] / p_unit - p0[k] / p_unit
            v[k] = q1[k] / q_unit - q0[k] / q_unit
            r[k] = p0[k] / unit - q0[k] / unit
        p_length, q_length = math.sqrt(product(u, u)), math.sqrt(product(v, v))
        p_scale = 1 / p_length if p_length > 0 else 0.0
        q_scale = 1 / q_length if q_length > 0 else 0.0
        for k in range(d):
            u[k] *= p_scale
            v[k] *= q_scale
        p_length, q_length = p_length * (p_unit / unit), q_length * (q_unit / unit)
        uv, vr = product(u, v), product(v, r)
        # The parts of u and of r that are orthogonal to v.
        ww = wr = 0.0
        for k in range(d):
            w, across = u[k] - uv * v[k], r[k] - vr * v[k]
            ww += w * w
            wr += w * across
        # Below this w is the rounding of u and v: any x is as good as another.
        x = -wr / ww if ww > _EPS * _EPS else 0.0
        x = min(max(x, 0.0), p_length)
        y = min(max(vr + uv * x, 0.0), q_length)
        x = min(max(uv * (y - vr) - wr, 0.0), p_length)
        s = x / p_length if p_length > 0 else 0.0
        t = y / q_length if q_length > 0 else 0.0
        weights[i, 0], weights[i, 1], weights[i, 2], weights[i, 3] = 1 - s, s, 1 - t, t
    return weights, sq_sizes


@njit(**INNER)
def _sample(w1, sq0, inner, sq1, normalize, unit):
    """``scores.sample_terms`` of one point: both weights and the square."""
    w0 = 1 - w1
    own = w0 * w0 * sq0 + w1 * w1 * sq1
    sq = own + 2 * w0 * w1 * inner
    if not (normalize and w0 > 0 and w1 > 0):
        return w0, w1, sq
    if sq <= max(16 * _EPS * own, _TINY) or (unit and sq1 == 0):
        return 1.0, 0.0, sq0
    if unit and sq0 == 0:
        return 0.0, 1.0, sq1
    scale = 1 / math.sqrt(sq)
    return w0 * scale, w1 * scale, sq * scale * scale


@njit(**ENTRY)
def _samples(points, least, ends, p_fractions, q_fractions, normalize, similarity, unit):
    m, d = len(ends), points.shape[1]
    weights = np.empty((m, 4))
    rows = np.empty((4, d))
    products = np.empty((4, 4))
    nearness = np.empty((len(p_fractions), len(q_fractions)))
    for i in range(m):
        take_rows(points, ends[i], least, rows)
        for j in range(4):
            for k in range(j, 4):
                products[j, k] = product(rows[j], rows[k])
        most, size = -np.inf, 0.0
        for j in range(4):
            size = max(size, products[j, j])
        for j in range(len(p_fractions)):
            w0, w1, sq_p = _sample(
                p_fractions[j], products[0, 0], products[0, 1], products[1, 1], normalize, unit
            )
            at0 = w0 * products[0, 2] + w1 * products[1, 2]
            at1 = w0 * products[0, 3] + w1 * products[1, 3]
            for k in range(len(q_fractions)):
                v0, v1, sq_q = _sample(
                    q_fractions[k], products[2, 2], products[2, 3], products[3, 3], normalize, unit
                )
                inner = at0 * v0 + at1 * v1
                nearness[j, k] = inner if similarity else min(2 * inner - sq_p - sq_q, 0.0)
                most = max(most, nearness[j, k])
        # The first of those that are equally near but for rounding.
        best = 0
        while not nearness.flat[best] >= most - 8 * _EPS * size and best < nearness.size - 1:
            best += 1
        w0, w1, _ = _sample(
            p_fractions[best // len(q_fractions)],
            products[0, 0],
            products[0, 1],
            products[1, 1],
            normalize,
            unit,
        )
        v0, v1, _ = _sample(
            q_fractions[best % len(q_fractions)],
            products[2, 2],
            products[2, 3],
            products[3, 3],
            normalize,
            unit,
        )
        weights[i, 0], weights[i, 1], weights[i, 2], weights[i, 3] = w0, w1, v0, v1
    return weights
