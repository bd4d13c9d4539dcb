"""The ways to join two points of a class, and to find and measure the nearest of such curves.

One protocol, three curves: great-circle arcs, straight segments, and sampled points (Embedding
Expansion; without interior points, the endpoints alone). The search is without grad and in the
dtype of its Gram matrix; where the curves that it chooses come nearest is solved from explicit
vectors, and the points there are weighted sums of endpoints, with grad.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from loopml import ops
from loopml._types import Pairs
from loopml.geometry.arcs import arc_weights, kept_unit, products_of
from loopml.geometry.evaluate import normalized, wide
from loopml.geometry.gram import (
    grid_corners,
    sample_nearness,
    sample_scores,
    sample_terms,
    weigh_samples,
)
from loopml.geometry.pairwise import arc_cosines
from loopml.geometry.segments import nearest_on_segments

# Numbers per endpoint of the curves that are solved at once, so that their vectors in float64 take
# memory that is there already: new memory costs more than the products.
_CHUNK = 1 << 16


def rows_of(points: Tensor, rows: Tensor) -> Tensor:
    """The ``points`` at ``rows`` (m, e): (m, e, d)."""
    return points.index_select(0, rows.flatten()).view(*rows.shape, points.shape[1])


def weighted_sums(points: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Sums (m, d) of ``points`` at ``rows`` (m, e) times constant ``weights`` (m, e)."""
    # One op for the gather and the sum, and one for its gradient.
    return torch.nn.functional.embedding_bag(rows, points, mode="sum", per_sample_weights=weights)


class Minimum(NamedTuple):
    """Where m pairs of curves come nearest to each other."""

    weights: Tensor  # (m, 4) of the endpoints p0, p1 and q0, q1 in the two points
    sq_size: Tensor | float  # square of the numbers that a distance is a difference of


