"""A batch against a queue of references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from benchmarks.steps.batches import PER_CLASS_BESIDE_QUEUE, Setting
from benchmarks.steps.cases import BATCH_HARD, LOOP_DEFAULT, without_kernels
from benchmarks.steps.report.markdown import code, number, table
from benchmarks.steps.report.ratios import Ratio, mean_ratio
from benchmarks.steps.results import Comparison, Row, comparisons
from benchmarks.steps.suites import PLAIN

OURS = Ratio(LOOP_DEFAULT, BATCH_HARD)


def amount(comparison: Comparison, name: str) -> float:
    """What was measured of a case, or NaN."""
    return comparison[name].amount if name in comparison else float("nan")


def cells(
    times: Mapping[Setting, Comparison],
    peaks: Mapping[Setting, Comparison],
    size: Setting,
    kinds: Sequence[str],
) -> Iterator[float]:
    """The numbers of one queue."""
    peak = peaks.get(size, {})
    for name in (OURS.case, without_kernels(OURS.case), OURS.over):
        yield amount(peak, name)
    for kind in kinds:
        compared = [times.get(replace(size, embeddings=kind), {})]
        for ratio in (OURS, OURS.without_kernels()):
            yield mean_ratio(ratio, compared)


def queue_section(rows: Sequence[Row]) -> list[str]:
    """Peaks, and times over those of hard mining, by the size of the queue."""
    times, peaks = (comparisons(rows, "queue", measure) for measure in ("time", "memory"))
    if not times:
        return []
    sizes = sorted(
        {replace(s, embeddings=PLAIN[0]) for s in times}, key=lambda s: (s.per_class, s.references)
    )
    kinds = [kind for kind in PLAIN if kind in {s.embeddings for s in times}]
    body = [
        [f"{s.references:,}", s.per_class, *map(number, cells(times, peaks, s, kinds))]
        for s in sizes
    ]
    ratios = (f"time over PML's, {kind}{of}" for kind in kinds for of in ("", ", without numba"))
    return [
        "## Queues",
        "",
        f"A batch of {sizes[0].batch} rows in {sizes[0].dim} dimensions, "
        f"{PER_CLASS_BESIDE_QUEUE} of each class, against the rows of a queue, as "
        f"`CrossBatchMemory` holds them. Ours is {code(OURS.case)}, PML's is {code(OURS.over)}, "
        "both on the same rows. Memory is the rise of the peak in a fresh process. The queue "
        f"itself does not count. It is measured on {PLAIN[0]} embeddings.",
        "",
        table(
            ["rows of the queue", "of a class", "MB, ours", "without numba", "PML's", *ratios],
            body,
        ),
        "",
    ]
