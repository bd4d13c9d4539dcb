"""Numbers, tables and where they come from, as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan

from benchmarks.steps.results import Row

RUN = "python -m benchmarks.steps.run --output benchmarks/results/steps.csv --suite"


def number(value: float) -> str:
    """Two or three digits; nothing where there is no value."""
    if isnan(value):
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def listed(values: Iterable[object]) -> str:
    """1, 2 and 3."""
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}" if most else last


def table(head: Sequence[object], lines: Iterable[Sequence[object]]) -> str:
    """In Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def code(name: str) -> str:
    """A case as it stands in sentences and tables."""
    return f"`{name}`"


def source(rows: Sequence[Row], suite: str) -> str:
    """Under a table: the command, the code and the machine."""

    def of(*names: str) -> str:
        return listed(sorted({" ".join(str(getattr(row, n)) for n in names) for row in rows}))

    numba = listed(sorted({row.numba or "no numba" for row in rows}))
    return (
        f"`{RUN} {suite}`; commit {of('commit')}, {min(row.date for row in rows)[:10]}; "
        f"{of('cpu')}, {of('cores')} cores, {of('threads')} thread(s), torch {of('torch')}, "
        f"{numba}, pytorch-metric-learning {of('pml')}."
    )