class Curve(Protocol):
    """A way to join two points.

    Attributes:
        translates: whether moving all points alike leaves the scores as they are, so that the
            search may centre them and lose fewer digits.
    """

    @property
    def translates(self) -> bool: ...  # noqa: D102

    def place(self, points: Tensor) -> Tensor:
        """The points (n, d) that the curves join: ``points``, or their directions."""

    def nearest(self, gram: Tensor, rows: Pairs, cols: Pairs, k: int) -> tuple[Tensor, Tensor]:
        """For each row curve the k nearest column curves of another label, as in ``ops``."""

    def solve(self, points: Tensor, rows: Tensor) -> Minimum:
        """Where two curves with endpoints p0, p1, q0, q1 at ``rows`` (m, 4) come nearest."""

    def on_curve(self, points: Tensor, weights: Tensor) -> Tensor:
        """Sums of two endpoints (..., d) with ``weights`` (..., 2) as points with a gradient."""

    def products(self, points: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
        """The largest inner product of each row curve with each column curve (r, c), with grad."""


@dataclass(frozen=True)
class Arcs:
    """Great-circle arcs between directions."""

    on_sphere: bool
    translates: bool = False

    def place(self, points: Tensor) -> Tensor:
        """Directions; ``points`` themselves where they are unit vectors already."""
        return points if self.on_sphere else normalized(points)

    def nearest(self, gram: Tensor, rows: Pairs, cols: Pairs, k: int) -> tuple[Tensor, Tensor]:
        """As :class:`Curve`."""
        return ops.nearest_arcs(gram, rows, cols, k)

    def solve(self, points: Tensor, rows: Tensor) -> Minimum:
        """As :class:`Curve`."""
        weights = [
            arc_weights(normalized(wide(rows_of(points, some))), points.dtype)[2]
            for some in torch.split(rows, max(1, _CHUNK // points.shape[1]))
        ]
        return Minimum(torch.cat(weights).to(points.dtype), sq_size=1)

    def on_curve(self, points: Tensor, weights: Tensor) -> Tensor:
        """As :class:`Curve`; the gradient is that of points on the sphere."""
        return kept_unit(points)

    def products(self, points: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
        """As :class:`Curve`."""
        ends = (rows.first, rows.second, cols.first, cols.second)
        return arc_cosines(*(wide(points[index]) for index in ends)).to(points.dtype)


@dataclass(frozen=True)
class Segments:
    """Straight segments."""

    translates: bool = True

    def place(self, points: Tensor) -> Tensor:
        """As :class:`Curve`."""
        return points

    def nearest(self, gram: Tensor, rows: Pairs, cols: Pairs, k: int) -> tuple[Tensor, Tensor]:
        """As :class:`Curve`."""
        return ops.nearest_segments(gram, rows, cols, k)

    def solve(self, points: Tensor, rows: Tensor) -> Minimum:
        """As :class:`Curve`."""
        ends = rows_of(points, rows)
        s, t = nearest_on_segments(ends)
        weights = torch.stack([1 - s, s, 1 - t, t], -1)
        return Minimum(weights, ends.square().sum(-1).amax(-1))

    def on_curve(self, points: Tensor, weights: Tensor) -> Tensor:
        """As :class:`Curve`."""
        return points

    def products(self, points: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
        """As :class:`Curve`; a product of two segments is bilinear, so largest at ends of both."""
        return samples(0, normalize=False, similarity=True).products(points, rows, cols)


@dataclass(frozen=True)
class Samples:
    """Points at fixed fractions of the segment between two points.

    Attributes:
        p_fractions: where on the first curve they lie; 0 is its first end and 1 its second.
        q_fractions: the same for the second curve.
        normalize: whether points between the ends are divided by their length.
        similarity: whether near means a large inner product or a small distance.
    """

    p_fractions: tuple[float, ...]
    q_fractions: tuple[float, ...]
    normalize: bool
    similarity: bool

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
        return Samples(p_fractions, self.q_fractions, self.normalize, self.similarity)

    @property
    def translates(self) -> bool:
        """As :class:`Curve`."""
        return not (self.normalize or self.similarity)

    def place(self, points: Tensor) -> Tensor:
        """As :class:`Curve`."""
        return points

    def nearest(self, gram: Tensor, rows: Pairs, cols: Pairs, k: int) -> tuple[Tensor, Tensor]:
        """As :class:`Curve`."""
        return ops.nearest_samples(
            gram,
            rows,
            cols,
            self.p_fractions,
            self.q_fractions,
            normalize=self.normalize,
            similarity=self.similarity,
            k=k,
        )

    def solve(self, points: Tensor, rows: Tensor) -> Minimum:
        """As :class:`Curve`."""
        products = [
            products_of(rows_of(points, some))
            for some in torch.split(rows, max(1, _CHUNK // points.shape[1]))
        ]
        gram = torch.cat(products).permute(1, 2, 0)  # (4, 4, m)
        p, q = (
            weigh_samples(gram[i, i], gram[i, i + 1], gram[i + 1, i + 1], at, self.normalize)
            for i, at in ((0, self.p_fractions), (2, self.q_fractions))
        )
        nearness = sample_nearness(gram[:2, 2:], p, q, self.similarity)  # (k, l, m)
        best = nearness.flatten(0, 1).argmax(0)
        s, t = best.div(len(self.q_fractions), rounding_mode="floor"), best % len(self.q_fractions)
        which = torch.arange(len(best), device=best.device)
        weights = torch.cat([p[:2, s, which], q[:2, t, which]]).T
        return Minimum(weights.to(points.dtype), sq_size=0)

    def on_curve(self, points: Tensor, weights: Tensor) -> Tensor:
        """As :class:`Curve`."""
        if not self.normalize:
            return points
        between = (weights > 0).all(-1, keepdim=True)
        return torch.where(between, kept_unit(points), points)

    def products(self, points: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
        """As :class:`Curve`."""
        gram = points @ points.T
        p = sample_terms(gram, rows, self.p_fractions, self.normalize).unsqueeze(-1)
        q = sample_terms(gram, cols, self.q_fractions, self.normalize).unsqueeze(-2)
        return sample_scores(grid_corners(gram, rows, cols), p, q, similarity=True)


def samples(n_points: int, *, normalize: bool, similarity: bool) -> Samples:
    """``n_points`` points evenly between the ends, and both ends."""
    fractions = tuple(i / (n_points + 1) for i in range(n_points + 2))
    return Samples(fractions, fractions, normalize, similarity)
