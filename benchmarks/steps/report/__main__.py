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
from benchmarks.steps.report.accuracy import accuracy_section
from benchmarks.steps.report.calls import calls_section, compilation_section, lines_of
from benchmarks.steps.report.figure import draw_step_times
from benchmarks.steps.report.memory import memory_section
from benchmarks.steps.report.papers import papers_section
from benchmarks.steps.report.queues import queue_section
from benchmarks.steps.report.sources import of_lines, of_rows, sources_section
from benchmarks.steps.report.summary import summary
from benchmarks.steps.report.targets import targets_section
from benchmarks.steps.report.times import growth_section, ratios_section
from benchmarks.steps.results import comparisons, read

DOCS = ROOT / "docs"
TARGETS = Path(__file__).parent.with_name("targets.csv")
GROWTH, CONDITIONING = "figures/step_time.png", "figures/conditioning.png"
INTRODUCTION = """\
# Benchmarks

What a training step costs: the loss, forward and backward, without the net. A step of a net with
real images takes far longer than any of these. Read ratios: they hang less on the machine than
times do.
"""


def page(results: Path, targets: Path) -> str:
    """All sections that there are rows for."""
    rows = read(results / "steps.csv")
    calls, compiled, accuracy = (
        lines_of(results / f"{name}.csv") for name in ("calls", "compilation", "conditioning")
    )
    sources = [
        *of_rows(rows),
        *of_lines("Calls of operators", "steps.calls", calls),
        *of_lines("Compilation", "steps.compilation", compiled),
        *of_lines("Accuracy", "accuracy.conditioning", accuracy),
    ]
    lines = [
        *INTRODUCTION.splitlines(),
        "",
        *summary(rows),
        *growth_section(rows, GROWTH),
        *ratios_section(rows),
        *papers_section(rows),
        *memory_section(rows),
        *queue_section(rows),
        *calls_section(calls),
        *compilation_section(compiled),
        *accuracy_section(accuracy, CONDITIONING),
        *sources_section(sources),
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
