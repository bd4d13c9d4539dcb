"""The page in a few sentences, losses included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.steps import cases
from benchmarks.steps.batches import Setting
from benchmarks.steps.cases import BATCH_HARD, LOOP, LOOP_CONSECUTIVE, LOOP_DEFAULT, ORIGINAL
from benchmarks.steps.report.markdown import code, listed, number
from benchmarks.steps.report.ratios import (
    RATIOS,
    Ratio,
    by_batch,
    mean_ratio,
    where,
)
from benchmarks.steps.results import Comparison, Row, comparisons

HARD_MINING = Ratio(LOOP, BATCH_HARD)


def at_batches(means: Mapping[int, float]) -> str:
    """0.5 at 32 and 0.2 at 64."""
    return listed(f"{number(mean)} at {batch}" for batch, mean in means.items())


def above_one(ratio: Ratio, found: Mapping[Setting, Comparison]) -> dict[int, float]:
    """Where ours takes longer than what it is compared with."""
    return {batch: mean for batch, mean in by_batch(ratio, found).items() if mean >= 1}


def of_time(rows: Sequence[Row]) -> list[str]:
    """Against hard mining, and what is slower."""
    found = comparisons(rows, "table", "time")
    if not found:
        return []
    pure = [len(above_one(ratio.without_kernels(), found)) for ratio in RATIOS]
    slower = {ratio: above for ratio in RATIOS if (above := above_one(ratio, found))}
    cells = len(RATIOS) * len({s.batch for s in found})
    with_kernels = by_batch(HARD_MINING, found)
    without = by_batch(HARD_MINING.without_kernels(), found)
    return [
        f"- **Time.** A step of {code(LOOP)} takes the time of {code(BATCH_HARD)} times "
        f"{at_batches(with_kernels)} rows, with numba (the extra `fast`). Without numba the "
        f"factors are {at_batches(without)}.",
        f"- **Slower** than what it is compared with: {sum(pure)} of {cells} cells of "
        f"[the table](#time) without numba, {sum(map(len, slower.values()))} with it"
        f"{':' if slower else '.'}",
        *(
            f"    - {code(ratio.case)} over {code(ratio.over)}: {at_batches(above)} rows"
            for ratio, above in slower.items()
        ),
    ]


def of_memory(rows: Sequence[Row]) -> list[str]:
    """Against hard mining, and against the inner loss."""
    found = comparisons(rows, "memory", "memory")
    mean = mean_ratio(HARD_MINING, found.values())
    if mean != mean:
        return []
    batch = max(s.batch for s in found)
    inner = Ratio(cases.SYNTHETIC, cases.MULTI_SIMILARITY)
    more = mean_ratio(inner, found.values())
    return [
        f"- **Memory.** At batch {batch} the step of {code(LOOP)} takes {number(mean)} of the "
        f"memory of {code(BATCH_HARD)}. A {code(inner.case)} takes {number(more)} times that of "
        f"{code(inner.over)} on the plain batch."
    ]


def of_queues(rows: Sequence[Row]) -> list[str]:
    """The largest queue."""
    found = comparisons(rows, "queue", "memory")
    if not found:
        return []
    most = max(s.references for s in found)
    peaks = {s.per_class: c[LOOP_DEFAULT].amount for s, c in found.items() if s.references == most}
    batch = next(iter(found)).batch
    each = listed(f"{number(peak)} MB with {m} of a class" for m, peak in sorted(peaks.items()))
    return [f"- **Queues.** A batch of {batch} against a queue of {most:,} rows takes {each}."]


def of_papers(rows: Sequence[Row]) -> list[str]:
    """Theirs over ours."""
    found = comparisons(rows, "papers", "time")
    if not found:
        return []
    ratio = Ratio(ORIGINAL, LOOP_CONSECUTIVE)
    means = {
        dim: mean_ratio(ratio, where(found, dim=dim)) for dim in sorted({s.dim for s in found})
    }
    factors = listed(f"{number(mean)} times as long in {dim}-d" for dim, mean in means.items())
    batch = next(iter(found)).batch
    return [
        f"- **The papers' algorithm**, transcribed to PyTorch, takes {factors} at batch {batch}."
    ]


def summary(rows: Sequence[Row]) -> list[str]:
    """All of it."""
    lines = [*of_time(rows), *of_memory(rows), *of_queues(rows), *of_papers(rows)]
    return ["## In short", "", *lines, ""] if lines else []
