r"""Every curve against every curve, from inner products of their endpoints alone.

The search needs, for a block of b curves against c curves, how near each two come. All of it
follows from the inner products of the endpoints, so nothing here has a (b, c, d) tensor. The
*scores* rank: lower is nearer. They are differences of Gram entries, whose rounding puts an error
of about sqrt(eps) on a small distance, so a score chooses and is never returned as a distance.
Each is the score of a point that the curve has, so rounding cannot make a curve look nearer than
it is, and an edge is computed from the three rows it involves alone, so that curves which share
their nearest endpoint tie bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from loopml._types import Pairs
from loopml.geometry.arcs import Cone, Span, span


def corners(gram: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
    """Inner products of both ends of b row curves with both ends of c column curves: (2, b, 2, c).

    ``corners[i, :, j]`` is the (b, c) block of end i with end j.
    """
    index = torch.cat([cols.first, cols.second])
    block = gram[torch.cat([rows.first, rows.second])][:, index]
    return block.view(2, len(rows.first), 2, len(cols.first))


def arc_spans(gram: Tensor, pairs: Pairs) -> Span:
    """Spans of the arcs that ``pairs`` names: (p,)."""
    square = gram.diagonal()
    sq_sum = square[pairs.first] + square[pairs.second]
    twice = 2 * gram[pairs.first, pairs.second]
    # Under this a length is rounding, and the endpoints stand for the arc.
    return span(sq_sum + twice, sq_sum - twice, least=32 * torch.finfo(gram.dtype).eps)


def as_rows(spans: Span) -> Span:
    """The same with a trailing axis, for curves that are the rows of a block: (b, 1)."""
    cone = Cone(*(x.unsqueeze(1) for x in spans.cone))
    return Span(cone, spans.per_middle.unsqueeze(1), spans.per_along.unsqueeze(1))


def sq_inside(x: Tensor, y: Tensor, cone: Cone) -> Tensor:
    """Squared inner product of (x, y) with its direction, -1 where the cone does not hold that."""
    outside = y.abs() * cone.cos_half >= x * cone.sin_half
    return (x * x + y * y).masked_fill_(outside, -1)


def arc_scores(corner: Tensor, p: Span, q: Span) -> Tensor:
    """Minus the largest inner product of points on each row arc and each column arc: (b, c).

    The largest of the four corners, four edges and the interior, without trigonometry: a value
    counts only where its point lies on both arcs.

    Args:
        corner: (2, b, 2, c) products of the ends.
        p: spans of the row arcs, (b, 1).
        q: spans of the column arcs, (c,).
    """
    best = torch.maximum(corner[0], corner[1])  # (b, 2, c)
    best = torch.maximum(best[:, 0], best[:, 1])
    # Edges: the arc of p against each end of q, then each end of p against the arc of q.
    p_edge = Span(Cone(*(x.unsqueeze(1) for x in p.cone)), *(x.unsqueeze(1) for x in p[1:]))
    x = (corner[0] + corner[1]) * p_edge.per_middle  # (b, 2, c)
    y = (corner[1] - corner[0]) * p_edge.per_along
    sq_edge = sq_inside(x, y, p_edge.cone)
    sq_best = torch.maximum(sq_edge[:, 0], sq_edge[:, 1])
    end, other = corner[:, :, 0], corner[:, :, 1]  # (2, b, c)
    sq_edge = sq_inside((end + other) * q.per_middle, (other - end) * q.per_along, q.cone)
    sq_best = torch.maximum(sq_best, torch.maximum(sq_edge[0], sq_edge[1]))
    # Interior: the top left singular vector u of M, and its best answer v = M^T u.
    xx, xy = (x[:, 0] + x[:, 1]) * q.per_middle, (x[:, 1] - x[:, 0]) * q.per_along
    yx, yy = (y[:, 0] + y[:, 1]) * q.per_middle, (y[:, 1] - y[:, 0]) * q.per_along
    cosine = (xx * xx + xy * xy) - (yx * yx + yy * yy)
    uy = 2 * (xx * yx + xy * yy)
    ux = torch.hypot(cosine, uy) + cosine
    off_p = uy.abs() * p.cone.cos_half >= ux * p.cone.sin_half
    sq_v = sq_inside(xx * ux + yx * uy, xy * ux + yy * uy, q.cone)
    sq_best = torch.maximum(sq_best, (sq_v / (ux * ux + uy * uy)).masked_fill_(off_p, -1))
    return -torch.where(sq_best > 0, torch.maximum(best, sq_best.clamp(min=0).sqrt()), best)


class SegmentSpans(NamedTuple):
    """What the search needs of segments: the squares of their endpoints and of their lengths."""

    sq0: Tensor
    sq1: Tensor
    sq_length: Tensor

    def as_rows(self) -> SegmentSpans:
        """The same with a trailing axis, for curves that are the rows of a block: (b, 1)."""
        return SegmentSpans(*(x.unsqueeze(1) for x in self))


def segment_spans(gram: Tensor, pairs: Pairs) -> SegmentSpans:
    """Spans of the segments that ``pairs`` names."""
    square = gram.diagonal()
    sq0, sq1 = square[pairs.first], square[pairs.second]
    sq_length = (sq0 + sq1 - 2 * gram[pairs.first, pairs.second]).clamp(min=0)
    # Under this the length is rounding, and the endpoints stand for the segment.
    noise = 32 * torch.finfo(gram.dtype).eps * torch.maximum(sq0, sq1)
    return SegmentSpans(sq0, sq1, torch.where(sq_length > noise, sq_length, 0))


def sq_to_segment(sq_to0: Tensor, sq_to1: Tensor, sq_length: Tensor) -> Tensor:
    """Squared distance of a point to a segment, from its squared distances to both ends.

    The foot of the perpendicular counts only where it falls between the ends.
    """
    # Twice the length times the foot's offset from the middle, positive towards the end.
    offset = sq_to0 - sq_to1
    between = offset.abs() < sq_length
    sq_safe = torch.where(sq_length > 0, sq_length, 1)
    foot = (sq_to0 + sq_to1) / 2 - (sq_length + offset * offset / sq_safe) / 4
    return torch.minimum(torch.minimum(sq_to0, sq_to1), torch.where(between, foot, torch.inf))


def segment_scores(corner: Tensor, p: SegmentSpans, q: SegmentSpans) -> Tensor:
    """Squared distance between each row segment and each column segment: (b, c).

    The least of the four edges and, where it exists, the interior minimum.

    Args:
        corner: (2, b, 2, c) products of the ends.
        p: spans of the row segments, (b, 1).
        q: spans of the column segments, (c,).
    """
    sq_p = torch.stack([p.sq0, p.sq1]).unsqueeze(2)  # (2, b, 1, 1)
    sq_ends = sq_p + torch.stack([q.sq0, q.sq1]) - 2 * corner  # (2, b, 2, c)
    p_edges = sq_to_segment(sq_ends[0], sq_ends[1], p.sq_length.unsqueeze(1))  # (b, 2, c)
    q_edges = sq_to_segment(sq_ends[:, :, 0], sq_ends[:, :, 1], q.sq_length)  # (2, b, c)
    best = torch.minimum(p_edges.amin(1), q_edges.amin(0))
    # With m the difference of the middles and u, v the two segments as vectors:
    (sq00, sq01), (sq10, sq11) = (row.unbind(1) for row in sq_ends)
    uv = (sq01 + sq10 - sq00 - sq11) / 2
    um = (sq10 + sq11 - sq00 - sq01) / 4
    vm = (sq00 + sq10 - sq01 - sq11) / 4
    det = p.sq_length * q.sq_length - uv * uv
    x, y = uv * vm - um * q.sq_length, p.sq_length * vm - uv * um  # offsets from the middles, * det
    # At an angle under this the minimum is flat and an edge is as near to within rounding.
    skew = det > 32 * torch.finfo(det.dtype).eps * p.sq_length * q.sq_length
    inside = skew & (x.abs() * 2 < det) & (y.abs() * 2 < det)
    sq_middles = (sq00 + sq01 + sq10 + sq11 - p.sq_length - q.sq_length) / 4
    interior = sq_middles + (x * um - y * vm) / torch.where(inside, det, 1)
    best = torch.minimum(best, torch.where(inside, interior, torch.inf))
    return best.clamp(min=0)


def sample_weights(
    gram: Tensor, pairs: Pairs, fraction: float, normalize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of both endpoints in the point at ``fraction`` of each pair, and its square: (p,).

    An interior point is divided by its length where ``normalize`` says so; one shorter than 1e-12,
    the threshold of ``torch.nn.functional.normalize``, becomes zero.
    """
    square = gram.diagonal()
    w0, w1 = 1 - fraction, fraction
    sq = w0 * w0 * square[pairs.first] + w1 * w1 * square[pairs.second]
    sq = (sq + 2 * w0 * w1 * gram[pairs.first, pairs.second]).clamp(min=0)
    if normalize and 0 < fraction < 1:
        scale = torch.where(sq > 1e-24, sq.clamp(min=1e-24).rsqrt(), 0)
        return w0 * scale, w1 * scale, sq * scale * scale
    return torch.full_like(sq, w0), torch.full_like(sq, w1), sq


def sample_scores(
    gram: Tensor,
    rows: Pairs,
    cols: Pairs,
    row_fractions: Sequence[float],
    col_fractions: Sequence[float],
    normalize: bool,
    similarity: bool,
) -> Tensor:
    """The lowest score over the sampled points of each row pair and each column pair: (b, c).

    The score of two points is minus their inner product under ``similarity``, else their squared
    distance.
    """
    best = gram.new_full((len(rows.first), len(cols.first)), torch.inf)
    p0, p1 = gram[rows.first], gram[rows.second]  # (b, n)
    for row_fraction in row_fractions:
        w0, w1, sq_p = sample_weights(gram, rows, row_fraction, normalize)
        point = w0.unsqueeze(1) * p0 + w1.unsqueeze(1) * p1  # products of the points with all rows
        for col_fraction in col_fractions:
            v0, v1, sq_q = sample_weights(gram, cols, col_fraction, normalize)
            inner = point[:, cols.first] * v0 + point[:, cols.second] * v1  # (b, c)
            score = -inner if similarity else (sq_p.unsqueeze(1) + sq_q - 2 * inner).clamp(min=0)
            best = torch.minimum(best, score)
    return best
