"""Where chosen pairs of curves come nearest to each other: weights of their ends, from vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from loopml._types import Rows
from loopml.compiled import kernels_for
from loopml.geometry.arcs import arc_weights, products_of
from loopml.geometry.cones import least_square
from loopml.geometry.lengths import direction_of, normalized, numbers
from loopml.geometry.packing import wide
from loopml.geometry.segments import nearest_on_segments
from loopml.ops.scores import sample_nearness, sample_terms

# Numbers per endpoint of the curves that are solved at once, so that their vectors in float64 take
# memory that is there already: new memory costs more than the products.
_CHUNK = 1 << 16


class Solution(NamedTuple):
    """Where m pairs of curves come nearest to each other."""

    weights: Tensor  # (m, 4) of the endpoints p0, p1 and q0, q1 in the two points, in float64
    sq_size: Tensor | float  # square of the numbers that a distance is a difference of
    distance: Tensor | None  # (m,) of the two points, where it comes with the weights


def solve_arcs(rows: Rows, ends: Tensor) -> Solution:
    """Where arcs between directions, or zero rows, come nearest, in float64.

    Args:
        rows: n of them.
        ends: (m, 4) where among them p0, p1, q0 and q1 are.
    """
    dtype = rows.given.dtype
    opposite = opposite_square(dtype)
    fast = kernels_for(rows.given)
    if fast is not None:
        return Solution(fast.solve_arcs(rows.given, ends, opposite), 1, None)
    given, ends = _taken(rows.given, ends)
    # In float32 unit vectors are of length 1 to 6e-8, by which short arcs would be skew.
    units = normalized(wide(given))
    weights, distances = [], []
    for endpoints in _endpoints(units, ends):
        weights.append(arc_weights(endpoints, opposite)[2])
        distances.append(_distance(endpoints, weights[-1]))
    return Solution(torch.cat(weights), 1, torch.cat(distances).to(dtype))


def solve_segments(rows: Rows, ends: Tensor) -> Solution:
    """Where segments come nearest, from differences of their endpoints in float64."""
    fast = kernels_for(rows.given)
    if fast is not None:
        weights, sq_size = fast.solve_segments(*_for_kernel(rows), ends)
        return Solution(weights, sq_size, None)
    found = []
    for endpoints in _endpoints(*_exact(rows, ends)):
        s, t = nearest_on_segments(endpoints)
        weights = torch.stack([1 - s, s, 1 - t, t], -1)
        sq_size = endpoints.square().sum(-1).amax(-1)
        found.append((weights, sq_size, _distance(endpoints, weights)))
    weights, *others = (torch.cat(x) for x in zip(*found, strict=True))
    sq_size, distance = (x.to(rows.given.dtype) for x in others)
    return Solution(weights, sq_size, distance)


def solve_samples(
    rows: Rows,
    ends: Tensor,
    p_fractions: Sequence[float],
    q_fractions: Sequence[float],
    normalize: bool,
    similarity: bool,
    unit: bool,
) -> Solution:
    """The nearest of all samples of the one pair and all of the other; the first of equal ones."""
    fast = kernels_for(rows.given)
    if fast is not None:
        options = p_fractions, q_fractions, normalize, similarity, unit
        return Solution(fast.solve_samples(*_for_kernel(rows), ends, *options), 0, None)
    found = []
    for endpoints in _endpoints(*_exact(rows, ends)):
        gram = products_of(endpoints).permute(1, 2, 0)  # (4, 4, m)
        p, q = (
            sample_terms((gram[i, i], gram[i, i + 1], gram[i + 1, i + 1]), at, normalize, unit)
            for i, at in ((0, p_fractions), (2, q_fractions))
        )
        nearness = sample_nearness(gram[:2, 2:], p, q, similarity).flatten(0, 1)  # (k l, m)
        # Equally near but for rounding.
        rounding = 8 * torch.finfo(gram.dtype).eps * gram.diagonal().amax(-1)
        best = (nearness >= nearness.amax(0) - rounding).to(torch.uint8).argmax(0)
        s, t = best.div(len(q_fractions), rounding_mode="floor"), best % len(q_fractions)
        which = torch.arange(len(best), device=best.device)
        found.append(torch.cat([p[:2, s, which], q[:2, t, which]]).T)
    return Solution(torch.cat(found), 0, None)


def _for_kernel(rows: Rows) -> tuple[Tensor, float]:
    return rows.given, -1.0 if rows.least is None else rows.least


def _exact(rows: Rows, ends: Tensor) -> tuple[Tensor, Tensor]:
    """The rows in float64, divided by their length where they are, and the ends."""
    given, ends = _taken(rows.given, ends)
    return (wide(given) if rows.least is None else direction_of(wide(given), rows.least)), ends


def _taken(given: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """The rows and the ends; of many rows those alone that are ends."""
    if ends.numel() < len(given):
        given = given.index_select(0, ends.flatten())
        ends = torch.arange(ends.numel(), device=ends.device).view(ends.shape)
    return given, ends


def _endpoints(points: Tensor, ends: Tensor) -> Iterator[Tensor]:
    """The points at ``ends`` (m, 4), a part at a time: (..., 4, d)."""
    size = max(1, _CHUNK // points.shape[1])
    # The compiler of torch 2.4 cannot split what is empty.
    for part in (ends,) if len(ends) <= size else torch.split(ends, size):
        yield points.index_select(0, part.flatten()).view(*part.shape, points.shape[1])


def _distance(endpoints: Tensor, weights: Tensor) -> Tensor:
    """The distance (m,) of two points from endpoints (m, 4, d) and their weights (m, 4)."""
    difference = weights * numbers([1, 1, -1, -1], like=weights)
    distance: Tensor = (difference.unsqueeze(1) @ endpoints).squeeze(1).norm(dim=-1)
    return distance


def opposite_square(dtype: torch.dtype) -> float:
    """The squared length of a sum of unit vectors under which they are opposite, in a search too.

    A length of 4.7e-5 in float32 and of 8.4e-8 in float64. Rows of float32 know no better where
    the middle of a shorter sum lies, and the search by a Gram matrix of float64 knows no better.
    """
    return 32 * torch.finfo(dtype).eps if dtype == torch.float64 else least_square(dtype)
