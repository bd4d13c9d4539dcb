"""All curves of one set against all of another, measured and differentiable.

Most of the (p, q) distances come from inner products of endpoints in float64. Where products have
lost too much for the two curves at hand, these are measured again from differences (all are where
values cannot be read, as on a GPU). Blocks of rows bound the temporaries, and are computed again
for the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from loopml._checks import check_endpoints, check_same_length, values_readable
from loopml.geometry.arcs import check_directions, measure_arcs
from loopml.geometry.cones import (
    Cones,
    candidates,
    choose,
    fraction_of,
    frame_products,
    least_square,
    lengths_of,
)
from loopml.geometry.lengths import normalized, over
from loopml.geometry.packing import wide
from loopml.geometry.recompute import recomputed
from loopml.geometry.segments import length_and_direction, measure_segments

# Numbers in the vectors of the pairs in a block, if all of them have to be measured.
_BLOCK = 1 << 20
# A squared distance that is a smaller part of what was added up for it is measured again from the
# difference: of the others rounding leaves 1e-9.
_NEAR = 2.0**-20
# As are segments of a smaller squared sine, ...
_PARALLEL = 1e-4
# ... and arcs of whose ends the sum is shorter than 0.01.
_NEARLY_OPPOSITE = 1e-4


def pairwise_segment_distance(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    """The minimum distance between each of p segments and each of q segments.

    Args:
        p0: (p, d) starts of the first segments.
        p1: (p, d) ends of the first segments.
        q0: (q, d) starts of the second segments.
        q1: (q, d) ends of the second segments.

    Returns:
        (p, q) Euclidean distances, differentiable, in the dtype of the arguments.

    Raises:
        TypeError: an argument is no floating point tensor, or the dtypes differ.
        ValueError: the shapes do not fit, or a value is NaN or infinite.

    Gradient:
        As :func:`closest_on_segments`.

    Precision:
        Computed in float64. The error of a distance is at most 1e-8 of the distance, or 1e-15 of
        the size of its own two segments if that is more. Other segments do not change it.

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
    """The minimum Euclidean distance between each of p great-circle arcs and each of q arcs.

    Args:
        p0: (p, d) starts of the first arcs. They are directions: their lengths do not matter.
        p1: (p, d) ends of the first arcs.
        q0: (q, d) starts of the second arcs.
        q1: (q, d) ends of the second arcs.

    Returns:
        (p, q) distances in [0, 2], differentiable, in the dtype of the arguments.

    Raises:
        TypeError: an argument is no floating point tensor, or the dtypes differ.
        ValueError: the shapes do not fit, a vector is zero, or a value is NaN or infinite.

    Gradient:
        As :func:`closest_on_arcs`, with one exception.

        - Equal ends: half of the gradient goes to each of the two.

    Precision:
        Computed in float64. The error of a distance is at most 1e-8 of the distance, or 1e-15 if
        that is more.

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
    size = max(1, _BLOCK // max(1, q0.numel()))
    blocks = zip(torch.split(p0, size), torch.split(p1, size), strict=True)
    return torch.cat([recomputed(measure, block0, block1, q0, q1) for block0, block1 in blocks])


def _all_segments(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    if not values_readable(p0):
        return measure_segments(p0.unsqueeze(1), p1.unsqueeze(1), q0, q1)[2]
    # Distances do not change, and the rounding of products shrinks to the spread.
    center = torch.cat([p0, p1, q0, q1]).detach().mean(0)
    sq, sure = _segments_by_products(*(x - center for x in (p0, p1, q0, q1)))
    i, j = (~sure).nonzero(as_tuple=True)
    return _with_measured(sq, sure, measure_segments(p0[i], p1[i], q0[j], q1[j])[2])


def _segments_by_products(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances (p, q), and which of them the products of the endpoints are enough for."""
    with torch.no_grad():
        p_length, u = length_and_direction(p1 - p0)  # (p, 1), (p, d)
        q_length, v = length_and_direction(q1 - q0)
        q_length = q_length.T
        uv, ur = u @ v.T, (u * p0).sum(1, keepdim=True) - u @ q0.T
        vr = p0 @ v.T - (v * q0).sum(1)
        ww = 1 - uv * uv  # of the part of u that is orthogonal to v
        parallel = (ww <= _PARALLEL) & (p_length > 0) & (q_length > 0)
        x = ((uv * vr - ur) / ww.clamp(min=_PARALLEL)).clamp(min=0)
        y = torch.minimum((vr + uv * torch.minimum(x, p_length)).clamp(min=0), q_length)
        x = torch.minimum((uv * y - ur).clamp(min=0), p_length)
        s, t = over(x, p_length), over(y, q_length)
        p_size, q_size = (
            torch.stack(endpoints).square().sum(-1).amax(0) for endpoints in ((p0, p1), (q0, q1))
        )
        size = torch.maximum(p_size.unsqueeze(1), q_size)
    inner = (1 - s) * ((1 - t) * (p0 @ q0.T) + t * (p0 @ q1.T))
    inner = inner + s * ((1 - t) * (p1 @ q0.T) + t * (p1 @ q1.T))
    sq = _sq_on_segment(s, p0, p1, (-1, 1)) + _sq_on_segment(t, q0, q1, (1, -1)) - 2 * inner
    # Products that over- or underflow are not enough either.
    sure = (sq.detach() > _NEAR * size) & (size > 1e-290) & ~parallel
    return sq, sure


