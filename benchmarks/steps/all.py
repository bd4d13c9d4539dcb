"""Measure everything that `docs/benchmarks.md` shows, and make that page.

    python -m benchmarks.steps.all

About 25 minutes on two cores; leave the machine alone meanwhile. A run that was cut off goes on
where it was, as long as the code stays the same; rows of other code are dropped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy import conditioning
from benchmarks.provenance import RESULTS
from benchmarks.steps import calls, compilation, run
from benchmarks.steps.report import __main__ as report
from benchmarks.steps.results import append, read

SUITES = ("table", "papers", "queue", "memory", "growth")


def keep_own(path: Path) -> None:
    """Drop the rows of other code, so that a page never mixes two."""
    rows = read(path)
    known = run.done(path)
    own = [row for row in rows if (row.part, row.measure, row.setting) in known]
    if len(own) < len(rows):
        path.unlink()
        append(path, own)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 where a case is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the CSV files")
    parser.add_argument("--docs", type=Path, default=report.DOCS, help="folder of the page")
    parser.add_argument("--budget", type=float, default=5, help="seconds per comparison")
    parser.add_argument("--smoke", action="store_true", help="on batches that take no time")
    options = parser.parse_args(arguments)
    output, smoke = options.output, options.smoke
    output.mkdir(parents=True, exist_ok=True)
    steps, suites = output / "steps.csv", ("smoke",) if smoke else SUITES
    keep_own(steps)
    budget = str(0 if smoke else options.budget)
    if run.main(["--suite", *suites, "--output", str(steps), "--budget", budget]):
        return 1
    calls.main(["--output", str(output / "calls.csv")])
    compilation.main(["--output", str(output / "compilation.csv")])
    problems = str(2 if smoke else conditioning.PROBLEMS)
    table, figure = output / "conditioning.csv", options.docs / report.CONDITIONING
    figure.parent.mkdir(parents=True, exist_ok=True)
    where = ["--output", str(table), "--figure", str(figure)]
    conditioning.main(["--problems", problems, *where])
    report.main(["--results", str(output), "--docs", str(options.docs)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
