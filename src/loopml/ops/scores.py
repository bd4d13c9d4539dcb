r"""How near curves come to each other, from inner products of their endpoints alone.

The search needs, for many pairs of curves, how near the two come. All of it follows from the inner
products of the endpoints, so nothing here has a (b, c, d) tensor. A *score* ranks: higher is
nearer. Scores are differences of Gram entries, whose rounding puts an error of about sqrt(eps) on a
small distance, so a score chooses and is never returned as a distance. Each is the score of a point
that the curve has, so rounding cannot make a curve look nearer than it is (but for arcs of nearly
half a circle, of whose middle a Gram matrix knows few digits), and an edge is computed from the
three rows it involves alone, so that curves which share their nearest endpoint tie bit for bit.

Formulas of distances alone (segments; samples without ``normalize`` or ``similarity``) do not see
where the origin is. They take minus half the squared distances of all points, with a zero diagonal,
as a Gram matrix: each entry is then a difference of its own two rows, and no far row costs digits.

What is known of each curve alone are its *terms*, a tensor (t, ..., p). A score function takes
``corner``, the inner products of both ends of one curve with both ends of the other, (2, 2, ...),
and the terms of both, which broadcast over its trailing axes: so the same code scores a grid of
curves and a list of pairs of curves. It is written without masks where it can be: on a CPU a masked
fill takes as long as ten multiplications.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from loopml._types import Pairs, Side
from loopml.geometry.cones import inverse_length
from loopml.geometry.lengths import numbers


def rounding(dtype: torch.dtype) -> float:
    """The share of the squares of two vectors under which the square of their sum is rounding.

    32 eps: of unit vectors, sums and differences shorter than 2.0e-3 in float32 and 8.4e-8 in
    float64. What a Gram matrix says of the direction of a shorter one is mostly noise.
    """
    return 32 * torch.finfo(dtype).eps


def own_products(side: Side, square: Tensor) -> Tensor:
    """The products of the ends of p curves with themselves: (3, p).

    Of the first end with itself, of both, of the second with itself.

    Args:
        side: the curves.
        square: of the points that their ends are.
    """
    first, second, _ = side.pairs
    return torch.stack([square.index_select(0, first), side.inner, square.index_select(0, second)])


def grid_corners(inner: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
    """Products of the ends of b row curves with the ends of c column curves: (2, 2, b, c)."""
    index = torch.cat([cols.first, cols.second])
    ends = inner.index_select(0, torch.cat([rows.first, rows.second]))
    return ends.index_select(1, index).view(2, len(rows.first), 2, len(cols.first)).transpose(1, 2)


def listed_corners(inner: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
    """Products of the ends of m row curves with the ends of their column curves: (2, 2, m)."""
    p, q = torch.stack([rows.first, rows.second]), torch.stack([cols.first, cols.second])
    return inner[p.unsqueeze(1), q]


class ArcTerms(NamedTuple):
    """The terms of arcs: (p,) each, or with axes that broadcast."""

    cos_half: Tensor
    sin_half: Tensor
    per_middle: Tensor  # 1 / |p0 + p1|, 0 where the endpoints are opposite
    per_along: Tensor  # 1 / |p1 - p0|, 0 where they coincide
    per_sin: Tensor  # 1 / sin of the arc's angle, 0 where the arc is its endpoints alone
    cot: Tensor


def arc_terms(own: Tensor) -> Tensor:
    """Terms of arcs (6, p) from the :func:`own_products` of their ends."""
    sq0, cos, sq1 = own
    sq_sum, twice_cos = sq0 + sq1, 2 * cos
    sq = torch.stack([sq_sum + twice_cos, sq_sum - twice_cos])
    # Without a middle or a direction, the endpoints stand for the arc.
    per = inverse_length(sq, rounding(own.dtype))
    (cos_half, sin_half), (per_middle, per_along) = per * sq / 2, per
    per_sin = 2 * per_middle * per_along
    return torch.stack(
        ArcTerms(cos_half, sin_half, per_middle, per_along, per_sin, cot=cos * per_sin)
    )


class SampleTerms(NamedTuple):
    """The terms of sampled points: (k, p) each, or with axes that broadcast."""

    weight0: Tensor  # of the first endpoint in each point
    weight1: Tensor  # of the second
    square: Tensor  # of the point


class Reach(NamedTuple):
    """How products with the points of a curve follow from those with its ends: (p,) each.

    A point of a curve is a sum of its ends with weights of at least 0, so a product with the point
    is at most as large as that with one of the ends, times what the weights add up to.
    """

    share: Tensor  # 1 / the most that weights add up to, squared where scores are squares; under 1
    spread: Tensor  # 1 / the least that they add up to, which counts for negative products; over 1
    noise: Tensor  # how many roundings of a product with an end are in one with a point


def arc_reach(terms: Tensor) -> Reach:
    """The reach of arcs, from their terms.

    Weights add up to 1 at the ends and to 1 / cos of half the angle in the middle; opposite
    endpoints are the whole curve.
    """
    arc = ArcTerms(*terms)
    share = torch.where(arc.per_middle > 0, arc.cos_half * arc.cos_half, 1)
    return Reach(share, torch.ones_like(share), arc.per_middle.clamp(min=1))


def arc_to_points(first: Tensor, second: Tensor, terms: Tensor) -> Tensor:
    r"""The largest inner product of a point on an arc with a given point, squared with its sign.

    With h the larger and l the smaller of the point's products with the two ends, the arc comes
    nearest between its ends exactly if the part of the point that is orthogonal to the nearer end
    leans towards the other, and the square is ``h^2 + max(0, (l - h cos) / sin)^2``.

    Args:
        first: (...) products of the points with one end.
        second: (...) products with the other end.
        terms: of the arcs; they broadcast.
    """
    arc = ArcTerms(*terms)
    larger = torch.maximum(first, second)
    towards = torch.minimum(first, second).mul_(arc.per_sin)
    towards.addcmul_(larger, arc.cot, value=-1).clamp_(min=0)
    return larger.abs().mul_(larger).addcmul_(towards, towards)


def root(sq: Tensor) -> Tensor:
    """The inner product whose square, with its sign, is ``sq``."""
    return torch.copysign(sq.abs().sqrt_(), sq)


def arc_scores(corner: Tensor, p_terms: Tensor, q_terms: Tensor) -> Tensor:
    """The largest inner product of points on two arcs, squared with its sign.

    The largest of the four corners, four edges and the interior, without trigonometry: the
    interior counts only where its points lie on both arcs.
    """
    p_edges = arc_to_points(corner[0], corner[1], p_terms)
    edges = torch.maximum(p_edges, arc_to_points(corner[:, 0], corner[:, 1], q_terms))
    p, q = ArcTerms(*p_terms), ArcTerms(*q_terms)
    edge = torch.maximum(edges[0], edges[1])
    # Interior: the top left singular vector u of M, and its best answer v = M^T u.
    x, y = (corner[0] + corner[1]) * p.per_middle, (corner[1] - corner[0]) * p.per_along
    xx, xy = (x[0] + x[1]) * q.per_middle, (x[1] - x[0]) * q.per_along
    yx, yy = (y[0] + y[1]) * q.per_middle, (y[1] - y[0]) * q.per_along
    ux = torch.addcmul(xx * xx, xy, xy).addcmul_(yx, yx, value=-1).addcmul_(yy, yy, value=-1)
    uy = torch.addcmul(xx * yx, xy, yy).mul_(2)
    # No hypot: its last bit depends on where in memory a number is, and so would ties.
    ux += torch.addcmul(ux * ux, uy, uy).sqrt_()
    vx, vy = torch.addcmul(xx * ux, yx, uy), torch.addcmul(xy * ux, yy, uy)
    # Positive where a vector is outside of its cone, zero where there is no vector or no cone.
    off_p = torch.addcmul(uy.abs() * p.cos_half, ux, p.sin_half, value=-1)
    off_q = torch.addcmul(vy.abs() * q.cos_half, vx, q.sin_half, value=-1)
    inside = torch.maximum(off_p, off_q) < 0
    # Where the square of u underflows, all products are as good as zero.
    sq_u = torch.addcmul(ux * ux, uy, uy).clamp_(min=torch.finfo(ux.dtype).tiny)
    interior = torch.addcmul(vx * vx, vy, vy) / sq_u
    return torch.where(inside, torch.maximum(edge, interior), edge)


class SegmentTerms(NamedTuple):
    """The terms of segments: (p,) each, or with axes that broadcast."""

    sq0: Tensor
    sq1: Tensor
    sq_length: Tensor
    per_sq_length: Tensor  # 0 on a segment without length


def segment_terms(own: Tensor) -> Tensor:
    """Terms of segments (4, p) from the :func:`own_products` of their ends."""
    sq0, inner, sq1 = own
    sq_length = (sq0 + sq1 - 2 * inner).clamp(min=0)
    # Under this the length is rounding, and the endpoints stand for the segment.
    noise = rounding(own.dtype) * torch.maximum(sq0, sq1)
    noise = noise.clamp(min=torch.finfo(own.dtype).tiny)  # whose inverse is a number
    sq_length = torch.where(sq_length > noise, sq_length, 0)
    per_sq_length = torch.where(sq_length > 0, 1 / sq_length, 0)
    return torch.stack(SegmentTerms(sq0, sq1, sq_length, per_sq_length))


def sq_to_segment(sq_to0: Tensor, sq_to1: Tensor, segment: SegmentTerms) -> Tensor:
    """Squared distance of a point to a segment, from its squared distances to both ends."""
    fraction = ((sq_to0 - sq_to1) * segment.per_sq_length).add_(1).mul_(0.5).clamp_(0, 1)
    rest = 1 - fraction
    # To the last bit the distance to an end where that is the nearest.
    mean = torch.addcmul(rest * sq_to0, fraction, sq_to1)
    return mean.addcmul_(fraction.mul_(rest), segment.sq_length, value=-1)


def segment_to_points(first: Tensor, second: Tensor, square: Tensor, terms: Tensor) -> Tensor:
    """Minus the squared distance of a segment to given points.

    Args:
        first: (...) products of the points with one end.
        second: (...) products with the other end.
        square: squares of the points; they broadcast.
        terms: of the segments; they broadcast.
    """
    segment = SegmentTerms(*terms)
    sq_to = torch.add(segment.sq0 + square, first, alpha=-2)
    return -sq_to_segment(sq_to, torch.add(segment.sq1 + square, second, alpha=-2), segment)


def segment_scores(corner: Tensor, p_terms: Tensor, q_terms: Tensor) -> Tensor:
    """Minus the squared distance of two segments: the least of four edges and the interior."""
    p, q = SegmentTerms(*p_terms), SegmentTerms(*q_terms)
    sq00, sq01 = p.sq0 + q.sq0 - 2 * corner[0, 0], p.sq0 + q.sq1 - 2 * corner[0, 1]
    sq10, sq11 = p.sq1 + q.sq0 - 2 * corner[1, 0], p.sq1 + q.sq1 - 2 * corner[1, 1]
    edge = torch.minimum(sq_to_segment(sq00, sq10, p), sq_to_segment(sq01, sq11, p))
    edge = torch.minimum(edge, sq_to_segment(sq00, sq01, q))
    edge = torch.minimum(edge, sq_to_segment(sq10, sq11, q))
    # With m the difference of the middles and u, v the two segments as vectors:
    uv = (sq01 + sq10 - sq00 - sq11) / 2
    um = (sq10 + sq11 - sq00 - sq01) / 4
    vm = (sq00 + sq10 - sq01 - sq11) / 4
    sq_middles = (sq00 + sq01 + sq10 + sq11 - p.sq_length - q.sq_length) / 4
    det = p.sq_length * q.sq_length - uv * uv
    # |m + x u - y v|^2 is least at this x, and for any x at this y: so an error in x, which is
    # large where the segments are nearly parallel, costs its square.
    x = (uv * vm - um * q.sq_length) / det
    y = (vm + x * uv) * q.per_sq_length
    inside = (det > 0) & (torch.maximum(x.abs(), y.abs()) < 0.5)
    interior = sq_middles + x * um - y * vm
    return -torch.where(inside, torch.minimum(edge, interior), edge).clamp_(min=0)


def sample_terms(
    own: Sequence[Tensor] | Tensor,
    fractions: Sequence[float],
    normalize: bool,
    unit: bool = False,
) -> Tensor:
    """Terms of the points at ``fractions`` between two endpoints: (3, k, p).

    The weights of the first endpoint and of the second in each point, and its square.

    An interior point is divided by its length where ``normalize`` says so. One without a direction,
    between opposite endpoints or shorter than rounding can tell, is the first endpoint.

    Args:
        own: the :func:`own_products` of the endpoints, (p,) each.
        fractions: k numbers in [0, 1].
        normalize: whether points between the ends are divided by their length.
        unit: whether endpoints are unit vectors or zero. What is between zero and another is then
            that endpoint.
    """
    sq0, inner, sq1 = own
    w1 = numbers(fractions, like=sq0).unsqueeze(1)  # (k, 1)
    w0 = 1 - w1
    own = w0 * w0 * sq0 + w1 * w1 * sq1
    sq = own + 2 * w0 * w1 * inner
    if not normalize:
        return torch.stack(SampleTerms(w0.expand_as(sq), w1.expand_as(sq), square=sq))
    between = (w0 > 0) & (w1 > 0)
    # The same threshold as for arcs, where both weights are 1/2.
    none = sq <= (rounding(sq.dtype) / 2 * own).clamp(min=torch.finfo(sq.dtype).tiny)
    first, second = between & none, torch.zeros_like(none)
    if unit:
        first, second = first | (between & (sq1 == 0)), between & (sq0 == 0) & (sq1 > 0)
    scale = torch.where(between & ~none, sq, 1).rsqrt()
    weights = (w0 * scale).masked_fill(first, 1), (w1 * scale).masked_fill(first, 0)
    w0, w1 = weights[0].masked_fill(second, 0), weights[1].masked_fill(second, 1)
    square = torch.where(first, sq0, torch.where(second, sq1, sq * scale * scale))
    return torch.stack(SampleTerms(w0, w1, square))


def sample_reach(terms: Tensor) -> Reach:
    """The reach of sampled pairs, from their terms.

    A point between two rows longer than 1 has, normalised, weights that add up to less than 1.
    """
    total = terms[0] + terms[1]
    # The ends are points of every curve.
    most, least = total.amax(0).clamp(min=1), total.amin(0).clamp(max=1)
    return Reach(1 / most, 1 / least, most)


def samples_to_points(first: Tensor, second: Tensor, terms: Tensor) -> Tensor:
    """The largest inner product of the samples of a pair with a given point.

    Args:
        first: (...) products of the points with one end.
        second: (...) products with the other end.
        terms: of the samples; they broadcast.
    """
    w0, w1 = terms[0], terms[1]
    best = (first * w0[0]).addcmul_(second, w1[0])
    for k in range(1, len(w0)):
        torch.maximum(best, (first * w0[k]).addcmul_(second, w1[k]), out=best)
    return best


def sample_distances_to_points(
    first: Tensor, second: Tensor, square: Tensor, terms: Tensor
) -> Tensor:
    """Minus the least squared distance of the samples of a pair to given points.

    Args:
        first: (...) products of the points with one end.
        second: (...) products with the other end.
        square: squares of the points; they broadcast.
        terms: of the samples, with their squares; they broadcast.
    """
    nearness = [
        (first * w0).addcmul_(second, w1).mul_(2).sub_(sq)
        for w0, w1, sq in terms.transpose(0, 1).unbind()
    ]
    best: Tensor = nearness[0]
    for other in nearness[1:]:
        torch.maximum(best, other, out=best)
    return best.sub_(square).clamp_(max=0)


def sample_nearness(corner: Tensor, p_terms: Tensor, q_terms: Tensor, similarity: bool) -> Tensor:
    """The score of each of k sampled points of one pair with each of l of the other: (k, l, ...).

    It is their inner product under ``similarity``, for which weights are terms enough, else minus
    their squared distance.
    """
    p_terms = p_terms.unsqueeze(2)  # (t, k, 1, ...)
    at_ends = p_terms[0] * corner[0] + p_terms[1] * corner[1]  # (k, 2, ...)
    inner: Tensor = at_ends[:, :1] * q_terms[0] + at_ends[:, 1:] * q_terms[1]
    if similarity:
        return inner
    return (2 * inner - p_terms[2] - q_terms[2]).clamp(max=0)


def sample_scores(corner: Tensor, p_terms: Tensor, q_terms: Tensor, similarity: bool) -> Tensor:
    """The highest score over the sampled points of two pairs."""
    return sample_nearness(corner, p_terms, q_terms, similarity).amax((0, 1))
