"""Memory of one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.steps import cases
from benchmarks.steps.batches import Setting
from benchmarks.steps.cases import BATCH_HARD, CASES, ONE_PRODUCT
from benchmarks.steps.report.markdown import code, listed, number, source, table
from benchmarks.steps.report.ratios import Ratio, mean_ratio
from benchmarks.steps.results import Comparison, Row, comparisons, rows_of

OVER = {
    **dict.fromkeys(CASES, (BATCH_HARD, ONE_PRODUCT)),
    **{
        name: (over,)
        for ours, over in (
            (cases.SYNTHETIC, cases.MULTI_SIMILARITY),
            (cases.SYNTHETIC_CONTRASTIVE, cases.CONTRASTIVE),
        )
        for name in (ours, cases.without_kernels(ours))
    },
}


def memory_table(found: Mapping[Setting, Comparison]) -> str:
    """Peaks by case and setting, and over what they are compared with."""
    settings = sorted(found, key=lambda s: (s.dim, s.per_class))
    names = list(dict.fromkeys(name for comparison in found.values() for name in comparison))
    overs = list(dict.fromkeys(over for name in names for over in OVER[name] if over in names))
    body = []
    for name in names:
        peaks = [found[s][name].amount if name in found[s] else float("nan") for s in settings]
        of = [
            number(mean_ratio(Ratio(name, over), found.values())) if over in OVER[name] else ""
            for over in overs
        ]
        body.append([code(name), *map(number, peaks), *of])
    head = [f"{s.dim}-d, {s.per_class} a class" for s in settings]
    return table(["MB", *head, *(f"over {code(over)}" for over in overs)], body)


def memory_section(rows: Sequence[Row]) -> list[str]:
    """Peaks of one step, a table for each batch size."""
    found = comparisons(rows, "memory", "memory")
    if not found:
        return []
    lines = [
        "## Memory",
        "",
        "How far one step raises the peak of a fresh process above what it held before. Ratios are "
        "geometric means over the columns.",
        "",
    ]
    for batch in sorted({s.batch for s in found}, reverse=True):
        of_batch = {s: comparison for s, comparison in found.items() if s.batch == batch}
        kinds = listed(sorted({s.embeddings for s in of_batch}))
        lines += [f"Batch {batch}, {kinds} embeddings:", "", memory_table(of_batch), ""]
    return [*lines, source(rows_of(found), "memory"), ""]
