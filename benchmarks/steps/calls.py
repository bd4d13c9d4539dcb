"""Count the calls of PyTorch operators in a training step: what small batches spend their time on.

    python -m benchmarks.steps.calls

writes `benchmarks/results/calls.csv`, which the page shows.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.provenance import RESULTS, commit_and_machine
from benchmarks.steps.batches import Batch, Setting, make
from benchmarks.steps.cases import CASES, Case, run
from benchmarks.steps.gate import step_once
from benchmarks.steps.kernels import used
from benchmarks.steps.suites import TABLE

SETTING = Setting(batch=32, dim=128, per_class=2, embeddings="random")


class Counter(TorchDispatchMode):
    """Counts the operators that reach a kernel, views included."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and go on."""
        self.calls += 1
        return func(*args, **(kwargs or {}))


def calls_of(case: Case, batch: Batch) -> int:
    """Calls of one step, forward and backward."""
    step_once(case, batch)  # what is done on first use alone is not counted
    step, leaf = case.build(batch), batch.embeddings.clone().requires_grad_()
    with case.backend(), Counter() as counter:
        run(step, leaf, batch.labels)
    return counter.calls


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "calls.csv")
    options = parser.parse_args(arguments)
    batch, where = make(SETTING), {"numba": used(), **commit_and_machine()}
    rows = [
        {"case": name, "batch": str(SETTING), "calls": calls_of(CASES[name], batch), **where}
        for name in TABLE
    ]
    with options.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
