"""Measure time and memory of training steps (forward and backward), ours and others'.

Cases that are compared run in one process and take turns, so read ratios, not milliseconds. Before
a comparison is timed, each loss has to have the right value on the first rows of that very batch
and a finite gradient on all of it; a wrong one ends the run with its name. From the root of the
repository, with `loopml` installed (extra `examples`):

    python -m benchmarks.steps.run --suite table --batch 128 --dim 512 --per-class 2
    python -m benchmarks.steps.run --suite table growth --output benchmarks/results/steps.csv

The first prints two comparisons. The second appends the rows of each to a file as it comes, and
leaves out what the file has of this very commit, so that a run that was cut off goes on.
`python -m benchmarks.steps.all` measures everything and makes `docs/benchmarks.md` of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.provenance import commit
from benchmarks.steps.batches import Setting, make
from benchmarks.steps.cases import BATCH_HARD
from benchmarks.steps.gate import TOLERANCE, WrongCaseError, check
from benchmarks.steps.kernels import used
from benchmarks.steps.memory import peak_in_fresh_process
from benchmarks.steps.results import Row, append, comparison, read
from benchmarks.steps.suites import PLAIN, SUITES, Experiment
from benchmarks.steps.timing import interleaved


def timed(experiment: Experiment, budget: float, threads: int) -> list[Row]:
    """The times of an experiment, once its losses are known to be right."""
    batch = make(experiment.setting)
    cases = experiment.cases
    check(cases, batch, TOLERANCE[experiment.setting.embeddings])
    times = {name: t._asdict() for name, t in interleaved(cases, batch, budget).items()}
    return comparison(experiment.part, "time", experiment.setting, times, threads)


def weighed(experiment: Experiment, threads: int) -> list[Row]:
    """The peaks of memory of an experiment."""
    setting = experiment.setting
    peaks = {
        case.name: {"peak_mb": peak_in_fresh_process(case.name, setting, threads)}
        for case in experiment.cases
    }
    return comparison(experiment.part, "memory", setting, peaks, threads)


def table(rows: Sequence[Row]) -> str:
    """One comparison, to read along; ratios are over PML's batch-hard triplet where it is there."""
    unit = "ms" if rows[0].measure == "time" else "MB"
    (yardstick,) = [row for row in rows if row.case == BATCH_HARD] or rows[:1]
    lines = [f"{rows[0].part}: {rows[0].setting}  ({unit}, over {yardstick.case})"]
    for row in rows:
        ratio = f"{row.amount / yardstick.amount:8.2f}" if yardstick.amount > 0 else ""
        lines.append(f"  {row.case:56} {row.amount:10.2f} {ratio}")
    return "\n".join(lines)


def done(path: Path | None) -> set[tuple[str, str, Setting]]:
    """What a file has of this very code already."""
    if path is None or commit().endswith("-dirty"):
        return set()
    code = commit(), used()
    rows = [row for row in read(path) if (row.commit, row.numba) == code]
    return {(row.part, row.measure, row.setting) for row in rows}


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", nargs="+", choices=SUITES, required=True)
    parser.add_argument("--output", type=Path, help="CSV file that rows are appended to")
    parser.add_argument(
        "--budget", type=float, default=5, help="seconds per comparison (but at least 5 rounds)"
    )
    parser.add_argument("--threads", type=int, default=1)
    narrow = parser.add_argument_group("only the part of the suite with")
    narrow.add_argument("--batch", type=int, nargs="+")
    narrow.add_argument("--dim", type=int, nargs="+")
    narrow.add_argument("--per-class", type=int, nargs="+")
    narrow.add_argument("--embeddings", nargs="+", choices=PLAIN)
    narrow.add_argument("--references", type=int, nargs="+")
    return parser.parse_args(arguments)


def chosen(options: argparse.Namespace) -> list[Experiment]:
    """The experiments of the command line."""
    names = ("batch", "dim", "per_class", "embeddings", "references")
    return [
        experiment
        for suite in options.suite
        for experiment in SUITES[suite]
        if all(
            getattr(options, name) is None
            or getattr(experiment.setting, name) in getattr(options, name)
            for name in names
        )
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 where a case is wrong."""
    options = options_of(arguments)
    torch.set_num_threads(options.threads)
    known = done(options.output)
    left = [e for e in chosen(options) if (e.part, e.measure, e.setting) not in known]
    experiments = tqdm(left, unit="comparison", disable=None)
    for experiment in experiments:
        experiments.set_postfix_str(f"{experiment.part}: {experiment.setting}")
        try:
            if experiment.measure == "time":
                rows = timed(experiment, options.budget, options.threads)
            else:
                rows = weighed(experiment, options.threads)
        except WrongCaseError as wrong:
            print(f"not timed: {wrong} ({experiment.setting})", file=sys.stderr)
            return 1
        if options.output:
            append(options.output, rows)
        experiments.write(table(rows), file=sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
