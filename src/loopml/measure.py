"""The nearest points of chosen pairs of curves and their distance, with a gradient.

Where two curves come nearest is solved without grad; the points there are sums of endpoints with
constant weights (envelope theorem). Where a loss needs no more than their distance, and compiled
functions are there, these take the distance and its gradient in one go.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from loopml._types import Pairs, Rows, Scaled
from loopml.compiled import is_batched, kernels, kernels_for
from loopml.curves import Curve
from loopml.geometry.arcs import kept_unit
from loopml.geometry.lengths import (
    direction_of,
    distance_between,
    is_traced,
    length_of,
    normalized,
    numbers,
    touch_tolerance,
    touches,
)
from loopml.geometry.packing import wide
from loopml.ops.solve import Solution
from loopml.points import Points


class Negatives(NamedTuple):
    """Positive curves, each with a negative curve."""

    anchor: Tensor  # (m,)
    positive: Tensor  # (m,)
    curve: Pairs  # (m,) the negative curves

    def ends(self) -> Tensor:
        """Where among the points the endpoints p0, p1, q0, q1 of both curves are: (m, 4)."""
        return torch.stack([self.anchor, self.positive, self.curve.first, self.curve.second], 1)

    def take(self, index: Tensor | slice) -> Negatives:
        """The tuples at ``index``."""
        return Negatives(self.anchor[index], self.positive[index], self.curve.take(index))


class Nearest(NamedTuple):
    """The nearest points of m pairs of curves."""

    weights: Tensor  # (m, 4) of the endpoints in the two points, constants
    point_p: Tensor  # (m, d)
    point_q: Tensor  # (m, d)
    distance: Tensor  # (m,)


def solve(kind: Curve, points: Points, ends: Tensor) -> Solution:
    """Where the curves between the points at ``ends`` (m, 4) come nearest, without grad."""
    with torch.no_grad():
        return kind.solve(points.placed, ends)


def measure(kind: Curve, points: Points, negatives: Negatives) -> Nearest:
    """The nearest points of each tuple's two curves, differentiable."""
    ends = negatives.ends()
    solution = solve(kind, points, ends)
    point_p, point_q = _points_at(points.placed.unit, ends, solution.weights, kind.scaled)
    distance = distance_between(point_p, point_q, solution.sq_size)
    return Nearest(solution.weights, point_p, point_q, distance)


def measure_distance(kind: Curve, points: Points, negatives: Negatives) -> tuple[Tensor, Tensor]:
    """The weights and the distance of :func:`measure`, the distance to its last digits."""
    ends = negatives.ends()
    solution = solve(kind, points, ends)
    return solution.weights, _distance(points.placed, ends, solution, kind.scaled)


def row_distance(rows: Rows, first: Tensor, second: Tensor) -> Tensor:
    """The distance of rows from others: (m,), 0 with gradient 0 at 0."""
    if kernels_for(rows.given) is None:
        ends, weights = torch.stack([first, second], 1), numbers([1, -1], like=rows.unit)
        return length_of(weighted_sums(rows.unit, ends, weights.expand_as(ends)))
    ends = torch.stack([first, first, second, second], 1)
    return _distance(rows, ends, Solution(row_weights(rows, len(ends)), 0, None), Scaled.NONE)


def row_weights(rows: Rows, m: int) -> Tensor:
    """The weights of curves of one row each: (m, 4)."""
    return wide(numbers([1, 0, 1, 0], like=rows.given)).expand(m, 4)


def _points_at(
    points: Tensor, ends: Tensor, weights: Tensor, scaled: Scaled
) -> tuple[Tensor, Tensor]:
    """The two points (m, d) of each pair of curves, sums of the rows at ``ends`` (m, 4)."""
    of_points = weights.to(points.dtype).reshape(-1, 2)  # one row per point
    sums = weighted_sums(points, ends.view(-1, 2), of_points)
    if scaled == Scaled.ALL:
        sums = kept_unit(sums)
    elif scaled == Scaled.BETWEEN:
        sums = torch.where((of_points > 0).all(-1, keepdim=True), kept_unit(sums), sums)
    point_p, point_q = sums.view(len(ends), 2, sums.shape[1]).unbind(1)
    return point_p, point_q


def _distance(rows: Rows, ends: Tensor, solution: Solution, scaled: Scaled) -> Tensor:
    """The distance (m,) of the two points of each pair of curves."""
    weights, sq_size, exact = solution
    if kernels_for(rows.given) is not None:
        least = -1.0 if rows.least is None else rows.least
        size = sq_size if isinstance(sq_size, Tensor) else numbers([sq_size], like=rows.given)
        distance: Tensor = _Distance.apply(rows.given, least, ends, weights, scaled, size)  # type: ignore[no-untyped-call,unused-ignore]
        return distance
    distance = distance_between(*_points_at(rows.unit, ends, weights, scaled), sq_size)
    if exact is None:
        return distance
    # The points are as near as their dtype can say, and in the middle of a long arc not even that.
    return torch.where(touches(exact, sq_size), 0, distance + (exact - distance).detach())


class _Distance(torch.autograd.Function):
    """The distance by compiled functions; a gradient of the gradient is PyTorch's own."""

    @staticmethod
    def forward(
        ctx: Any,
        given: Tensor,
        least: float,
        ends: Tensor,
        weights: Tensor,
        scaled: Scaled,
        sq_size: Tensor,
    ) -> Tensor:
        ctx.options = least, ends, weights, int(scaled)
        fast: Any = kernels()
        touch = touch_tolerance(given.dtype)
        distance: Tensor = fast.distances(given, *ctx.options, touch, sq_size)
        ctx.save_for_backward(given, distance, sq_size)
        return distance

    @staticmethod
    def backward(ctx: Any, of_distance: Tensor) -> Any:
        given, distance, sq_size = ctx.saved_tensors
        least, ends, weights, scaled = ctx.options
        twice = torch.is_grad_enabled()
        fast = None if twice or is_batched(of_distance) else kernels_for(of_distance)
        if fast is not None:
            of_given = fast.distances_backward(given, *ctx.options, distance, of_distance)
        else:
            with torch.enable_grad():
                points = _unit(given, least)
                again = distance_between(*_points_at(points, ends, weights, scaled), sq_size)
            (of_given,) = torch.autograd.grad(again, given, of_distance, create_graph=twice)
        return of_given, None, None, None, None, None


def _unit(given: Tensor, least: float) -> Tensor:
    """The rows over their length, or over ``least`` if that is more; below 0 as they are."""
    if least < 0:
        return given
    # Beside a float32, the least number of float64 is 0.
    return (
        normalized(given) if least < torch.finfo(given.dtype).tiny else direction_of(given, least)
    )


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
