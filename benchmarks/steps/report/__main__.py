"""Make `docs/benchmarks.md` and its first figure from the rows that were measured.

    python -m benchmarks.steps.report

Every number and every verdict in that page is computed here. Where a comparison was measured more
than once the last counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.provenance import RESULTS, ROOT
from benchmarks.steps.gate import ROWS
from benchmarks.steps.report.accuracy import accuracy_section
from benchmarks.steps.report.calls import calls_section, compilation_section, lines_of
from benchmarks.steps.report.figure import draw_step_times
from benchmarks.steps.report.memory import memory_section
from benchmarks.steps.report.papers import papers_section
from benchmarks.steps.report.queues import queue_section
from benchmarks.steps.report.summary import summary
from benchmarks.steps.report.targets import targets_section
from benchmarks.steps.report.times import growth_section, ratios_section
from benchmarks.steps.results import comparisons, read

DOCS = ROOT / "docs"
TARGETS = Path(__file__).parent.with_name("targets.csv")
GROWTH, CONDITIONING = "figures/step_time.png", "figures/conditioning.png"
INTRODUCTION = f"""\
# Benchmarks

What a training step costs: the loss, forward and backward, without the net. A step of a net with
real images takes far longer than any of these. `python -m benchmarks.steps.all` measures everything
and makes this page from the files in `benchmarks/results`; under each table is the command that
measures it alone. One thread, on a CPU.

Steps that are compared take turns in one process. No time is taken before each loss of ours has the
right value on the first {ROWS} rows of that very batch, and every loss a finite gradient on all of
it. Times are medians of processor time. They depend on the machine and its load, their ratios much
less: read ratios.
"""


def page(results: Path, targets: Path) -> str:
    """All sections that there are rows for."""
    rows = read(results / "steps.csv")
    lines = [
        *INTRODUCTION.splitlines(),
        "",
        *summary(rows),
        *growth_section(rows, GROWTH),
        *ratios_section(rows),
        *memory_section(rows),
        *queue_section(rows),
        *papers_section(rows),
        *calls_section(lines_of(results / "calls.csv")),
        *compilation_section(lines_of(results / "compilation.csv")),
        *accuracy_section(lines_of(results / "conditioning.csv"), CONDITIONING),
        *targets_section(rows, lines_of(targets)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and its figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    parser.add_argument("--targets", type=Path, default=TARGETS)
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the page")
    options = parser.parse_args(arguments)
    (options.docs / GROWTH).parent.mkdir(parents=True, exist_ok=True)
    (options.docs / "benchmarks.md").write_text(page(options.results, options.targets))
    times = comparisons(read(options.results / "steps.csv"), "growth", "time")
    if times:
        draw_step_times(times, options.docs / GROWTH)


if __name__ == "__main__":
    main()
