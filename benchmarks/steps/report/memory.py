"""Memory of one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.steps.batches import Setting
from benchmarks.steps.cases import without_kernels
from benchmarks.steps.report.markdown import listed, number, over, span, table
from benchmarks.steps.report.ratios import OVER_ONE_PRODUCT, RATIOS, Ratio, mean_ratio
from benchmarks.steps.results import Comparison, Row, comparisons

HEAD = (
    "step over step",
    "rows",
    "MB, ours",
    "without numba",
    "MB, theirs",
    "ours over theirs",
    "without numba",
)


def line(ratio: Ratio, found: Mapping[Setting, Comparison]) -> list[object]:
    """The peaks of a step and of what it is compared with; none where it was not measured."""
    both = {s: c for s, c in found.items() if {*ratio} <= c.keys()}
    if not both:
        return []
    peaks = (
        [c[name].amount for c in both.values() if name in c]
        for name in (ratio.case, without_kernels(ratio.case), ratio.over)
    )
    return [
        over(ratio),
        listed(sorted({s.batch for s in both})),
        *(span(of_case) if of_case else "" for of_case in peaks),
        *(number(mean_ratio(r, both.values())) for r in (ratio, ratio.without_kernels())),
    ]


def memory_section(rows: Sequence[Row]) -> list[str]:
    """Peaks of one step."""
    found = comparisons(rows, "memory", "memory")
    body = [cells for ratio in (*RATIOS, *OVER_ONE_PRODUCT) if (cells := line(ratio, found))]
    if not body:
        return []
    dims = listed(sorted({s.dim for s in found}))
    classes = listed(sorted({s.per_class for s in found}))
    kinds = listed(sorted({s.embeddings for s in found}))
    return [
        "## Memory",
        "",
        "How far one step raises the peak of a fresh process above what it held before. MB are the "
        f"least and the greatest over {kinds} embeddings in {dims} dimensions with {classes} rows "
        "of a class. Ratios are geometric means.",
        "",
        table(HEAD, body),
        "",
    ]
