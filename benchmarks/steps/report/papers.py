"""The papers' algorithm over ours."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.steps.cases import LOOP_CONSECUTIVE, ORIGINAL, without_kernels
from benchmarks.steps.report.markdown import code, spread, table
from benchmarks.steps.report.ratios import Ratio, ratios, where
from benchmarks.steps.results import Row, comparisons, rows_of

OURS = (LOOP_CONSECUTIVE, without_kernels(LOOP_CONSECUTIVE))


def papers_section(rows: Sequence[Row]) -> list[str]:
    """The transcription over ours: time and memory, by dimension."""
    body, measured = [], []
    for measure in ("time", "memory"):
        found = comparisons(rows, "papers", measure)
        measured += rows_of(found)
        for dim in sorted({s.dim for s in found}):
            of_dim = where(found, dim=dim)
            times = [ratios(Ratio(ORIGINAL, ours), of_dim) for ours in OURS]
            body.append([measure, f"{dim}-d", *map(spread, times)])
    if not body:
        return []
    batch = measured[0].batch
    return [
        "## The papers' algorithm",
        "",
        "The official code is for MXNet, a retired framework. `benchmarks/steps/original.py` "
        "follows its algorithm in PyTorch: every pair of pairs in all dimensions, ten candidates, "
        "autograd through them. It leaves out the Python loops of the original, so the ratios are "
        f"lower bounds. Theirs over {code(OURS[0])}, with {batch} rows: the geometric mean, and in "
        "brackets the least and the greatest.",
        "",
        table(["", "dimensions", "theirs over ours", "over ours without numba"], body),
        "",
    ]
