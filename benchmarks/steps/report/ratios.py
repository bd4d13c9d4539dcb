"""Steps over what they are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from benchmarks.steps import cases
from benchmarks.steps.batches import Setting
from benchmarks.steps.cases import BATCH_HARD, ONE_PRODUCT, without_kernels
from benchmarks.steps.report.markdown import geometric_mean
from benchmarks.steps.results import Comparison
from benchmarks.steps.suites import HPHN


class Ratio(NamedTuple):
    """A case over a yardstick."""

    case: str
    over: str

    def without_kernels(self) -> Ratio:
        """The same where numba is not installed."""
        return Ratio(without_kernels(self.case), self.over)


# What a user would have to run in the place of ours.
RATIOS = (
    *(Ratio(case, BATCH_HARD) for case in HPHN),
    Ratio(cases.MINED_TRIPLET, BATCH_HARD),
    Ratio(cases.LOOP_MINER, cases.BATCH_HARD_MINER),
    Ratio(cases.LOOP_MINER, cases.MULTI_SIMILARITY_MINER),
    Ratio(cases.SYNTHETIC, cases.MULTI_SIMILARITY),
    Ratio(cases.SYNTHETIC_CONTRASTIVE, cases.CONTRASTIVE),
)
# What no step with a whole batch can do without.
OVER_ONE_PRODUCT = tuple(Ratio(case, ONE_PRODUCT) for case in HPHN)


def ratios(ratio: Ratio, found: Iterable[Comparison]) -> list[float]:
    """Of the comparisons that have both.

    A step that fits into the memory which a process keeps from its start has a peak of 0.
    """
    pairs = [(c[ratio.case].amount, c[ratio.over].amount) for c in found if {*ratio} <= c.keys()]
    return [case / over for case, over in pairs if min(case, over) > 0]


def mean_ratio(ratio: Ratio, found: Iterable[Comparison]) -> float:
    """Their geometric mean."""
    return geometric_mean(ratios(ratio, found))


def by_batch(ratio: Ratio, found: Mapping[Setting, Comparison]) -> dict[int, list[float]]:
    """Those of each batch size."""
    return {
        batch: ratios(ratio, where(found, batch=batch))
        for batch in sorted({s.batch for s in found})
    }


def where(found: Mapping[Setting, Comparison], **values: object) -> list[Comparison]:
    """The comparisons of the settings with these values."""
    return [
        comparison
        for setting, comparison in found.items()
        if all(getattr(setting, name) == value for name, value in values.items())
    ]
