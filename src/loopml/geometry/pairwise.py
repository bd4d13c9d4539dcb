"""All curves of one set against all of another, measured and differentiable.

The (p, q) distances come from inner products of endpoints in float64, so nothing has the shape
(p, q, d), and blocks of rows bound the (p, q) temporaries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from loopml._checks import check_endpoints, check_same_length
from loopml.geometry.arcs import check_directions, sum_and_difference
from loopml.geometry.cones import (
    Cones,
    candidates,
    choose,
    fraction_of,
    frame_products,
    least_square,
    lengths_of,
)
from loopml.geometry.evaluate import distance_of, wide
from loopml.geometry.recompute import recomputed
from loopml.geometry.segments import measure_segments

# Entries of one (rows, q) temporary; a few dozen of them live at once.
_BLOCK = 1 << 15


def pairwise_segment_distance(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    """The minimum distance between each of p segments and each of q segments.

    Args:
        p0: (p, d) starts of the first segments.
        p1: (p, d) their ends.
        q0: (q, d) starts of the second segments.
        q1: (q, d) their ends.

    Returns:
        (p, q) Euclidean distances, differentiable, in the dtype of the arguments.

    Raises:
        TypeError: an argument is no floating point tensor, or the dtypes differ.
        ValueError: the shapes do not fit, or a value is NaN or infinite.

    Gradient:
        The envelope form of :func:`closest_on_segments`; 0 where the distance is within rounding
        (1.2e-7 of the size of the centred points) of 0.

    Precision:
        Inner products in float64: 1e-7 of the size of the centred points. For the last digits of
        a small distance use :func:`segment_distance`.

    Source:
        As :func:`closest_on_segments`.

    Example:
        >>> import torch
        >>> p0, p1 = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
        >>> q0, q1 = torch.tensor([[0.5, 2.0], [4.0, 0.0]]), torch.tensor([[0.5, 3.0], [5.0, 0.0]])
        >>> pairwise_segment_distance(p0, p1, q0, q1).round(decimals=6)
        tensor([[2., 3.]])
    """
    _check_sets(p0, p1, q0, q1)
    return _in_blocks(_all_segments, *(wide(x) for x in (p0, p1, q0, q1))).to(p0.dtype)


def pairwise_arc_distance(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    """The minimum chord distance between each of p great-circle arcs and each of q arcs.

    Args:
        p0: (p, d) starts of the first arcs, as directions: they are divided by their lengths.
        p1: (p, d) their ends.
        q0: (q, d) starts of the second arcs.
        q1: (q, d) their ends.

    Returns:
        (p, q) distances in [0, 2], differentiable, in the dtype of the arguments.

    Raises:
        TypeError: an argument is no floating point tensor, or the dtypes differ.
        ValueError: the shapes do not fit, a vector is zero, or a value is NaN or infinite.

    Gradient:
        The envelope form of :func:`closest_on_arcs`; 0 where the distance is under 1.2e-7, which
        is rounding.

    Precision:
        Inner products in float64: 1e-7 absolute. For the last digits of a small distance use
        :func:`arc_distance`.

    Source:
        As :func:`closest_on_arcs`.

    Example:
        >>> import torch
        >>> x, y, z = torch.eye(3).split(1)
        >>> pairwise_arc_distance(x, y, torch.cat([z, x + z]), torch.cat([z, x - z]))
        tensor([[1.4142, 0.0000]])
    """
    _check_sets(p0, p1, q0, q1)
    check_directions({"p0": p0, "p1": p1, "q0": q0, "q1": q1})
    return _in_blocks(_all_arcs, *(wide(x) for x in (p0, p1, q0, q1))).to(p0.dtype)


def _check_sets(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> None:
    check_endpoints({"p0": p0, "p1": p1, "q0": q0, "q1": q1}, ndim=2)
    check_same_length({"p0": p0, "p1": p1})
    check_same_length({"q0": q0, "q1": q1})


def _in_blocks(
    measure: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    p0: Tensor,
    p1: Tensor,
    q0: Tensor,
    q1: Tensor,
) -> Tensor:
    rows = max(1, _BLOCK // max(1, q0.numel()))
    blocks = zip(torch.split(p0, rows), torch.split(p1, rows), strict=True)
    return torch.cat([recomputed(measure, block0, block1, q0, q1) for block0, block1 in blocks])


def _all_segments(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    return measure_segments(p0.unsqueeze(1), p1.unsqueeze(1), q0, q1)[2]


def _all_arcs(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    p, q = _axes(sum_and_difference(p0, p1)), _axes(sum_and_difference(q0, q1))
    a, b = _nearest_angles(p, q)
    on_p = _points(a, *p.unit)  # (rows, q, d)
    on_q = _points(b.T, *q.unit).transpose(0, 1)
    return distance_of(on_p - on_q, sq_size=1)


def _points(angle: Tensor, middle: Tensor, along: Tensor) -> Tensor:
    """The points at angles (p, q) from the middles of p arcs: (p, q, d)."""
    return torch.stack([angle.cos(), angle.sin()], -1) @ torch.stack([middle, along], 1)


def arc_cosines(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    """The largest inner product of a point on each of p arcs with one on each of q: (p, q).

    Takes float64 unit vectors (p, d) and (q, d) as they are, and stores (p, q) temporaries.
    """
    p, q = _axes((p0 + p1, p1 - p0)), _axes((q0 + q1, q1 - q0))
    a, b = _nearest_angles(p, q)
    (xx, xy), (yx, yy) = ([x @ y.T for y in q.unit] for x in p.unit)
    inner = a.cos() * (xx * b.cos() + xy * b.sin()) + a.sin() * (yx * b.cos() + yy * b.sin())
    # Squares of the points: 1 but for rounding, and far less only where an endpoint is a zero row.
    p_skew, q_skew = (x.mul(y).sum(1) for x, y in (p.unit, q.unit))
    sq_p, sq_q = 1 + (2 * a).sin() * p_skew.unsqueeze(1), 1 + (2 * b).sin() * q_skew
    return inner / (sq_p.clamp(min=0.5) * sq_q.clamp(min=0.5)).sqrt()


class _Axes(NamedTuple):
    """Arcs as angles on either side of their middles, with the vectors that span them."""

    cones: Cones  # (p, 1) each
    vectors: tuple[Tensor, Tensor]  # (p, d) each: the sum of the endpoints and their difference
    unit: tuple[Tensor, Tensor]  # the middle and the direction towards the end


def _axes(vectors: tuple[Tensor, Tensor]) -> _Axes:
    total, difference = vectors
    sq_total, sq_difference = (x.square().sum(1, keepdim=True) for x in vectors)
    per = lengths_of(sq_total, sq_difference, least_square(total.dtype))
    x, y = per[0] * sq_total, per[1] * sq_difference
    # Between two zero rows of a batch there is no angle, and torch 2.4 has a NaN for its gradient.
    half = torch.atan2(y, x.masked_fill(x + y == 0, 1))
    inner = (total * difference).sum(1, keepdim=True)
    skew = torch.where(inner.abs() < 0.5, inner * per[0] ** 2, 0)  # not beside a zero row
    unit = total * per[0], (difference - skew * total) * per[1]
    return _Axes(Cones(per, half, skew, lean=0), vectors, unit)


def _nearest_angles(p: _Axes, q: _Axes) -> tuple[Tensor, Tensor]:
    """Angles (p, q) from the middles of both arcs; they move as their ends do."""
    of_p, (per, half, skew, _) = p.cones, q.cones
    of_q = Cones(per.mT, half.mT, skew.mT, lean=0)
    with torch.no_grad():
        products = torch.stack([torch.stack([x @ y.T for y in q.vectors]) for x in p.vectors])
        a, b = candidates(products, of_p, of_q)
        xx, xy, yx, yy = frame_products(products, of_p, of_q)
        # How much less than that of the middles the cosine is. Those of arcs 1e-8 long differ by
        # 1e-16, which is their rounding, but this does not. 1 - cos a is also 2 sin^2 (a / 2).
        less_a, less_b = 2 * (a / 2).sin() ** 2, 2 * (b / 2).sin() ** 2
        less = xx * (less_a + less_b - less_a * less_b)
        less = less - xy * b.sin() * (1 - less_a) - a.sin() * (yx * (1 - less_b) + yy * b.sin())
        a, b = choose(less, less.abs().amax(0), a, b)
        s, t = fraction_of(a, of_p.half), fraction_of(b, of_q.half)
    # An end of an arc stays one.
    return (2 * s - 1) * of_p.half, (2 * t - 1) * of_q.half
