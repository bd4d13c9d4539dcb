"""The correctness gate: no time is taken of a step whose result is wrong.

A loss of ours has to have the value of `benchmarks/steps/expected.py` on the first `ROWS` rows of
the very batch, and the triplets of our miner the triplet loss that the right ones have. Of every
case the gate wants a finite value and a finite gradient, or some tuples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from torch import Tensor

from benchmarks.steps.batches import Batch
from benchmarks.steps.cases import Case, Found, run
from benchmarks.steps.expected import EXPECTED, Truth, triplet

ROWS = 256
# Largest errors seen: 3e-7. The index miner may take either of two ends that tie within rounding,
# which changes the mean over a batch of 256 by up to 1e-4.
TOLERANCE: Mapping[str, float] = MappingProxyType({"random": 1e-4, "clustered": 1e-4})


class WrongCaseError(Exception):
    """A case that must not be timed."""


def step_once(case: Case, batch: Batch) -> Found:
    """What a step finds on a batch, after checking that it is finite, and its gradient."""
    leaf = batch.embeddings.clone().requires_grad_()
    with case.backend():
        found = run(case.build(batch), leaf, batch.labels)
    if not isinstance(found, Tensor):
        if not len(found[0]):
            raise WrongCaseError(f"{case.name}: no tuples")
        return found
    if not found.isfinite():
        raise WrongCaseError(f"{case.name}: the loss is {found.item()}")
    if leaf.grad is None or not leaf.grad.isfinite().all():
        raise WrongCaseError(f"{case.name}: the gradient is not finite")
    return found.detach()


def check(cases: Sequence[Case], batch: Batch, tolerance: float) -> None:
    """Raise `WrongCaseError` unless each case gives what it should on the first rows of a batch."""
    head = batch.head(ROWS)
    truth = Truth(head)
    for case in cases:
        found = step_once(case, head)
        if case.name in EXPECTED:
            value = (found if isinstance(found, Tensor) else triplet(truth, found)).item()
            wanted = EXPECTED[case.name](truth).item()
            if not abs(value - wanted) <= tolerance:
                raise WrongCaseError(f"{case.name}: the loss is {value:.7g}, not {wanted:.7g}")
