"""The values that our losses should have, computed once more without them.

In float64, from the distances of every curve to every curve (`loopml.geometry`, which the test
suite compares with brute force) and each loss's formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import normalize, relu

from benchmarks.steps import cases
from benchmarks.steps.batches import Batch
from benchmarks.steps.cases import CASES, without_kernels
from loopml.geometry import closest_on_arcs, pairwise_arc_distance

HPHN_MARGIN, TRIPLET_MARGIN, CONTRASTIVE_MARGIN = 0.2, 0.05, 1.0  # the defaults of the losses
ALPHA, BETA, BASE = 2, 50, 0.5


class Truth:
    """The distances of a batch that losses are made of, in float64."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.rows = normalize(batch.embeddings.detach().double())
        self.labels = batch.labels
        self.same = batch.labels.unsqueeze(1) == batch.labels

    @cached_property
    def distances(self) -> Tensor:
        """Row to row, (n, n), from differences."""
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(self.rows, self.rows, compute_mode=exact)

    def farthest_positive(self) -> Tensor:
        """Per row, (n,)."""
        return self.distances.masked_fill(~self.same, -torch.inf).amax(1)

    def pairs(self, pairing: str) -> tuple[Tensor, Tensor]:
        """First and second rows of the curves, (p,) each; all rows have a positive."""
        first, second = torch.triu(self.same, 1).nonzero().unbind(1)
        kept = (second == first + 1) & (first % 2 == 0) if pairing == "consecutive" else ...
        return first[kept], second[kept]

    def gaps(self, pairing: str) -> Tensor:
        """Curve to curve of another class, (p, p)."""
        first, second = self.pairs(pairing)
        ends = self.rows[first], self.rows[second]
        same = self.labels[first].unsqueeze(1) == self.labels[first]
        return pairwise_arc_distance(*ends, *ends).masked_fill(same, torch.inf)

    @cached_property
    def all_gaps(self) -> Tensor:
        """Curve to curve in pairing "all", which most losses want."""
        return self.gaps("all")

    def least(self, values: Tensor, *owners: Tensor) -> Tensor:
        """The least of the values (t,) that a row owns, (n,); each value has as many owners."""
        least = values.new_full((len(self.rows),), torch.inf)
        for owner in owners:
            least = least.scatter_reduce(0, owner, values, "amin")
        return least


def mean_of_positive(values: Tensor) -> Tensor:
    """PML's ``AvgNonZeroReducer``."""
    return values[values > 0].sum() / (values > 0).sum().clamp(min=1)


def hphn_loop(truth: Truth, pairing: str = "all") -> Tensor:
    """Per anchor, the nearest curve to any of its own."""
    gaps = truth.all_gaps if pairing == "all" else truth.gaps(pairing)
    d_an = truth.least(gaps.amin(1), *truth.pairs(pairing))
    return relu(truth.farthest_positive() - d_an + HPHN_MARGIN).mean()


def hphn_queue(truth: Truth) -> Tensor:
    """Per anchor, the nearest curve of the queue to any that joins it with a row of the queue."""
    references, labels = truth.batch.queue
    if references is None or labels is None:
        return hphn_loop(truth)
    queue = Truth(Batch(references, labels))
    first, second = queue.pairs("all")
    anchor, positive = (truth.labels.unsqueeze(1) == labels).nonzero().unbind(1)
    ends = truth.rows[anchor], queue.rows[positive]
    gaps = pairwise_arc_distance(*ends, queue.rows[first], queue.rows[second])
    same = truth.labels[anchor].unsqueeze(1) == labels[first]
    d_an = truth.least(gaps.masked_fill(same, torch.inf).amin(1), anchor)
    d_ap = (ends[0] - ends[1]).norm(dim=1)
    return relu(-truth.least(-d_ap, anchor) - d_an + HPHN_MARGIN).mean()


def hphn_original(truth: Truth) -> Tensor:
    """Per pair and not per anchor: both rows of a pair share their farthest positive."""
    d_ap = truth.farthest_positive().reshape(-1, 2).amax(1)
    return relu(d_ap - truth.gaps("consecutive").amin(1) + HPHN_MARGIN).mean()


