"""Exact nearest neighbours of some rows at a time; without a matrix of distances."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from loopml._checks import check_finite

# Numbers held at once: scores of a block of queries (64 MB), coordinates of measured pairs (1 MB,
# so that they stay in the cache).
_SCORES = 1 << 23
_COORDINATES = 1 << 17


def searcher(
    query: Tensor, k: int, reference: Tensor, excluded: bool
) -> Callable[[Tensor], Tensor]:
    """A function from some of the queries, (b,), to their k nearest references, (b, k).

    Of equally far ones the lowest index comes first. Row i of the queries is not its own neighbour
    if ``excluded``.

    Products in float64 choose, with a bound of their rounding for each pair. Where the bounds of
    two references overlap, the distances are measured again from differences of the rows.
    """
    query, reference = query.detach().cpu(), reference.detach().cpu()
    check_finite("query", query)
    check_finite("reference", reference)
    kept = _first_copies(reference, k + excluded)  # (u,)
    place = torch.full((len(reference),), -1)
    place[kept] = torch.arange(len(kept))
    columns = reference[kept].double()  # (u, d)
    # Unlike a mean, a median stays among the rows if a few of them are far away.
    center = columns.median(dim=0).values
    columns -= center
    sq_columns = torch.linalg.vector_norm(columns, dim=1).square_()
    # |q|^2 + |r|^2 - 2 <q, r> is off by at most d + 8 roundings of |q|^2 + |r|^2.
    slack = (columns.shape[1] + 8) * torch.finfo(torch.float64).eps
    least_columns = (1 - slack) * sq_columns

    def search(rows: Tensor) -> Tensor:
        parts = torch.split(rows.cpu(), max(1, _SCORES // len(kept)))
        return torch.cat([block(part) for part in parts]).to(rows.device)

    def without_own(scores: Tensor, rows: Tensor) -> Tensor:
        if excluded:
            own = place[rows]
            scores[(own >= 0).nonzero()[:, 0], own[own >= 0]] = torch.inf
        return scores

    def block(rows: Tensor) -> Tensor:
        x = query[rows].double() - center
        sq_x = torch.linalg.vector_norm(x, dim=1, keepdim=True).square_()
        # The least that a distance may be, up to a number that all of a row share: (b, u)
        least = without_own(torch.addmm(least_columns, x, columns.T, alpha=-2), rows)
        bound = 2 * slack
        indices = torch.empty(len(rows), k, dtype=torch.int64)
        left, width = torch.arange(len(rows)), k + 1
        while len(left):
            width = min(width, len(kept))
            low, near = least.topk(width, largest=False)
            low = low + (1 - slack) * sq_x
            error = bound * (sq_x + sq_columns[near])
            # The k-th distance is at most this, so one that is certainly more is no neighbour.
            limit = (low + error).kthvalue(k, keepdim=True).values
            done = (low[:, -1] > limit[:, 0]) | (width == len(kept))
            low, error, found = low[done], error[done], kept[near[done]]
            distance = torch.where(low > limit[done], torch.inf, low + error / 2)
            i, j = (_overlapping(low, error) & distance.isfinite()).nonzero(as_tuple=True)
            if bound:
                distance[i, j] = _measure(query, rows[left[done]][i], reference, found[i, j])
            i = torch.unique(i)
            found[i] = _by_distance_and_index(distance[i], found[i])
            indices[left[done]] = found[:, :k]
            left, least, sq_x = left[~done], least[~done], sq_x[~done]
            width *= 4
            if bound and len(left) and width > len(kept) // 16:
                # Too many cannot be told apart: all distances of these rows from differences.
                least = without_own(_measure_all(query[rows[left]], reference, kept), rows[left])
                sq_x, bound, width = torch.zeros_like(sq_x), 0.0, k + 1
        return indices

    return search


def _first_copies(x: Tensor, most: int) -> Tensor:
    """Indices of the rows that are among the first ``most`` of those equal to them."""
    group = torch.unique(x, dim=0, return_inverse=True)[1]
    sizes = torch.bincount(group)
    rank = torch.arange(len(x)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    kept: Tensor = group.argsort(stable=True)[rank < most].sort().values
    return kept


def _overlapping(low: Tensor, error: Tensor) -> Tensor:
    """Which intervals [low, low + error] of a row, sorted by low, meet another of the row."""
    meets = torch.zeros_like(low, dtype=torch.bool)
    meets[:, 1:] = low[:, 1:] <= (low + error).cummax(dim=1).values[:, :-1]
    meets[:, :-1] |= meets[:, 1:].clone()
    return meets


def _measure(query: Tensor, rows: Tensor, reference: Tensor, columns: Tensor) -> Tensor:
    """Squared distances of pairs, (p,), from differences in float64."""
    step = max(1, _COORDINATES // query.shape[1])
    parts = []
    for i, j in zip(torch.split(rows, step), torch.split(columns, step), strict=True):
        x, y = query.index_select(0, i).double(), reference.index_select(0, j).double()
        parts.append(x.sub_(y).square_().sum(dim=1))
    return torch.cat(parts)


def _measure_all(query: Tensor, reference: Tensor, kept: Tensor) -> Tensor:
    """Squared distances of some rows to all that are kept, (b, u), from differences in float64."""
    by_differences = "donot_use_mm_for_euclid_dist"
    parts = [
        torch.cdist(query.double(), reference[part].double(), compute_mode=by_differences)
        for part in torch.split(kept, 1 << 13)
    ]
    return torch.cat(parts, dim=1).square_()


def _by_distance_and_index(distance: Tensor, index: Tensor) -> Tensor:
    """The indices, (n, w), sorted along each row."""
    index, order = index.sort(dim=1)
    return index.gather(1, distance.gather(1, order).argsort(dim=1, stable=True))
