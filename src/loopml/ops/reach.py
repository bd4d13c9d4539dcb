"""The bounds: of inner products by those with the ends, and of distances by those to the ends."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from loopml._types import Gram
from loopml.ops.blocks import Curves
from loopml.ops.scores import Reach, SegmentTerms, segment_terms, sq_to_segment

# What rounding makes of a score that is a sum of a few products of numbers of size 1.
_ROUNDINGS = 32


class ProductBound:
    """Of scores that are inner products, or grow with them through 0."""

    def __init__(
        self,
        gram: Gram,
        cols: Curves,
        to_points: Callable[[Tensor, Tensor, Tensor], Tensor],
        reach: Callable[[Tensor], Reach],
        product: Callable[[Tensor], Tensor] = lambda score: score,
    ) -> None:
        """Bounds for the columns ``cols``.

        Args:
            gram: of points of rows with points of columns.
            cols: the columns.
            to_points: the score of curves with points, from the products of both ends and terms.
            reach: the reach of curves, from their terms.
            product: the inner product that a score stands for.
        """
        self._inner, self._terms = gram.inner, cols.terms
        self._to_points, self._reach, self._product = to_points, reach, product
        share, spread, self._noise = reach(cols.terms)
        self.least = torch.stack([share, -spread])
        eps = torch.finfo(cols.terms.dtype).eps
        self._rounding = _ROUNDINGS * eps * _largest_square(gram)

    def near(self, rows: Curves) -> Tensor:
        """The scores of row curves with all points of columns: (b, n)."""
        first, second = (self._inner.index_select(0, end) for end in rows.pairs[:2])
        return self._to_points(first, second, rows.terms.unsqueeze(-1))

    def slack(self, rows: Curves, best: Tensor) -> Tensor:
        """The rounding of a score with a point, the same for all points: (b, 1)."""
        return (self._rounding * self._reach(rows.terms).noise).unsqueeze(1)

    def bar(self, best: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
        """The best score counts fully where it is positive, and with the other weight where not."""
        return best.clamp(min=0), slack - best.clamp(max=0)

    def limit(self, first: Tensor, second: Tensor, slack: Tensor, col: Tensor) -> Tensor:
        """The score of a column from the products of its ends with the row, and rounding."""
        most = self._to_points(
            self._product(first), self._product(second), self._terms.index_select(-1, col)
        )
        return most.addcmul_(slack, self._noise[col])


def _largest_square(gram: Gram) -> Tensor:
    return torch.maximum(gram.row_square.amax(), gram.col_square.amax())


class DistanceBound:
    """Of scores that are minus the squared distance of points on two segments."""

    def __init__(
        self,
        gram: Gram,
        cols: Curves,
        to_points: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    ) -> None:
        """Bounds for the columns ``cols``.

        Args:
            gram: of points of rows with points of columns.
            cols: the columns.
            to_points: the score of curves with points, from the products of both ends, the squares
                of the points, and terms.
        """
        self._gram, self._to_points = gram, to_points
        self._segments = segment_terms(cols.own)
        self._eps = _ROUNDINGS * torch.finfo(cols.own.dtype).eps
        self._sq_size = _largest_square(gram)
        sq_length = SegmentTerms(*self._segments).sq_length
        self.least = torch.stack([torch.ones_like(sq_length), -(0.25 + self._eps) * sq_length])

    def near(self, rows: Curves) -> Tensor:
        """Minus the squared distances of row curves to all points of columns: (b, n)."""
        first, second = (self._gram.inner.index_select(0, end) for end in rows.pairs[:2])
        return self._to_points(first, second, self._gram.col_square, rows.terms.unsqueeze(-1))

    def slack(self, rows: Curves, best: Tensor) -> Tensor:
        """The rounding of the points' squares and of the distances: (b, 1)."""
        # Of differences of the points' squares, and of the distances themselves.
        sq_length = SegmentTerms(*segment_terms(rows.own)).sq_length
        return self._eps * (self._sq_size + sq_length.unsqueeze(1) - best)

    def bar(self, best: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
        """A column of length L comes nearer than its ends by at most L^2 / 4."""
        return best - slack, torch.ones_like(best)

    def limit(self, first: Tensor, second: Tensor, slack: Tensor, col: Tensor) -> Tensor:
        """The score of a column from the distances of its ends to the row, and rounding."""
        segment = SegmentTerms(*self._segments.index_select(-1, col))
        # A segment too short to have a length is its two ends.
        nearest = torch.maximum(-sq_to_segment(-first, -second, segment), first)
        return slack + self._eps * segment.sq_length + torch.maximum(nearest, second)
