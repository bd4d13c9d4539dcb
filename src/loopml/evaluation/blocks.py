"""Retrieval scores of queries, a block of them at a time, and their means."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Compare = Callable[[Tensor, Tensor], Tensor]
Search = Callable[[Tensor], Tensor]

# Neighbours (queries times K) held at once, and queries: about 100 MB while they are scored.
_NEIGHBOURS = 1 << 21
_QUERIES = 1 << 11


def count_relevant(labels: Tensor, ref_labels: Tensor, excluded: bool, compare: Compare) -> Tensor:
    """How many references each query can find, (n,): the rows of its class, itself left out."""
    if compare is torch.eq:
        unique, index = torch.unique(torch.cat([labels, ref_labels]), return_inverse=True)
        matches = torch.bincount(index[len(labels) :], minlength=len(unique))
        return matches[index[: len(labels)]] - int(excluded)
    unique, index = torch.unique(labels, dim=0, return_inverse=True)
    counts = []
    for label in torch.split(unique, 1):
        count = compare(label, ref_labels).bool().sum()
        counts.append(count - compare(label, label).bool().sum() if excluded else count)
    return torch.stack(counts)[index]


def score_queries(
    depths: dict[str, int],
    rows: Tensor,
    search: Search,
    labels: tuple[Tensor, Tensor],
    relevant: Tensor,
    compare: Compare,
) -> dict[str, Tensor]:
    """Each score of some queries, (len(rows),) in float64 on the CPU.

    Args:
        depths: how many neighbours each score looks at.
        rows: the queries.
        search: from some queries, (b,), to their neighbours, (b, greatest depth), nearest first.
        labels: the labels of all queries, and of the references.
        relevant: how many references each query can find, at least 1 for those in ``rows``.
        compare: whether labels match, of two tensors of labels that broadcast.
    """
    width = max(depths.values())
    parts: dict[str, list[Tensor]] = {name: [] for name in depths}
    for block in torch.split(rows, max(1, min(_QUERIES, _NEIGHBOURS // width))):
        same = compare(labels[0][block][:, None], labels[1][search(block)]).bool()
        for name, depth in depths.items():
            score = RANKED.get(name, _hit)
            parts[name].append(score(same[:, :depth], relevant[block]).double().cpu())
    return {name: torch.cat(part) for name, part in parts.items()}


def means_per_class(values: Tensor, labels: Tensor) -> Tensor:
    """The mean of the values (n,) of each class, in order of the labels."""
    unique, index = torch.unique(labels, dim=0, return_inverse=True)
    index = index.to(values.device)
    sums = values.new_zeros(len(unique)).index_add_(0, index, values)
    return sums / torch.bincount(index)


def _hit(same: Tensor, relevant: Tensor) -> Tensor:
    """Whether one of the neighbours is of the class: recall at K, and precision at 1."""
    return same.any(dim=1)


def _r_precision(same: Tensor, relevant: Tensor) -> Tensor:
    return _among_first(same, relevant).sum(dim=1) / relevant.clamp(max=same.shape[1]).double()


def _average_precision(same: Tensor, relevant: Tensor) -> Tensor:
    precision = same.cumsum(dim=1, dtype=torch.float64).div_(_ranks(same))
    return precision.mul_(same).sum(dim=1) / relevant


def _average_precision_at_r(same: Tensor, relevant: Tensor) -> Tensor:
    return _average_precision(_among_first(same, relevant), relevant)


def _reciprocal_rank(same: Tensor, relevant: Tensor) -> Tensor:
    return (same / _ranks(same)).amax(dim=1)


def _ranks(same: Tensor) -> Tensor:
    return torch.arange(1, same.shape[1] + 1, dtype=torch.float64, device=same.device)


def _among_first(same: Tensor, relevant: Tensor) -> Tensor:
    """The matches that are among the first R neighbours of a query with R relevant references."""
    return same & (_ranks(same) <= relevant[:, None])


# From whether neighbours are of the class, (b, depth), and the number of relevant references, (b,).
RANKED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean_average_precision": _average_precision,
    "mean_average_precision_at_r": _average_precision_at_r,
    "mean_reciprocal_rank": _reciprocal_rank,
    "precision_at_1": _hit,
    "r_precision": _r_precision,
}