def _sq_on_segment(s: Tensor, p0: Tensor, p1: Tensor, shape: tuple[int, int]) -> Tensor:
    """Squares of the points at ``s`` (p, q), where ``shape`` is (p, 1) or (1, q)."""
    sq0, inner, sq1 = ((a * b).sum(1).view(shape) for a, b in ((p0, p0), (p0, p1), (p1, p1)))
    return (1 - s) ** 2 * sq0 + 2 * s * (1 - s) * inner + s**2 * sq1


def _all_arcs(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    if not values_readable(p0):
        endpoints = torch.broadcast_tensors(p0.unsqueeze(1), p1.unsqueeze(1), q0, q1)  # type: ignore[no-untyped-call]
        return measure_arcs(torch.stack(endpoints, -2)).distance
    units = [normalized(x) for x in (p0, p1, q0, q1)]
    sq = 2 - 2 * arc_cosines(*units)
    with torch.no_grad():
        p_sum, q_sum = ((units[i] + units[i + 1]).square().sum(1) for i in (0, 2))
        known = torch.minimum(p_sum.unsqueeze(1), q_sum) > _NEARLY_OPPOSITE
        sure = (sq > _NEAR) & known
    i, j = (~sure).nonzero(as_tuple=True)
    measured = measure_arcs(torch.stack([p0[i], p1[i], q0[j], q1[j]], 1)).distance
    return _with_measured(sq, sure, measured)


def _with_measured(sq: Tensor, sure: Tensor, measured: Tensor) -> Tensor:
    """The roots of ``sq`` (p, q) where it is ``sure``, and the ``measured`` distances elsewhere."""
    roots = torch.where(sure, torch.where(sure, sq, 1).sqrt(), 0)
    return roots.masked_scatter(~sure, measured)


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
        # How much less the cosine is than the middles' cosine. Cosines of arcs 1e-8 long differ by
        # 1e-16, which is their rounding, but this does not. 1 - cos a is also 2 sin^2 (a / 2).
        less_a, less_b = 2 * (a / 2).sin() ** 2, 2 * (b / 2).sin() ** 2
        less = xx * (less_a + less_b - less_a * less_b)
        less = less - xy * b.sin() * (1 - less_a) - a.sin() * (yx * (1 - less_b) + yy * b.sin())
        a, b = choose(less, less.abs().amax(0), a, b)
        s, t = fraction_of(a, of_p.half), fraction_of(b, of_q.half)
    # An end of an arc stays one.
    return (2 * s - 1) * of_p.half, (2 * t - 1) * of_q.half
