"""The page in a few sentences, losses included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.steps import cases
from benchmarks.steps.cases import BATCH_HARD, LOOP, LOOP_CONSECUTIVE, LOOP_DEFAULT, ORIGINAL
from benchmarks.steps.report.markdown import code, geometric_mean, listed, number, span, spread
from benchmarks.steps.report.ratios import RATIOS, Ratio, by_batch, mean_ratio, ratios, where
from benchmarks.steps.results import Row, comparisons

HARD_MINING = Ratio(LOOP, BATCH_HARD)


def at_batches(found: Mapping[int, Iterable[float]]) -> str:
    """0.5 at 32 and 0.2 at 64."""
    return listed(f"{number(geometric_mean(values))} at {batch}" for batch, values in found.items())


def of_time(rows: Sequence[Row]) -> list[str]:
    """Against hard mining, and how much is slower."""
    found = comparisons(rows, "table", "time")
    if not found:
        return []
    ours, pure = HARD_MINING, HARD_MINING.without_kernels()
    slower = [
        sum(geometric_mean(v) >= 1 for r in kinds for v in by_batch(r, found).values())
        for kinds in (RATIOS, [r.without_kernels() for r in RATIOS])
    ]
    cells = len(RATIOS) * len({s.batch for s in found})
    return [
        f"- **Time.** A step of {code(LOOP)} takes the time of {code(BATCH_HARD)} times "
        f"{at_batches(by_batch(ours, found))} rows, with numba (the extra `fast`). Without numba "
        f"the factors are {at_batches(by_batch(pure, found))}. These are means over kinds of "
        "batches.",
        f"- **Slower** than what it is compared with: {slower[0]} of {cells} cells of "
        f"[the table](#time) with numba, {slower[1]} without.",
    ]


def of_papers(rows: Sequence[Row]) -> list[str]:
    """Theirs over ours."""
    found = comparisons(rows, "papers", "time")
    if not found:
        return []
    ratio = Ratio(ORIGINAL, LOOP_CONSECUTIVE)
    factors = listed(
        f"{spread(ratios(ratio, where(found, dim=dim)))} times as long in {dim} dimensions"
        for dim in sorted({s.dim for s in found})
    )
    batch = next(iter(found)).batch
    return [f"- **The papers' algorithm**, in PyTorch, takes {factors}, with {batch} rows."]


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
        f"- **Memory.** With {batch} rows the step of {code(LOOP)} takes {number(mean)} of the "
        f"memory of {code(BATCH_HARD)}. A {code(inner.case)} takes {number(more)} of the memory of "
        f"{code(inner.over)}."
    ]


def of_queues(rows: Sequence[Row]) -> list[str]:
    """The largest queue."""
    times, found = (comparisons(rows, "queue", measure) for measure in ("time", "memory"))
    if not found:
        return []
    factor = span(ratios(Ratio(LOOP_DEFAULT, BATCH_HARD), times.values()))
    most = max(s.references for s in found)
    peaks = {s.per_class: c[LOOP_DEFAULT].amount for s, c in found.items() if s.references == most}
    batch = next(iter(found)).batch
    each = listed(f"{number(peak)} MB with {m} of a class" for m, peak in sorted(peaks.items()))
    return [
        f"- **Queues.** A batch of {batch} against a queue of {most:,} rows takes {each}. Against "
        f"queues a step takes {factor} times as long as hard mining, with numba."
    ]


def summary(rows: Sequence[Row]) -> list[str]:
    """All of it."""
    lines = [*of_time(rows), *of_papers(rows), *of_memory(rows), *of_queues(rows)]
    return ["## In short", "", *lines, ""] if lines else []
