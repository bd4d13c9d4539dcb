"""The ways to join two points of a class, and to find the nearest of such curves.

One protocol, three curves: great-circle arcs, straight segments, and sampled points (Embedding
Expansion; without interior points, the endpoints alone). The search is without grad and in the
dtype of its Gram matrix; where the curves that it chooses come nearest is solved from explicit
vectors, as weights of their ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from loopml import ops
from loopml._types import Gram, Pairs, Rows, Scaled, Side
from loopml.geometry.lengths import normalized
from loopml.geometry.packing import wide
from loopml.geometry.pairwise import arc_cosines
from loopml.ops.scores import grid_corners, own_products, sample_scores, sample_terms
from loopml.ops.solve import Solution, solve_arcs, solve_samples, solve_segments


class Products(NamedTuple):
    """The largest inner product of each of r curves with each of c curves, with grad."""

    source: Tensor  # what they are computed from
    of: Callable[[Tensor, Pairs, Pairs], Tensor]  # from source, rows and columns: (r, c)


class Curve(Protocol):
    """A way to join two points.

    Attributes:
        translates: whether moving all points alike leaves the scores as they are, so that the
            search needs no more than the distances between the points.
        on_sphere: whether the curve between two unit vectors stays on the sphere.
        scaled: which of its points are divided by their length.
    """

    @property
    def scaled(self) -> Scaled: ...  # noqa: D102

    @property
    def translates(self) -> bool: ...  # noqa: D102

    @property
    def on_sphere(self) -> bool: ...  # noqa: D102

    def place(self, points: Tensor) -> Tensor:
        """The points (n, d) that the curves join: ``points``, or their directions."""

    def nearest(self, gram: Gram, rows: Side, cols: Side, k: int) -> tuple[Tensor, Tensor]:
        """For each row curve the k nearest column curves of another label, as in ``ops``."""

    def solve(self, rows: Rows, ends: Tensor) -> Solution:
        """Where two curves come nearest; p0, p1, q0, q1 are the rows at ``ends`` (m, 4)."""

    def products(self, points: Tensor, offset: int) -> Products:
        """The largest inner products of curves, those of columns from the point ``offset`` on."""


@dataclass(frozen=True)
class Arcs:
    """Great-circle arcs between directions.

    Attributes:
        of_units: whether the points are unit vectors already.
    """

    of_units: bool
    translates: bool = False
    on_sphere: bool = True
    scaled: Scaled = Scaled.ALL

    def place(self, points: Tensor) -> Tensor:
        """Directions; ``points`` themselves where they are unit vectors already."""
        return points if self.of_units else normalized(points)

    def nearest(self, gram: Gram, rows: Side, cols: Side, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest arcs of another label for each row, with minus their product."""
        return ops.nearest_arcs(gram, rows, cols, k)

    def solve(self, rows: Rows, ends: Tensor) -> Solution:
        """Where two arcs come nearest, in float64."""
        return solve_arcs(rows, ends)

    def products(self, points: Tensor, offset: int) -> Products:
        """The largest product of two arcs, the cosine of their least angle."""

        def cosines(units: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
            ends = (rows.first, rows.second, cols.first, cols.second)
            return arc_cosines(*(units[index] for index in ends)).to(points.dtype)

        return Products(wide(points), cosines)


@dataclass(frozen=True)
class Segments:
    """Straight segments."""

    translates: bool = True
    on_sphere: bool = False
    scaled: Scaled = Scaled.NONE

    def place(self, points: Tensor) -> Tensor:
        """The points themselves."""
        return points

    def nearest(self, gram: Gram, rows: Side, cols: Side, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest segments of another label for each row, with squared distances."""
        return ops.nearest_segments(gram, rows, cols, k)

    def solve(self, rows: Rows, ends: Tensor) -> Solution:
        """Where two segments come nearest, from differences of their endpoints."""
        return solve_segments(rows, ends)

    def products(self, points: Tensor, offset: int) -> Products:
        """The largest product of two segments: bilinear, so at an end of each."""
        return CORNERS.products(points, offset)


@dataclass(frozen=True)
class Samples:
    """Points at fixed fractions of the segment between two points.

    Attributes:
        p_fractions: where on the first curve they lie; 0 is its first end and 1 its second.
        q_fractions: the same for the second curve.
        normalize: whether points between the ends are divided by their length.
        similarity: whether near means a large inner product or a small distance.
        on_sphere: whether the rows are unit vectors, or zero, that are compared by distance.
    """

    p_fractions: tuple[float, ...]
    q_fractions: tuple[float, ...]
    normalize: bool
    similarity: bool
    on_sphere: bool = False

    def start(self) -> Samples:
        """With the first end alone of the first curve."""
        return self._at(self.p_fractions[:1])

    def between(self) -> Samples:
        """Without the ends of the first curve."""
        return self._at(self.p_fractions[1:-1])

    def without_end(self) -> Samples:
        """Without the second end of the first curve."""
        return self._at(self.p_fractions[:-1])

    def _at(self, p_fractions: tuple[float, ...]) -> Samples:
        # The compiler of torch 2.4 cannot read dataclasses.replace.
        return Samples(
            p_fractions, self.q_fractions, self.normalize, self.similarity, self.on_sphere
        )

    @property
    def scaled(self) -> Scaled:
        """Those between the ends where ``normalize`` says so."""
        return Scaled.BETWEEN if self.normalize else Scaled.NONE

    @property
    def translates(self) -> bool:
        """Whether samples move as their endpoints do: not where they are scaled or multiplied."""
        return not (self.normalize or self.similarity)

    def place(self, points: Tensor) -> Tensor:
        """The points themselves."""
        return points

    def nearest(self, gram: Gram, rows: Side, cols: Side, k: int) -> tuple[Tensor, Tensor]:
        """The k pairs of another label with the nearest samples for each row."""
        return ops.nearest_samples(
            gram,
            rows,
            cols,
            self.p_fractions,
            self.q_fractions,
            normalize=self.normalize,
            similarity=self.similarity,
            unit=self.on_sphere,
            k=k,
        )

    def solve(self, rows: Rows, ends: Tensor) -> Solution:
        """The nearest of all samples of the one pair and all of the other."""
        return solve_samples(
            rows,
            ends,
            self.p_fractions,
            self.q_fractions,
            self.normalize,
            self.similarity,
            self.on_sphere,
        )

    def products(self, points: Tensor, offset: int) -> Products:
        """The largest product of two samples."""
        if offset == 0:
            return Products(points @ points.T, self._largest)

        def of_references(points: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
            # The products of the ends of these rows alone, not of all points.
            index = torch.cat([rows.first, rows.second])
            place = torch.arange(len(index), device=index.device).view(2, -1)
            cols = Pairs(cols.first - offset, cols.second - offset, cols.label)
            others = points[offset:]
            ends, square = points[index], points.square().sum(1)
            inner = Gram(ends @ others.T, square[index], square[offset:])
            row_side = Side(
                Pairs(place[0], place[1], rows.label), (ends[place[0]] * ends[place[1]]).sum(1)
            )
            col_side = Side(cols, (others[cols.first] * others[cols.second]).sum(1))
            return self._largest_of(inner, row_side, col_side)

        return Products(points, of_references)

    def _largest(self, inner: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
        """The largest products of curves whose points have these inner products."""
        square = inner.diagonal()
        sides = (Side(pairs, inner[pairs.first, pairs.second]) for pairs in (rows, cols))
        return self._largest_of(Gram(inner, square, square), *sides)

    def _largest_of(self, gram: Gram, rows: Side, cols: Side) -> Tensor:
        if self.p_fractions == self.q_fractions == (0.0, 1.0):
            return _largest_corners(gram.inner, rows.pairs, cols.pairs)
        p, q = own_products(rows, gram.row_square), own_products(cols, gram.col_square)
        p_terms = sample_terms(p, self.p_fractions, self.normalize).unsqueeze(-1)
        q_terms = sample_terms(q, self.q_fractions, self.normalize).unsqueeze(-2)
        corner = grid_corners(gram.inner, rows.pairs, cols.pairs)
        return sample_scores(corner, p_terms, q_terms, similarity=True)


def _largest_corners(inner: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
    """The largest product of an end of each row with an end of each column, one end at a time."""
    of_rows = torch.maximum(inner.index_select(0, rows.first), inner.index_select(0, rows.second))
    return torch.maximum(*(of_rows.index_select(1, end) for end in (cols.first, cols.second)))


def samples(
    n_points: int, *, normalize: bool, similarity: bool, on_sphere: bool = False
) -> Samples:
    """``n_points`` points evenly between the ends, and both ends."""
    fractions = tuple(i / (n_points + 1) for i in range(n_points + 2))
    return Samples(fractions, fractions, normalize, similarity, on_sphere)


# Rows instead of curves, compared by inner product.
CORNERS: Curve = samples(0, normalize=False, similarity=True)
