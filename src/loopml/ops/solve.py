"""Where chosen pairs of curves come nearest to each other: weights of their ends, from vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from loopml.compiled import kernels_for
from loopml.geometry.arcs import arc_weights, products_of
from loopml.geometry.cones import least_square
from loopml.geometry.lengths import normalized
from loopml.geometry.packing import wide
from loopml.geometry.segments import nearest_on_segments
from loopml.ops.scores import sample_nearness, sample_terms

# Numbers per endpoint of the curves that are solved at once, so that their vectors in float64 take
# memory that is there already: new memory costs more than the products.
_CHUNK = 1 << 16


class Solution(NamedTuple):
    """Where m pairs of curves come nearest to each other."""

    weights: Tensor  # (m, 4) of the endpoints p0, p1 and q0, q1 in the two points
    sq_size: Tensor | float  # square of the numbers that a distance is a difference of


def solve_arcs(points: Tensor, ends: Tensor) -> Solution:
    """Where the arcs between unit vectors, or zero rows, come nearest; in float64.

    Args:
        points: (n, d).
        ends: (m, 4) where among them p0, p1, q0 and q1 are.
    """
    least = opposite_square(points.dtype)
    fast = kernels_for(points)
    if fast is not None:
        return Solution(fast.solve_arcs(points, ends, least), sq_size=1)
    exact, ends = _exact(points, ends)
    # In float32 the rows are of length 1 to 6e-8, by which short arcs would be skew.
    units = normalized(exact)
    weights = [arc_weights(endpoints, least)[2] for endpoints in _endpoints(units, ends)]
    return Solution(torch.cat(weights).to(points.dtype), sq_size=1)


def solve_segments(points: Tensor, ends: Tensor) -> Solution:
    """Where segments come nearest, from differences of their endpoints in float64."""
    fast = kernels_for(points)
    if fast is not None:
        return Solution(*fast.solve_segments(points, ends))
    weights, sq_sizes = [], []
    for endpoints in _endpoints(*_exact(points, ends)):
        s, t = nearest_on_segments(endpoints)
        weights.append(torch.stack([1 - s, s, 1 - t, t], -1))
        sq_sizes.append(endpoints.square().sum(-1).amax(-1))
    return Solution(*(torch.cat(x).to(points.dtype) for x in (weights, sq_sizes)))


def solve_samples(
    points: Tensor,
    ends: Tensor,
    p_fractions: Sequence[float],
    q_fractions: Sequence[float],
    normalize: bool,
    similarity: bool,
    unit: bool,
) -> Solution:
    """The nearest of all samples of the one pair and all of the other; the first of equal ones."""
    options = normalize, unit
    fast = kernels_for(points)
    if fast is not None:
        at = p_fractions, q_fractions
        weights = fast.solve_samples(points, ends, *at, normalize, similarity, unit)
        return Solution(weights, sq_size=0)
    products = [products_of(endpoints) for endpoints in _endpoints(*_exact(points, ends))]
    gram = torch.cat(products).permute(1, 2, 0)  # (4, 4, m)
    p, q = (
        sample_terms((gram[i, i], gram[i, i + 1], gram[i + 1, i + 1]), at, *options)
        for i, at in ((0, p_fractions), (2, q_fractions))
    )
    nearness = sample_nearness(gram[:2, 2:], p, q, similarity).flatten(0, 1)  # (k l, m)
    # Equally near but for rounding.
    rounding = 8 * torch.finfo(gram.dtype).eps * gram.diagonal().amax(-1)
    best = (nearness >= nearness.amax(0) - rounding).to(torch.uint8).argmax(0)
    s, t = best.div(len(q_fractions), rounding_mode="floor"), best % len(q_fractions)
    which = torch.arange(len(best), device=best.device)
    weights = torch.cat([p[:2, s, which], q[:2, t, which]]).T
    return Solution(weights.to(points.dtype), sq_size=0)


def _exact(points: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """The points in float64, and the ends; of many points those alone that are ends."""
    if ends.numel() < len(points):
        points = points.index_select(0, ends.flatten())
        ends = torch.arange(ends.numel(), device=ends.device).view(ends.shape)
    return wide(points), ends


def _endpoints(points: Tensor, ends: Tensor) -> Iterator[Tensor]:
    """The points at ``ends`` (m, 4), a part at a time: (..., 4, d)."""
    size = max(1, _CHUNK // points.shape[1])
    # The compiler of torch 2.4 cannot split what is empty.
    for part in (ends,) if len(ends) <= size else torch.split(ends, size):
        yield points.index_select(0, part.flatten()).view(*part.shape, points.shape[1])


def opposite_square(dtype: torch.dtype) -> float:
    """The squared length of a sum of unit vectors under which they are opposite, in a search too.

    A length of 4.7e-5 in float32 and of 8.4e-8 in float64. Rows of float32 know no better where
    the middle of a shorter sum lies, and the search by a Gram matrix of float64 knows no better.
    """
    return 32 * torch.finfo(dtype).eps if dtype == torch.float64 else least_square(dtype)
