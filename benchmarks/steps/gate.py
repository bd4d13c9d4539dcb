"""The correctness gate: no time is taken of a loss whose value is wrong.

The values that our losses should have are computed here once more, without them: in float64, from
the distances of every curve to every curve (`loopml.geometry`, which the test suite compares with
brute force) and each loss's formula, for the first `ROWS` rows of the very batch. Of the other
cases the gate wants a finite value and a finite gradient.
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
from benchmarks.steps.cases import Case
from loopml.geometry import closest_on_arcs, pairwise_arc_distance

ROWS = 256
HPHN_MARGIN, TRIPLET_MARGIN, CONTRASTIVE_MARGIN = 0.2, 0.05, 1.0  # the defaults of the losses
ALPHA, BETA, BASE = 2, 50, 0.5
# Largest errors seen: 3e-7, and 5e-4 in collapsed batches, where a float32 Gram matrix tells
# distances apart no better, as the losses document. The index miner may take either of two ends
# that tie within rounding, which changes the mean over a batch of 256 by up to 1e-4.
TOLERANCE: Mapping[str, float] = MappingProxyType(
    {"random": 1e-4, "clustered": 1e-4, "collapsed": 1e-3}
)


class WrongCaseError(Exception):
    """A case that must not be timed."""


class Truth:
    """The distances of a batch that losses are made of, in float64."""

    def __init__(self, batch: Batch) -> None:
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


def triplet_mined(truth: Truth) -> Tensor:
    """Per ordered pair, the endpoint of the nearest curve that is nearer to the nearest point."""
    first, second = truth.pairs("all")
    nearest = truth.all_gaps.argmin(1)
    ends = first[nearest], second[nearest]
    t = closest_on_arcs(*(truth.rows[i] for i in (first, second, *ends))).t
    negative = torch.where(t <= 0.5, *ends)
    d_ap = truth.distances[first, second]
    d_an = torch.stack([truth.distances[anchor, negative] for anchor in (first, second)])
    return mean_of_positive(relu(d_ap - d_an + TRIPLET_MARGIN))


def triplet_synthetic(truth: Truth) -> Tensor:
    """Per ordered pair, the distance of its curve to the nearest; both orders are alike."""
    d_ap = truth.distances[truth.pairs("all")]
    return mean_of_positive(relu(d_ap - truth.all_gaps.amin(1) + TRIPLET_MARGIN))


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


EXPECTED: Mapping[str, Callable[[Truth], Tensor]] = MappingProxyType(
    {
        cases.ON_SYNTHETIC: multi_similarity_synthetic,
        cases.ORIGINAL: hphn_original,
        cases.LOOP_CONSECUTIVE: lambda truth: hphn_loop(truth, "consecutive"),
        cases.LOOP: hphn_loop,
        cases.EXPANSION: hphn_expansion,
        cases.INDEX_MINER: triplet_mined,
        cases.SYNTHETIC: multi_similarity_synthetic,
        cases.SYNTHETIC_TRIPLET: triplet_synthetic,
        cases.SYNTHETIC_CONTRASTIVE: contrastive_synthetic,
    }
)


def step_once(case: Case, batch: Batch) -> float:
    """The value of a step on a batch, after checking that it and its gradient are finite."""
    leaf = batch.embeddings.clone().requires_grad_()
    loss = case.build(batch)(leaf, batch.labels)
    loss.backward()
    if not loss.isfinite():
        raise WrongCaseError(f"{case.name}: the loss is {loss.item()}")
    if leaf.grad is None or not leaf.grad.isfinite().all():
        raise WrongCaseError(f"{case.name}: the gradient is not finite")
    return loss.item()


def check(cases_: list[Case], batch: Batch, tolerance: float) -> None:
    """Raise `WrongCaseError` unless each case gives what it should on the first rows of a batch."""
    head = batch.head(ROWS)
    truth = Truth(head)
    for case in cases_:
        value = step_once(case, head)
        if case.name in EXPECTED:
            expected = EXPECTED[case.name](truth).item()
            if not abs(value - expected) <= tolerance:
                raise WrongCaseError(f"{case.name}: the loss is {value:.7g}, not {expected:.7g}")
