"""Count the calls of PyTorch operators in a training step: what small batches spend their time on.

    python -m benchmarks.steps.calls

writes `benchmarks/results/calls.csv`, which `benchmarks/steps/report.py` puts beside the times.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.provenance import RESULTS, commit
from benchmarks.steps.batches import Batch, Setting, make
from benchmarks.steps.cases import CASES, Case

SETTING = Setting(batch=32, dim=128, per_class=2, embeddings="random")


class Counter(TorchDispatchMode):
    """Counts the operators that reach a kernel, views included."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and go on."""
        self.calls += 1
        return func(*args, **(kwargs or {}))


def calls_of(case: Case, batch: Batch) -> tuple[int, int]:
    """Calls of the forward and of the backward pass of one step."""
    step, leaf = case.build(batch), batch.embeddings.clone().requires_grad_()
    with Counter() as forward:
        loss = step(leaf, batch.labels)
    with Counter() as backward:
        loss.backward()
    return forward.calls, backward.calls


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "calls.csv")
    options = parser.parse_args(arguments)
    batch = make(SETTING)
    with options.output.open("w", newline="") as lines:
        rows = csv.writer(lines, lineterminator="\n")
        rows.writerow(["case", "batch", "dim", "per_class", "forward", "backward", "commit"])
        for case in CASES.values():
            setting = (SETTING.batch, SETTING.dim, SETTING.per_class)
            rows.writerow([case.name, *setting, *calls_of(case, batch), commit()])


if __name__ == "__main__":
    main()
