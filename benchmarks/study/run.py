"""A fair study: does synthesis raise Recall@1 on unseen classes, and against which baseline?

Each cell is a loss on one kind of negatives: all or the hardest real ones of the batch, real ones
that a miner of pytorch-metric-learning picked, Embedding Expansion, real ones that LoOpMiner
picked, LoOp. All have the same net, batches, epochs and optimizer. The margin of a cell is that of
four, and on emoji its learning rate that of two, with the highest MAP@R on validation classes, a
mean of three trainings without them. Then it trains on all training classes from other seeds, and
is judged on the test classes once, at the end. From the root of the repository, with the extras
`examples` and `emoji`:

    python -m examples.emoji.dataset              # once
    python -m benchmarks.study.run        # about two hours on two cores
    python -m benchmarks.study.run --ideas --synthesis hard_mining loop
    python -m benchmarks.study.steps      # a minute, on a quiet machine
    python -m benchmarks.study.report

The results folder receives a row for each finished training, and trainings that have one are not
repeated: `retrieval_study.csv` (test classes), `retrieval_study_tuning.csv` (validation classes),
`retrieval_study_hardness.csv` (a row for each epoch) and `retrieval_ideas.csv`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from benchmarks.provenance import RESULTS
from benchmarks.study.cells import (
    EXPAND,
    LOSSES,
    SYNTHESES,
    Cell,
    Setting,
    grid,
    idea_cells,
    objective,
    syntheses_of,
)
from benchmarks.study.ledger import TUNING_SEEDS, Ledger, Outcome, Row, Run
from benchmarks.study.tasks import DATASETS, VARIATIONS, Task, final_task, tuning_task
from examples.kit.training import embed, epoch_of_batches, fixed_batch, hardest_negatives
from loopml.evaluation import RetrievalAccuracy

SEEDS = 10
COLLAPSED = 0.1  # on the unit sphere, between an anchor and its nearest real negative


def train(run: Run) -> Outcome:
    """Train from the seed, then measure on the unseen classes, once."""
    torch.set_num_threads(1)
    task = (tuning_task if run.tuning else final_task)(run.cell.dataset)
    random.seed(run.seed)
    np.random.seed(run.seed)  # noqa: NPY002, MPerClassSampler draws from this generator
    torch.manual_seed(run.seed)
    net = task.make_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=run.setting.learning_rate)
    data = TensorDataset(task.inputs, task.labels)
    probe = fixed_batch(task.inputs, task.labels)
    seconds: list[float] = []
    epochs: list[Row] = []
    for epoch in range(task.epochs):
        loss_fn = objective(run.cell, run.setting.margin, epoch)
        net.train()
        for inputs, labels in batches_of(task, data):
            start = time.perf_counter()
            loss = loss_fn(net(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seconds.append(time.perf_counter() - start)
        embedded = embed(net, probe.images, torch.device("cpu"))
        nearest = hardest_negatives(embedded, probe.labels)
        epochs.append({"epoch": epoch + 1, "train_loss": loss.item(), **nearest})

    unseen = embed(net, task.unseen_inputs, torch.device("cpu"))
    # Clusters take longer than the training of a layer, and were looked at on two data sets alone.
    clusters = ("NMI",) if run.cell.dataset in ("glyphs", "emoji") else ()
    accuracy = RetrievalAccuracy(
        recall_at=(1,), include=("recall_at_1", "mean_average_precision_at_r", *clusters)
    ).get_accuracy(unseen, task.unseen_labels)
    scores = {
        "recall_at_1": accuracy["recall_at_1"],
        "map_at_r": accuracy["mean_average_precision_at_r"],
        "nmi": accuracy.get("NMI", ""),
        "seconds_per_step": median(seconds),
        "collapsed": sum(row["hardest_real"] < COLLAPSED for row in epochs),
    }
    return Outcome(scores, epochs)


def batches_of(task: Task, data: TensorDataset) -> DataLoader[Any]:
    """The batches of an epoch, drawn anew."""
    batch_size = task.classes_per_batch * task.rows_per_class
    rows = len(task.labels) if task.steps is None else task.steps * batch_size
    return epoch_of_batches(data, task.labels, task.rows_per_class, batch_size, rows)


def study_cells(options: argparse.Namespace) -> list[Cell]:
    """The cells of the study, or those of the ideas."""
    varied = [f"{name}-{way}" for name in options.datasets for way in options.variations]
    names = product(varied or options.datasets, options.losses, options.synthesis)
    cells = [Cell(*name) for name in names if name[2] in (*syntheses_of(name[1]), EXPAND)]
    return [idea for cell in cells for idea in idea_cells(cell)] if options.ideas else cells


def measure(runs: Iterable[Run], ledger: Ledger, jobs: int) -> None:
    """Train whatever has no row yet, each row written as soon as its training ends."""
    todo = ledger.unfinished(runs)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        trained = {pool.submit(train, run): run for run in todo}
        for future in tqdm(as_completed(trained), total=len(todo), unit="run"):
            ledger.add(trained[future], future.result())


def tuning_runs(cells: Iterable[Cell]) -> Iterator[Run]:
    """A training for each setting and tuning seed."""
    for cell in cells:
        for setting, seed in product(grid(cell), TUNING_SEEDS):
            yield Run(cell, setting, seed, tuning=True)


def final_runs(settings: Mapping[Cell, Setting], seeds: Iterable[int]) -> Iterator[Run]:
    """A training for each seed; all cells of a seed before the next, as they are compared."""
    for seed, (cell, setting) in product(seeds, settings.items()):
        yield Run(cell, setting, seed, tuning=False)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    for name, choices in (("datasets", DATASETS), ("losses", LOSSES)):
        add(f"--{name}", nargs="+", choices=list(choices), default=list(choices), metavar="NAME")
    syntheses = [*SYNTHESES, EXPAND]
    add("--synthesis", nargs="+", choices=syntheses, default=list(SYNTHESES), metavar="NAME")
    add("--variations", nargs="+", choices=VARIATIONS, default=[], metavar="NAME")
    add("--seeds", nargs="+", type=int, default=list(range(SEEDS)), help="default: 0 to 9")
    add("--ideas", action="store_true", help="the ideas instead of the study")
    add("--jobs", type=int, default=2, help="trainings at a time, each in a process")
    add("--out", type=Path, default=RESULTS, help="results folder")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Choose the settings, then train from every seed."""
    options = parse(argv)
    ledger = Ledger(options.out)
    cells = study_cells(options)
    measure(tuning_runs(cells), ledger, options.jobs)
    settings = {cell: ledger.best_setting(cell) for cell in cells}
    ledger.drop_superseded(settings)
    measure(final_runs(settings, options.seeds), ledger, options.jobs)


if __name__ == "__main__":
    main()
