"""The ways to join two points of a class, and to find and measure the nearest of such curves.

One protocol, three curves: great-circle arcs, straight segments, and sampled points (Embedding
Expansion; without interior points, the endpoints alone). The search is without grad and in the
dtype of its Gram matrix; where the curves that it chooses come nearest is solved from explicit
vectors, and the points there are weighted sums of endpoints, with grad.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from loopml import ops
from loopml._types import Pairs
from loopml.geometry.arcs import arc_weights, kept_unit, products_of
from loopml.geometry.cones import least_square
from loopml.geometry.lengths import is_traced, normalized
from loopml.geometry.packing import wide
from loopml.geometry.pairwise import arc_cosines
from loopml.geometry.segments import nearest_on_segments
from loopml.ops.scores import (
    grid_corners,
    sample_nearness,
    sample_scores,
    sample_terms,
    weigh_samples,
)

# Numbers per endpoint of the curves that are solved at once, so that their vectors in float64 take
# memory that is there already: new memory costs more than the products.
_CHUNK = 1 << 16


def endpoints_at(points: Tensor, ends: Tensor) -> Tensor:
    """The ``points`` at ``ends`` (m, e): (m, e, d)."""
    return points.index_select(0, ends.flatten()).view(*ends.shape, points.shape[1])


def _in_chunks(ends: Tensor, d: int) -> Sequence[Tensor]:
    """The ends (m, 4) of curves in parts whose vectors of d numbers are solved at once."""
    size = max(1, _CHUNK // d)
    # The compiler of torch 2.4 cannot split what is empty.
    return (ends,) if len(ends) <= size else torch.split(ends, size)


def weighted_sums(points: Tensor, ends: Tensor, weights: Tensor) -> Tensor:
    """Sums (m, d) of ``points`` at ``ends`` (m, e) times constant ``weights`` (m, e)."""
    # What a compiler or a transform traces, and MPS, has no use for an embedding bag.
    if is_traced(points) or points.device.type not in ("cpu", "cuda"):
        return (points[ends] * weights.unsqueeze(-1)).sum(1)
    sums: Tensor = _WeightedSums.apply(points, ends, weights)  # type: ignore[no-untyped-call,unused-ignore]
    return sums


class _WeightedSums(torch.autograd.Function):
    """Gather and sum as one op; PyTorch's own gradient of it cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, ends: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(ends, weights)
        ctx.n = len(points)
        return embedding_bag(ends, points, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: Any, of_sums: Tensor) -> Any:
        return _Spread.apply(of_sums, *ctx.saved_tensors, ctx.n), None, None  # type: ignore[no-untyped-call,unused-ignore]


class _Spread(torch.autograd.Function):
    """The transpose of weighted sums: (n, d), each sum spread over the rows that it came from."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, ends: Tensor, weights: Tensor, n: int) -> Tensor:
        ctx.save_for_backward(ends, weights)
        # A bag of sums for each row, which is faster than adding to the rows by index.
        row, order = ends.flatten().sort()
        bags = torch.searchsorted(row, torch.arange(n, device=row.device))
        sources = order.div(ends.shape[1], rounding_mode="floor")
        of_bags = weights.flatten()[order]
        return embedding_bag(sources, sums, bags, mode="sum", per_sample_weights=of_bags)

    @staticmethod
    def backward(ctx: Any, of_rows: Tensor) -> Any:
        return _WeightedSums.apply(of_rows, *ctx.saved_tensors), None, None, None  # type: ignore[no-untyped-call,unused-ignore]


class Solution(NamedTuple):
    """Where m pairs of curves come nearest to each other."""

    weights: Tensor  # (m, 4) of the endpoints p0, p1 and q0, q1 in the two points
    sq_size: Tensor | float  # square of the numbers that a distance is a difference of


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
    """

    @property
    def translates(self) -> bool: ...  # noqa: D102

    @property
    def on_sphere(self) -> bool: ...  # noqa: D102

    def place(self, points: Tensor) -> Tensor:
        """The points (n, d) that the curves join: ``points``, or their directions."""

    def nearest(self, gram: Tensor, rows: Pairs, cols: Pairs, k: int) -> tuple[Tensor, Tensor]:
        """For each row curve the k nearest column curves of another label, as in ``ops``."""

    def solve(self, points: Tensor, ends: Tensor) -> Solution:
        """Where two curves come nearest; p0, p1, q0, q1 are the points at ``ends`` (m, 4)."""

    def on_curve(self, points: Tensor, weights: Tensor) -> Tensor:
        """Sums of two endpoints (..., d) with ``weights`` (..., 2) as points with a gradient."""

    def products(self, points: Tensor) -> Products:
        """The largest inner products of curves."""


