"""How long the kernels of the steps on the page take to compile, and to load once compiled.

The first step of each case in a fresh process, less the second: with an empty cache of numba, and
in a second process that finds what the first one left there.

    python -m benchmarks.steps.compilation

writes `benchmarks/results/compilation.csv`; it has no rows where the library runs without kernels.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.provenance import RESULTS, ROOT, commit_and_machine
from benchmarks.steps.batches import Setting, make
from benchmarks.steps.cases import CASES, Case, without_kernels
from benchmarks.steps.kernels import used
from benchmarks.steps.suites import TABLE
from benchmarks.steps.timing import seconds

BATCH = make(Setting(batch=128, dim=128, per_class=4, embeddings="random"))
TIMED = [name for name in TABLE if without_kernels(name) in CASES]
CACHES = ("empty", "filled")


def step(case: Case) -> float:
    """Seconds of one step."""
    return seconds(case, case.build(BATCH), BATCH)


def seconds_of_first_use() -> float:
    """What the first step of each case takes beyond its second, in this process."""
    for name in TIMED:  # what PyTorch does on first use does not count
        step(CASES[without_kernels(name)])
    return sum(step(CASES[name]) - step(CASES[name]) for name in TIMED)


def in_fresh_process(cache: str) -> float:
    """The same in a process of its own, with this folder for compiled functions."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.steps.compilation", "--here"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "compilation.csv")
    parser.add_argument("--here", action="store_true", help="print the seconds in this process")
    options = parser.parse_args(arguments)
    if options.here:
        torch.set_num_threads(1)
        print(seconds_of_first_use())
        return
    where = {"numba": used(), **commit_and_machine()}
    with tempfile.TemporaryDirectory() as cache, options.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["cache", "seconds", *where], lineterminator="\n")
        writer.writeheader()
        for state in CACHES if used() else ():
            writer.writerow({"cache": state, "seconds": f"{in_fresh_process(cache):.3g}", **where})


if __name__ == "__main__":
    main()
