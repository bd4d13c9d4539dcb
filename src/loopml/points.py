"""A batch as points of a space, and the search among the curves that join them.

The inner products of a batch with the points that its tuples come from are one matrix. Without
references that is the batch itself, and the matrix has all that a search needs. With m references a
curve from an anchor to its positive has ends of both kinds, and what the search needs is their
products with the references: those are computed for a few curves at a time, so that memory grows
with n m, never with (n + m)^2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from loopml._checks import values_readable
from loopml._types import Gram, Pairs, Rows, Side
from loopml.batch import Batch
from loopml.curves import Curve
from loopml.geometry.distances import half_sq_distances
from loopml.geometry.lengths import normalized
from loopml.geometry.packing import wide
from loopml.ops.solve import opposite_square
from loopml.pairing import nearest_others
from loopml.spaces import LEAST_LENGTH, SPHERE, Space, seen_by

# Numbers in a Gram matrix of references that is held at once: 32 MiB of float32.
_BLOCK = 1 << 23
# Numbers in the endpoints of curves whose own products are computed at once.
_CHUNK = 1 << 20
# Up to this many references are compared with each other.
_FEW = 2048
# A sum of unit vectors is 0.05 long at this product of the two. Inner products of float32 know the
# direction of a shorter one to less than 1e-6.
_NEARLY_OPPOSITE = 0.05**2 / 2 - 1
# Of directions of rows of any length.
_LEAST = 1e-308


class Points(NamedTuple):
    """A batch and its references as one set of points, the batch first."""

    seen: Rows  # (n, d) as the distance sees them
    placed: Rows  # (n, d) the points that the curves join
    located: Tensor  # (n, d) the same for the search, about an origin that suits it; no grad
    by_distance: bool  # whether minus half the squared distances stand for inner products
    offset: int  # the first point that tuples come from: 0, or the first reference
    gram: Gram  # of the batch with those

    def nearness(self, batch: Batch, similarity: bool = False) -> Callable[[], Tensor]:
        """What ``pair_up`` asks: how near the points that tuples come from are to another class.

        To a row of the batch, or to a reference where there are few: then parts of a batch, with
        the whole of it as references, have the curves of the whole.
        """
        others = batch.labels_of_others()

        def nearest() -> Tensor:
            if self.offset == 0 or len(others) > _FEW:
                return nearest_others(self.gram, batch.labels, others, similarity)
            references = self.located[self.offset :]
            gram = gram_of(references, references, self.by_distance)
            return nearest_others(gram, others, others, similarity)

        return nearest


def points_of(space: Space, kind: Curve, batch: Batch) -> Points:
    """The points of a batch, and the Gram matrix that the search chooses by."""
    given = batch.all_embeddings()
    seen = Rows(given, LEAST_LENGTH if space is SPHERE else None, seen_by(space, given))
    unit = kind.place(seen.unit)
    placed = seen if unit is seen.unit else Rows(given, _LEAST, unit)
    located = placed.unit.detach()
    by_distance = kind.translates and space is not SPHERE
    if kind.translates and not by_distance and len(located):
        located = located - located.mean(0)
    offset = batch.offset()
    if offset == 0:
        inner = half_sq_distances(located) if by_distance else located @ located.T
        square = inner.diagonal()
        gram = Gram(inner, square, square)
    else:
        gram = gram_of(located[:offset], located[offset:], by_distance)
    return Points(seen, placed, located, by_distance, offset, gram)


def gram_of(rows: Tensor, cols: Tensor, by_distance: bool = False) -> Gram:
    """The products of points (a, d) with others (b, d), or what stands for them."""
    if by_distance:
        inner = half_sq_distances(rows, cols)
        return Gram(inner, inner.new_zeros(len(rows)), inner.new_zeros(len(cols)))
    squares = (x.square().sum(1) for x in (rows, cols))
    return Gram(rows @ cols.T, *squares)


@torch.no_grad()
def nearest(
    kind: Curve, points: Points, rows: Pairs, cols: Pairs, k: int = 1
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest curves of another label that each row curve has.

    Args:
        kind: of the curves.
        points: that they join.
        rows: r curves, whose ends are any of the points.
        cols: c curves, whose ends are points that tuples come from.
        k: how many to find for each row.

    Returns:
        As the searches in ``loopml.ops``: indices into ``cols`` and values, (r, k).
    """
    row_inner, col_inner = _both_inner(points, rows, cols)
    if kind.on_sphere and not kind.translates and _lacks_middles(row_inner, col_inner):
        # Those that the measure takes for opposite, the search must take for opposite.
        opposite = opposite_square(points.located.dtype) / 2 - 1
        points = _exact(points)
        row_inner, col_inner = (
            torch.where(inner < opposite, -1, inner) for inner in _both_inner(points, rows, cols)
        )
    if points.offset == 0:
        return kind.nearest(points.gram, Side(rows, row_inner), Side(cols, col_inner), k)
    cols = Pairs(cols.first - points.offset, cols.second - points.offset, cols.label)
    col_side = Side(cols, col_inner)
    step = max(1, _BLOCK // (2 * max(1, len(points.gram.col_square))))
    found = [
        _nearest_references(kind, points, Side(rows.take(some), row_inner[some]), col_side, k)
        for some in (slice(i, i + step) for i in range(0, max(1, len(row_inner)), step))
    ]
    index, value = zip(*found, strict=True)
    return torch.cat(index), torch.cat(value)


def _nearest_references(
    kind: Curve, points: Points, rows: Side, cols: Side, k: int
) -> tuple[Tensor, Tensor]:
    """The search for a few rows, by the products of their ends with the references."""
    ends = torch.stack(rows.pairs[:2])
    if values_readable(points.located):
        used, place = torch.unique(ends, return_inverse=True)
    else:  # whose number a GPU would have to be waited for
        used, place = ends.flatten(), torch.arange(ends.numel(), device=ends.device)
        place = place.view_as(ends)
    located = points.located
    gram = gram_of(located[used], located[points.offset :], points.by_distance)
    pairs = Pairs(place[0], place[1], rows.pairs.label)
    return kind.nearest(gram, Side(pairs, rows.inner), cols, k)


def _both_inner(points: Points, rows: Pairs, cols: Pairs) -> tuple[Tensor, Tensor]:
    of_rows = _inner(points, rows)
    # By their tensors, since the compiler of torch 2.4 compares tuples by their elements.
    same = cols.first is rows.first and cols.second is rows.second
    return of_rows, of_rows if same else _inner(points, cols)


def _inner(points: Points, pairs: Pairs) -> Tensor:
    """The product of both ends of each curve, or what stands for it: (p,)."""
    if points.offset == 0:
        return points.gram.inner[pairs.first, pairs.second]
    size = _CHUNK // points.located.shape[1] + 1
    parts = []
    for start in range(0, max(1, len(pairs.first)), size):
        first, second = (points.located[end[start : start + size]] for end in pairs[:2])
        half_sq = (first - second).square_().sum(1).mul_(-0.5) if points.by_distance else None
        parts.append((first * second).sum(1) if half_sq is None else half_sq)
    return torch.cat(parts)


def _lacks_middles(*inner: Tensor) -> bool:
    """Whether ends of some curves are so nearly opposite that their middle needs float64."""
    return any(
        x.dtype == torch.float32
        and values_readable(x)
        and len(x) > 0
        and float(x.amin()) < _NEARLY_OPPOSITE
        for x in inner
    )


def _exact(points: Points) -> Points:
    """The points, unit vectors or zero rows, with products in float64."""
    located = normalized(wide(points.placed.unit.detach()))
    n = points.offset or len(located)
    gram = gram_of(located[:n], located[points.offset :], by_distance=False)
    return Points(points.seen, points.placed, located, False, points.offset, gram)
