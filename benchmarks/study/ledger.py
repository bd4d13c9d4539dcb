"""The rows that trainings of the retrieval study leave: which are done, and with what result."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.provenance import commit_and_machine
from benchmarks.study.cells import Cell, Setting, grid

TUNING_SEEDS = (1000, 1001, 1002)  # that no final training has
STUDY = "retrieval_study.csv"
TUNING = "retrieval_study_tuning.csv"
HARDNESS = "retrieval_study_hardness.csv"
STEPS = "retrieval_study_steps.csv"
IDEA_RUNS = "retrieval_ideas.csv"
FINETUNE = "finetune.csv"  # the results.csv of examples.text.finetune
COLUMNS = (
    *("dataset", "loss", "synthesis", "seed", "margin", "learning_rate"),
    *("recall_at_1", "map_at_r", "nmi", "seconds_per_step", "collapsed", "commit", "machine"),
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


class Ledger:
    """The results folder: which trainings are done, and with what result."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.where = commit_and_machine()

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
    """The setting of a row."""
    return Setting(float(row["margin"]), float(row["learning_rate"]))
