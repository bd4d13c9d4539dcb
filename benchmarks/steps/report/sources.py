"""How the numbers were measured: commands, commits, machines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.steps.gate import ROWS
from benchmarks.steps.report.markdown import listed, table
from benchmarks.steps.results import Row

RUN = "python -m benchmarks.steps.run --output benchmarks/results/steps.csv --suite"
# A section of the page, and the suite that it is made of.
SUITES = {
    "Growth": "growth",
    "Time": "table",
    "The papers' algorithm": "papers",
    "Memory": "memory",
    "Queues": "queue",
}


class Source(NamedTuple):
    """What a section was measured by, with what code and where."""

    section: str
    command: str
    commit: str
    machine: str


def of_rows(rows: Sequence[Row]) -> Iterable[Source]:
    """The sections that were measured by a suite."""
    for section, suite in SUITES.items():
        part = [row for row in rows if row.part == suite]
        if part:
            yield Source(section, f"{RUN} {suite}", each(part, "commit"), machine(part))


def each(rows: Iterable[Row], *names: str) -> str:
    """The values of a column, each once."""
    return listed(sorted({" ".join(str(getattr(row, n)) for n in names) for row in rows}))


def machine(rows: Sequence[Row]) -> str:
    """With the versions of what ran on it."""
    numba = listed(sorted({row.numba or "no numba" for row in rows}))
    return (
        f"{each(rows, 'cpu')}, {each(rows, 'cores')} cores, torch {each(rows, 'torch')}, {numba}, "
        f"pytorch-metric-learning {each(rows, 'pml')}"
    )


def of_lines(section: str, module: str, lines: Sequence[Mapping[str, str]]) -> list[Source]:
    """A section that a module of its own measured, if it did."""
    if not lines:
        return []
    row = lines[0]
    where = row.get("machine") or f"{row['cpu']}, torch {row['torch']}"
    versions = f"{where}, {row['numba'] or 'no numba'}" if "numba" in row else where
    return [Source(section, f"python -m benchmarks.{module}", row["commit"], versions)]


def sources_section(sources: Sequence[Source]) -> list[str]:
    """What every number of the page has in common, and each section's own."""
    if not sources:
        return []
    machines = list(dict.fromkeys(source.machine for source in sources))
    body = [
        [s.section, f"`{s.command}`", s.commit, f"({machines.index(s.machine) + 1})"]
        for s in sources
    ]
    return [
        "## How it was measured",
        "",
        "On a CPU with one thread. `python -m benchmarks.steps.all` measures everything and makes "
        "this page from the files in `benchmarks/results`. Nothing here was measured on a GPU.",
        "",
        "- Steps that are compared take turns in one process.",
        f"- No time is taken before each loss of ours has the right value on the first {ROWS} rows "
        "of that very batch, and every loss a finite gradient on all of it.",
        "- Times are medians of processor time. They depend on the machine and its load. Their "
        "ratios depend on it much less.",
        "",
        table(["section", "command", "commit", "machine"], body),
        "",
        *(f"({i}) {machine}." + "\n" for i, machine in enumerate(machines, 1)),
    ]
