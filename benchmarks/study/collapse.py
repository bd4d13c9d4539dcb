"""Where hard negatives collapse a training: all embeddings in one point, and no gradient to leave.

HPHN triplet or triplet on the glyphs, for each kind of negatives, learning rate and form of the
loss, with and without a first epoch on real negatives. A training counts as collapsed after an
epoch whose hardest real negatives are nearer than 0.1 on the unit sphere. From the root of the
repository:

    python -m benchmarks.study.collapse hphn
    python -m benchmarks.study.collapse triplet

write `benchmarks/results/collapse_hphn.csv` and `collapse_triplet.csv`, a row for each epoch of
each training (about five minutes each on two CPU cores), and print a table.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any, NamedTuple

import torch

from benchmarks.provenance import RESULTS, commit_and_machine
from examples.kit import glyphs
from examples.kit.training import (
    SYNTHESIZERS,
    Training,
    embed,
    epoch_of_batches,
    fixed_batch,
    hardest_negatives,
    make_loss,
)

NEAR = 0.1
FORMS: dict[str, dict[str, dict[str, Any]]] = {
    "hphn": {
        "margin 0.2": {"margin": 0.2},
        "margin 0.5": {"margin": 0.5},
        "soft": {"soft_margin": True},
    },
    "triplet": {
        "margin 0.2": {"margin": 0.2},
        "margin 0.5": {"margin": 0.5},
        "soft": {"margin": 0.0, "smooth_loss": True},
    },
}
LEARNING_RATES = (3e-4, 1e-3, 3e-3)


class Case(NamedTuple):
    """One training."""

    loss: str
    synthesis: str
    form: str
    learning_rate: float
    warm_up: int  # epochs on real negatives first


def train(case: Case, epochs: int, seed: int) -> list[dict[str, Any]]:
    """A row for each epoch."""
    torch.set_num_threads(1)
    data = glyphs.load("train")
    batch = fixed_batch(data.images, data.labels)
    training = Training("hphn", "none", seed, torch.device("cpu"))
    training.optimizer = torch.optim.Adam(training.net.parameters(), lr=case.learning_rate)
    rows = []
    for epoch in range(epochs):
        synthesis = "none" if epoch < case.warm_up else case.synthesis
        training.loss = make_loss(case.loss, synthesis, **FORMS[case.loss][case.form])
        loss = training.run_epoch(epoch_of_batches(data, data.labels))
        nearest = hardest_negatives(
            embed(training.net, batch.images, training.device), batch.labels
        )
        rows.append({**case._asdict(), "epoch": epoch + 1, "train_loss": loss, **nearest})
    return rows


def cases(loss: str) -> list[Case]:
    """The grid; real negatives need no warm-up."""
    grid = product([loss], SYNTHESIZERS, FORMS[loss], LEARNING_RATES, (0, 1))
    return [Case(*point) for point in grid if point[1] != "none" or point[4] == 0]


def table(loss: str, rows: Sequence[dict[str, Any]]) -> str:
    """For each case, the epochs that ended collapsed of all."""
    lines = [
        "| negatives | warm-up | loss | " + " | ".join(f"{r:g}" for r in LEARNING_RATES) + " |"
    ]
    lines.append("|---" * (3 + len(LEARNING_RATES)) + "|")
    for synthesis, warm_up, form in product(SYNTHESIZERS, (0, 1), FORMS[loss]):
        cells = []
        for rate in LEARNING_RATES:
            epochs = [r for r in rows if r_case(r) == Case(loss, synthesis, form, rate, warm_up)]
            near = sum(row["hardest_real"] < NEAR for row in epochs)
            cells.append(f"{near} of {len(epochs)}")
        if epochs:
            lines.append(f"| {synthesis} | {warm_up} | {form} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def r_case(row: dict[str, Any]) -> Case:
    """The case of a row."""
    return Case(*(row[name] for name in Case._fields))


def main() -> None:
    """Train the grid in two processes and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("loss", choices=FORMS)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    grid = cases(options.loss)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        trained = pool.map(train, grid, [options.epochs] * len(grid), [options.seed] * len(grid))
        rows = [row for rows in trained for row in rows]
    where = {"seed": options.seed, **commit_and_machine()}
    with (RESULTS / f"collapse_{options.loss}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *where])
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, **where})
    print(table(options.loss, rows))


if __name__ == "__main__":
    main()
