"""A fair study: does synthesis raise Recall@1 on unseen classes, and against which baseline?

Each cell is a loss on one kind of negatives: all or the hardest real ones of the batch, real ones
that a miner of pytorch-metric-learning picked, Embedding Expansion, real ones that LoOpMiner
picked, LoOp. All have the same net, batches, epochs and optimizer. The margin of a cell is that of
four, and on emoji its learning rate that of two, with the highest MAP@R on validation classes, a
mean of three trainings without them. Then it trains on all training classes from other seeds, and
is judged on the test classes once, at the end. From the root of the repository, with the extras
`examples` and `emoji`:

    python examples/emoji.py                   # once
    python benchmarks/retrieval_study.py       # about two hours on two cores
    python benchmarks/retrieval_study.py --ideas --synthesis hard_mining loop
    python benchmarks/study_steps.py           # a minute, on a quiet machine
    python benchmarks/study_report.py

The results folder receives a row for each finished training, and trainings that have one are not
repeated: `retrieval_study.csv` (test classes), `retrieval_study_tuning.csv` (validation classes),
`retrieval_study_hardness.csv` (a row for each epoch) and `retrieval_ideas.csv`.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
import torch
from results import RESULTS, provenance
from study_cells import LOSSES, SYNTHESES, Cell, Setting, grid, idea_cells, objective
from study_tasks import DATASETS, final_task, tuning_task
from torch.utils.data import TensorDataset
from tqdm import tqdm
from training import embed, epoch_of_batches, fixed_batch, hardest_negatives

from loopml.evaluation import RetrievalAccuracy

SEEDS = 10
TUNING_SEEDS = (1000, 1001, 1002)  # that no final training has
COLLAPSED = 0.1  # on the unit sphere, between an anchor and its nearest real negative

STUDY = "retrieval_study.csv"
TUNING = "retrieval_study_tuning.csv"
HARDNESS = "retrieval_study_hardness.csv"
STEPS = "retrieval_study_steps.csv"
IDEA_RUNS = "retrieval_ideas.csv"
COLUMNS = (
    *("dataset", "loss", "synthesis", "seed", "margin", "recall_at_1", "map_at_r", "nmi"),
    *("seconds_per_step", "collapsed", "commit", "machine"),
)
Row = dict[str, Any]


class Run(NamedTuple):
    """One training: of the study, or on the way to choose a setting for it."""

    cell: Cell
    setting: Setting
    seed: int
    tuning: bool


class Outcome(NamedTuple):
    """What a training leaves: its row, and one for each epoch."""

    scores: Row
    epochs: list[Row]


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
        for inputs, labels in epoch_of_batches(data, task.labels):
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
    accuracy = RetrievalAccuracy(
        recall_at=(1,),
        distance="cosine",
        include=("recall_at_1", "mean_average_precision_at_r", "NMI"),
    ).get_accuracy(unseen, task.unseen_labels)
    scores = {
        "recall_at_1": accuracy["recall_at_1"],
        "map_at_r": accuracy["mean_average_precision_at_r"],
        "nmi": accuracy["NMI"],
        "seconds_per_step": median(seconds),
        "collapsed": sum(row["hardest_real"] < COLLAPSED for row in epochs),
    }
    return Outcome(scores, epochs)


class Ledger:
    """The results folder: which trainings are done, and with what result."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        found = provenance()
        self.where = {
            "commit": found["commit"],
            "machine": f"{found['cpu']}, {found['cores']} cores, torch {found['torch']}",
        }

    def rows(self, file: str) -> list[Row]:
        """The rows of a file; none if it is not there."""
        path = self.folder / file
        if not path.exists():
            return []
        with path.open(newline="") as lines:
            return list(csv.DictReader(lines))

    def unfinished(self, runs: Iterable[Run]) -> list[Run]:
        """Those of some trainings that have no row."""
        done = {
            Run(cell_of(row), setting_of(row), int(row["seed"]), file == TUNING)
            for file in (TUNING, HARDNESS)
            for row in self.rows(file)
        }
        return [run for run in runs if run not in done]

    def add(self, run: Run, outcome: Outcome) -> None:
        """Write what a training left; of a final one last what says that it is finished."""
        name = {**run.cell._asdict(), "seed": run.seed, **run.setting._asdict()}
        row = {**name, **outcome.scores, **self.where}
        if run.tuning:
            self._append(TUNING, [row])
            return
        if run.cell.idea:
            self._append(IDEA_RUNS, [row])
        else:
            self._append(STUDY, [{column: row[column] for column in COLUMNS}])
        self._append(HARDNESS, [{**name, **epoch} for epoch in outcome.epochs])

    def validation_scores(self, cell: Cell) -> dict[Setting, float]:
        """MAP@R on the validation classes by setting, a mean over tuning seeds.

        It counts all ranks up to the size of a class and varies less from seed to seed than
        Recall@1, by which HPHN and its twin on mined tuples were given different margins.
        """
        found = defaultdict(list)
        for row in self.rows(TUNING):
            if cell_of(row) == cell and setting_of(row) in grid(cell):
                found[setting_of(row)].append(float(row["map_at_r"]))
        return {setting: fmean(values) for setting, values in found.items()}

    def best_setting(self, cell: Cell) -> Setting:
        """The one with the highest MAP@R on validation classes, the first of equals."""
        scores = self.validation_scores(cell)
        return max(grid(cell), key=lambda setting: scores[setting])

    def drop_superseded(self, settings: Mapping[Cell, Setting]) -> None:
        """Forget final trainings of cells that were trained at a setting no longer chosen."""
        stale = {
            cell_of(row)
            for row in self.rows(HARDNESS)
            if setting_of(row) != settings.get(cell_of(row), setting_of(row))
        }
        for file in (STUDY, IDEA_RUNS, HARDNESS):
            rows = self.rows(file)
            kept = [row for row in rows if cell_of(row) not in stale]
            if len(kept) < len(rows):
                rest = self.folder / f"{file}.tmp"
                with rest.open("w", newline="") as lines:
                    writer = csv.DictWriter(lines, list(rows[0]))
                    writer.writeheader()
                    writer.writerows(kept)
                rest.replace(self.folder / file)  # at once, so that a kill loses nothing

    def _append(self, file: str, rows: Sequence[Row]) -> None:
        path = self.folder / file
        is_new = not path.exists()
        with path.open("a", newline="") as lines:
            writer = csv.DictWriter(lines, list(rows[0]))
            if is_new:
                writer.writeheader()
            for row in rows:
                writer.writerow(
                    {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
                )


def cell_of(row: Row) -> Cell:
    """The cell that a row is of."""
    return Cell(row["dataset"], row["loss"], row["synthesis"], row.get("idea", ""))


def setting_of(row: Row) -> Setting:
    """The setting of a row; those of the study's own file do not name their learning rate."""
    return Setting(float(row["margin"]), float(row["learning_rate"]))


def study_cells(options: argparse.Namespace) -> list[Cell]:
    """The cells of the study, or those of the ideas."""
    names = product(options.datasets, options.losses, options.synthesis)
    cells = [Cell(*name) for name in names]
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
    for name, choices in (("datasets", DATASETS), ("losses", LOSSES), ("synthesis", SYNTHESES)):
        add(f"--{name}", nargs="+", choices=list(choices), default=list(choices), metavar="NAME")
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
