"""What a training step of each cell of the retrieval study costs over the plain loss.

    python -m benchmarks.study.steps

The study runs two trainings at a time, so that the times in its rows depend on the neighbour. Here
all cells take turns on one batch in one thread: forward, loss and backward. Writes
`retrieval_study_steps.csv` beside the study's results, at the settings that it chose.
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from benchmarks.provenance import RESULTS
from benchmarks.study.cells import LOSSES, Cell, objective, syntheses_of
from benchmarks.study.ledger import STEPS, Ledger
from benchmarks.study.run import batches_of
from benchmarks.study.tasks import DATASETS, final_task


def measure(dataset: str, ledger: Ledger, rounds: int) -> list[dict[str, Any]]:
    """The median step of each cell, in seconds and over that of its plain loss."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002, MPerClassSampler draws from this generator
    task = final_task(dataset)
    net = task.make_net().train()
    inputs, labels = next(iter(batches_of(task, TensorDataset(task.inputs, task.labels))))
    cells = [Cell(dataset, loss, name) for loss in LOSSES for name in syntheses_of(loss)]
    cells = [cell for cell in cells if ledger.validation_scores(cell)]
    steps = {cell: objective(cell, ledger.best_setting(cell).margin, epoch=1) for cell in cells}
    seconds: dict[Cell, list[float]] = {cell: [] for cell in cells}
    order = random.Random(0)
    for turn in range(rounds + 1):
        for cell in order.sample(cells, len(cells)):
            net.zero_grad()
            start = time.perf_counter()
            steps[cell](net(inputs), labels).backward()
            if turn:  # the first round warms up
                seconds[cell].append(time.perf_counter() - start)
    rows = []
    for cell in cells:
        plain = median(seconds[cell._replace(synthesis="none")])
        own = median(seconds[cell])
        name = {"dataset": cell.dataset, "loss": cell.loss, "synthesis": cell.synthesis}
        rows.append({**name, "rounds": rounds, "seconds": own, "over_plain": own / plain})
    return rows


def main() -> None:
    """Measure both data sets and write one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the study's results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ledger = Ledger(options.out)
    rows = [row for name in DATASETS for row in measure(name, ledger, options.rounds)]
    with (options.out / STEPS).open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *ledger.where])
        writer.writeheader()
        for row in rows:
            short = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
            writer.writerow({**short, **ledger.where})


if __name__ == "__main__":
    main()
