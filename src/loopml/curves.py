"""The ways to join two points of a class, and to find and measure the nearest of such curves.

One protocol, three curves: great-circle arcs, straight segments, and sampled points (Embedding
Expansion; without interior points, the endpoints alone). The search is without grad and in the
dtype of its Gram matrix; what it chooses is measured from explicit vectors, with grad.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from loopml import ops
from loopml._types import Closest, Pairs
from loopml.geometry.arcs import measure_arcs
from loopml.geometry.evaluate import distance_between, normalized, wide
from loopml.geometry.gram import sample_scores
from loopml.geometry.pairwise import arc_cosines
from loopml.geometry.segments import measure_segments


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

    def measure(self, ends: Tensor) -> Closest:
        """The nearest points of two curves with endpoints p0, p1, q0, q1 (m, 4, d), with grad."""

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

    def measure(self, ends: Tensor) -> Closest:
        """As :class:`Curve`."""
        return measure_arcs(ends)

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

    def measure(self, ends: Tensor) -> Closest:
        """As :class:`Curve`."""
        return measure_segments(ends)

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

    def measure(self, ends: Tensor) -> Closest:
        """As :class:`Curve`; ``distance`` is Euclidean also where near is a large inner product."""
        p0, p1, q0, q1 = ends.unbind(-2)
        s, t = self._nearest_samples(p0, p1, q0, q1)
        point_p, point_q = self._point(s, p0, p1), self._point(t, q0, q1)
        return Closest(s, t, point_p, point_q, distance_between(point_p, point_q))

    def products(self, points: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
        """As :class:`Curve`."""
        fractions = (self.p_fractions, self.q_fractions)
        return -sample_scores(
            points @ points.T, rows, cols, *fractions, self.normalize, similarity=True
        )

    def _nearest_samples(
        self, p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor
    ) -> tuple[Tensor, Tensor]:
        # A block, not a decorator: dynamo cannot trace a decorated method of an object it made.
        with torch.no_grad():
            s, t = p0.new_tensor(self.p_fractions), p0.new_tensor(self.q_fractions)
            points_p = self._point(s, p0.unsqueeze(-2), p1.unsqueeze(-2))  # (m, k, d)
            points_q = self._point(t, q0.unsqueeze(-2), q1.unsqueeze(-2))  # (m, l, d)
            score = -(points_p @ points_q.mT)  # (m, k, l)
            if not self.similarity:
                sq_p, sq_q = points_p.square().sum(-1), points_q.square().sum(-1)
                score = sq_p.unsqueeze(-1) + sq_q.unsqueeze(-2) + 2 * score
            best = score.flatten(-2).argmin(-1)
            return s[best.div(len(t), rounding_mode="floor")], t[best % len(t)]

    def _point(self, s: Tensor, p0: Tensor, p1: Tensor) -> Tensor:
        s = s.unsqueeze(-1)
        point = (1 - s) * p0 + s * p1
        if not self.normalize:
            return point
        return torch.where((s > 0) & (s < 1), normalized(point), point)


def samples(n_points: int, *, normalize: bool, similarity: bool, whole: bool = True) -> Samples:
    """``n_points`` points evenly between the ends, and both ends.

    Without ``whole`` the first curve lacks its second end: it is an anchor and its own points.
    """
    fractions = tuple(i / (n_points + 1) for i in range(n_points + 2))
    return Samples(fractions if whole else fractions[:-1], fractions, normalize, similarity)