def hphn_expansion(truth: Truth) -> Tensor:
    """Per anchor, the nearest of all points to it and the two points on each of its curves."""
    first, second = truth.pairs("all")
    start, end = truth.rows[first], truth.rows[second]
    points = torch.cat([truth.rows, normalize(2 * start + end), normalize(start + 2 * end)])
    labels = torch.cat([truth.labels, truth.labels[first], truth.labels[first]])
    row = torch.arange(len(truth.rows))
    owners = torch.cat([row, first, first]), torch.cat([row, second, second])
    negative = labels.unsqueeze(1) != labels
    cosine = (points @ points.T).masked_fill(~negative, -1).amax(1)
    d_an = truth.least((2 - 2 * cosine).clamp(min=0).sqrt(), *owners)
    return relu(truth.farthest_positive() - d_an + HPHN_MARGIN).mean()


def loop_triplets(truth: Truth) -> tuple[Tensor, Tensor, Tensor]:
    """Per ordered pair, the endpoint of the nearest curve that is nearer to the nearest point."""
    first, second = truth.pairs("all")
    nearest = truth.all_gaps.argmin(1)
    ends = first[nearest], second[nearest]
    t = closest_on_arcs(*(truth.rows[i] for i in (first, second, *ends))).t
    negative = torch.where(t <= 0.5, *ends)
    return torch.cat([first, second]), torch.cat([second, first]), torch.cat([negative, negative])


def triplet(truth: Truth, triplets: tuple[Tensor, ...]) -> Tensor:
    """The triplet loss of these."""
    anchor, positive, negative = triplets
    d_ap, d_an = truth.distances[anchor, positive], truth.distances[anchor, negative]
    return mean_of_positive(relu(d_ap - d_an + TRIPLET_MARGIN))


def contrastive_synthetic(truth: Truth) -> Tensor:
    """Positive pairs pull and nearest curves push."""
    push = relu(CONTRASTIVE_MARGIN - truth.all_gaps.amin(1))
    return mean_of_positive(truth.distances[truth.pairs("all")]) + mean_of_positive(push)


def multi_similarity_synthetic(truth: Truth) -> Tensor:
    """Per anchor, all of its positives and the nearest curve to each of its own."""
    positives, negatives = torch.zeros(2, len(truth.rows), dtype=torch.float64)
    d_ap, d_an = truth.distances[truth.pairs("all")], truth.all_gaps.amin(1)
    for anchor in truth.pairs("all"):
        pull = torch.exp(-ALPHA * (1 - d_ap.square() / 2 - BASE))  # 1 - d^2 / 2 is the cosine
        push = torch.exp(BETA * (1 - d_an.square() / 2 - BASE))
        positives.index_add_(0, anchor, pull)
        negatives.index_add_(0, anchor, push)
    return (torch.log1p(positives) / ALPHA + torch.log1p(negatives) / BETA).mean()


def triplet_mined(truth: Truth) -> Tensor:
    """On what the miner should find."""
    return triplet(truth, loop_triplets(truth))


_OF: dict[str, Callable[[Truth], Tensor]] = {
    cases.ORIGINAL: hphn_original,
    cases.LOOP_CONSECUTIVE: lambda truth: hphn_loop(truth, "consecutive"),
    cases.LOOP: hphn_loop,
    cases.LOOP_DEFAULT: hphn_queue,
    cases.EXPANSION: hphn_expansion,
    cases.MINED_TRIPLET: triplet_mined,
    cases.LOOP_MINER: triplet_mined,
    cases.SYNTHETIC: multi_similarity_synthetic,
    cases.SYNTHETIC_CONTRASTIVE: contrastive_synthetic,
}
# The same without kernels.
EXPECTED: Mapping[str, Callable[[Truth], Tensor]] = MappingProxyType(
    {
        twin: of
        for name, of in _OF.items()
        for twin in (name, without_kernels(name))
        if twin in CASES
    }
)