@dataclass(frozen=True)
class Arcs:
    """Great-circle arcs between directions.

    Attributes:
        of_units: whether the points are unit vectors already.
    """

    of_units: bool
    translates: bool = False
    on_sphere: bool = True

    def place(self, points: Tensor) -> Tensor:
        """Directions; ``points`` themselves where they are unit vectors already."""
        return points if self.of_units else normalized(points)

    def nearest(self, gram: Tensor, rows: Pairs, cols: Pairs, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest arcs of another label for each row, with minus their product."""
        return ops.nearest_arcs(gram, rows, cols, k)

    def solve(self, points: Tensor, ends: Tensor) -> Solution:
        """Where two arcs come nearest, in float64."""
        # In float32 the rows are of length 1 to 6e-8, by which short arcs would be skew.
        units = normalized(wide(points))
        least = opposite_square(points.dtype)
        weights = [
            arc_weights(endpoints_at(units, some), least)[2]
            for some in _in_chunks(ends, points.shape[1])
        ]
        return Solution(torch.cat(weights).to(points.dtype), sq_size=1)

    def on_curve(self, points: Tensor, weights: Tensor) -> Tensor:
        """The sums as points of the sphere, whose gradient is tangential."""
        return kept_unit(points)

    def products(self, points: Tensor) -> Products:
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

    def place(self, points: Tensor) -> Tensor:
        """The points themselves."""
        return points

    def nearest(self, gram: Tensor, rows: Pairs, cols: Pairs, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest segments of another label for each row, with squared distances."""
        return ops.nearest_segments(gram, rows, cols, k)

    def solve(self, points: Tensor, ends: Tensor) -> Solution:
        """Where two segments come nearest, from differences of their endpoints."""
        endpoints = endpoints_at(points, ends)
        s, t = nearest_on_segments(endpoints)
        weights = torch.stack([1 - s, s, 1 - t, t], -1)
        return Solution(weights, endpoints.square().sum(-1).amax(-1))

    def on_curve(self, points: Tensor, weights: Tensor) -> Tensor:
        """The sums themselves."""
        return points

    def products(self, points: Tensor) -> Products:
        """The largest product of two segments: bilinear, so at an end of each."""
        return samples(0, normalize=False, similarity=True).products(points)


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
    def translates(self) -> bool:
        """Whether samples move as their endpoints do: not where they are scaled or multiplied."""
        return not (self.normalize or self.similarity)

    def place(self, points: Tensor) -> Tensor:
        """The points themselves."""
        return points

    def nearest(self, gram: Tensor, rows: Pairs, cols: Pairs, k: int) -> tuple[Tensor, Tensor]:
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

    def solve(self, points: Tensor, ends: Tensor) -> Solution:
        """The nearest of all samples of the one pair and all of the other."""
        products = [
            products_of(endpoints_at(points, some)) for some in _in_chunks(ends, points.shape[1])
        ]
        gram = torch.cat(products).permute(1, 2, 0)  # (4, 4, m)
        p, q = (
            weigh_samples(
                gram[i, i],
                gram[i, i + 1],
                gram[i + 1, i + 1],
                at,
                self.normalize,
                self.on_sphere,
            )
            for i, at in ((0, self.p_fractions), (2, self.q_fractions))
        )
        nearness = sample_nearness(gram[:2, 2:], p, q, self.similarity)  # (k, l, m)
        best = nearness.flatten(0, 1).argmax(0)
        s, t = best.div(len(self.q_fractions), rounding_mode="floor"), best % len(self.q_fractions)
        which = torch.arange(len(best), device=best.device)
        weights = torch.cat([p[:2, s, which], q[:2, t, which]]).T
        return Solution(weights.to(points.dtype), sq_size=0)

    def on_curve(self, points: Tensor, weights: Tensor) -> Tensor:
        """The sums; those between the ends over their length where ``normalize`` says so."""
        if not self.normalize:
            return points
        between = (weights > 0).all(-1, keepdim=True)
        return torch.where(between, kept_unit(points), points)

    def products(self, points: Tensor) -> Products:
        """The largest product of two samples."""

        def largest(gram: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
            p = sample_terms(gram, rows, self.p_fractions, self.normalize).unsqueeze(-1)
            q = sample_terms(gram, cols, self.q_fractions, self.normalize).unsqueeze(-2)
            return sample_scores(grid_corners(gram, rows, cols), p, q, similarity=True)

        corners = self.p_fractions == self.q_fractions == (0.0, 1.0)
        return Products(points @ points.T, _largest_corners if corners else largest)


def _largest_corners(gram: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
    """The largest product of an end of each row with an end of each column, one end at a time."""
    of_rows = torch.maximum(gram.index_select(0, rows.first), gram.index_select(0, rows.second))
    return torch.maximum(*(of_rows.index_select(1, end) for end in (cols.first, cols.second)))


def opposite_square(dtype: torch.dtype) -> float:
    """The squared length of a sum of unit vectors under which they are opposite, in a search too.

    A length of 4.7e-5 in float32 and of 8.4e-8 in float64. Rows of float32 know no better where
    the middle of a shorter sum lies, and the search by a Gram matrix of float64 knows no better.
    """
    return 32 * torch.finfo(dtype).eps if dtype == torch.float64 else least_square(dtype)


def samples(
    n_points: int, *, normalize: bool, similarity: bool, on_sphere: bool = False
) -> Samples:
    """``n_points`` points evenly between the ends, and both ends."""
    fractions = tuple(i / (n_points + 1) for i in range(n_points + 2))
    return Samples(fractions, fractions, normalize, similarity, on_sphere)
