"""Numbers of the README and of pages written by hand are those of the committed rows."""

import csv
import re
from functools import cache
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from benchmarks.provenance import RESULTS
from benchmarks.steps.cases import BATCH_HARD, MINED_TRIPLET
from benchmarks.steps.report.markdown import geometric_mean, number
from benchmarks.steps.report.ratios import Ratio, by_batch
from benchmarks.steps.results import comparisons, read
from benchmarks.study import pairing_rules, report
from benchmarks.study.cells import DEFAULT, Cell
from benchmarks.study.ledger import IDEA_RUNS, STEPS, STUDY, Ledger, cell_of
from benchmarks.study.tasks import DATASETS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FLAT = " ".join(README.split())
CHOOSING = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def study() -> Ledger:
    ledger = Ledger(RESULTS)
    ledger.rows = cache(ledger.rows)  # type: ignore[method-assign]
    return ledger


def over(ours: Any, theirs: Any) -> str:
    """Points of Recall@1, as the README writes them."""
    change = f"{100 * fmean(report.differences(ours, theirs, 'recall_at_1')):+.1f}"
    return "0.0" if change in ("+0.0", "-0.0") else change


def listed(values: list[str]) -> str:
    return "{}, {} and {}".format(*values)


def test_what_you_can_expect_is_what_the_study_measured(study: Ledger) -> None:
    """The numbers of the four points, all of one commit."""
    runs = report.by_cell(study.rows(STUDY))
    lines = report.by_cell(study.rows(IDEA_RUNS))
    recommended = [lines[DEFAULT._replace(dataset=name)] for name in DATASETS]
    others = {
        kind: [runs[Cell(name, "triplet", kind)] for name in DATASETS]
        for kind in ("none", "every_positive", "loop", "expansion")
    }
    cells = [*recommended, *chain.from_iterable(others.values())]
    commits = {row["commit"] for cell in cells for row in cell.values()}
    assert commits == {re.search(r"One run at commit (\w+)", FLAT)[1]}
    gain = [over(*pair).lstrip("+") for pair in zip(recommended, others["none"], strict=True)]
    assert f"are {listed(gain)} above `TripletMarginLoss` on all triplets" in FLAT
    rival = [over(*pair) for pair in zip(recommended, others["every_positive"], strict=True)]
    assert f"differ from it by {listed(rival)}" in FLAT
    synthetic = [over(*pair) for pair in zip(others["loop"], others["every_positive"], strict=True)]
    assert f"differ from that rival by {listed(synthetic)} with LoOp" in FLAT
    between = [over(*pair) for pair in zip(others["loop"], others["expansion"], strict=True)]
    assert max(abs(float(points)) for points in between) == 0.1
    assert "Embedding Expansion and LoOp differ by 0.1 at most" in FLAT
    assert {row["commit"] for row in study.rows(STEPS)} == commits
    cost = {cell_of(row): float(row["over_plain"]) for row in study.rows(STEPS)}
    for kind, said in (
        ("loop_index", "a training step of the lines above takes {} times a step on all triplets"),
        ("every_positive", "A step of that rival takes {} times"),
    ):
        steps = [f"{cost[Cell(name, 'triplet', kind)]:.2f}" for name in DATASETS]
        assert said.format(listed(steps)) in FLAT


def test_the_table_of_losses_is_what_the_study_measured(study: Ledger) -> None:
    """What the second column has over the best real negatives, where the study ran it."""
    runs = report.by_cell(study.rows(STUDY))

    def gains(loss: str, kind: str) -> str:
        cells = []
        for name in DATASETS:
            real = report.best_real(runs, study, name, loss)
            ours = runs.get(Cell(name, loss, kind))
            cells.append("not run" if real is None or ours is None else over(ours, runs[real]))
        return ", ".join(cells)

    lines = report.by_cell(study.rows(IDEA_RUNS))
    best = [report.best_real(runs, study, name, "triplet") for name in DATASETS]
    default = [
        over(lines[DEFAULT._replace(dataset=name)], runs[real])
        for name, real in zip(DATASETS, best, strict=True)
        if real is not None
    ]
    assert f"| triplet | `LoOpMiner()` as its miner, margin 0.8 | {', '.join(default)} |" in README
    for loss, take, kind in (
        ("contrastive", "`LoOpMiner()` as its miner | ", "loop_index"),
        ("multi-similarity", "the plain loss | with `EmbeddingExpansion()`: ", "expansion"),
        ("N-pair", "the plain `NPairLoss()` | with `EmbeddingExpansion()`: ", "expansion"),
        ("HPHN", "the line for triplet | with `LoOpMiner()` inside: ", "loop"),
    ):
        name = {shown: name for name, shown in report.NAMES.items()}[loss]
        assert f"| {loss} | {take}{gains(name, kind)} |" in README


def test_the_line_for_each_loss_is_what_the_study_measured(study: Ledger) -> None:
    """On the page about choosing: bold where the interval over seeds leaves out 0."""
    runs = report.by_cell(study.rows(STUDY))

    def gain(name: str, loss: str, kind: str) -> str:
        real = report.best_real(runs, study, name, loss)
        ours = runs.get(Cell(name, loss, kind))
        if real is None or ours is None:
            return "not run"
        low, high = report.interval(report.differences(ours, runs[real], "recall_at_1"))
        points = over(ours, runs[real])
        return f"**{points}**" if low > 0 or high < 0 else points

    for shown, loss, kind, before in (
        ("Triplet", "triplet", "loop_index", ""),
        ("Contrastive", "contrastive", "loop_index", ""),
        ("Multi-similarity", "multi_similarity", "expansion", "EE: "),
        ("N-pair", "n_pair", "expansion", "EE: "),
        ("HPHN, the papers' loss", "hphn", "loop", "LoOp: "),
    ):
        gains = " / ".join(gain(name, loss, kind) for name in DATASETS)
        row = rf"\| {re.escape(shown)} \| [^|]+ \| {re.escape(before + gains)} \|\n"
        assert re.search(row, CHOOSING), (shown, gains)
    gains = " / ".join(gain(name, "contrastive", "loop") for name in DATASETS)
    assert f"Contrastive on synthetic negatives has {gains}." in CHOOSING


def test_the_time_of_the_default_is_what_the_benchmarks_measured() -> None:
    found = comparisons(read(RESULTS / "steps.csv"), "table", "time")
    ratio = Ratio(MINED_TRIPLET, BATCH_HARD)
    fast, pure = by_batch(ratio, found), by_batch(ratio.without_kernels(), found)
    for batch in fast:
        cells = [
            f"{number(geometric_mean(values))}{times} "
            f"({number(min(values))} to {number(max(values))})"
            for values, times in (
                (fast[batch], " times as long" if batch == 32 else ""),
                (pure[batch], ""),
            )
        ]
        assert f"| {batch} | {cells[0]} | {cells[1]} |" in CHOOSING


def test_the_table_of_pairing_rules_is_what_the_command_wrote() -> None:
    with (RESULTS / "pairing_rules.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    page = (ROOT / "docs" / "concepts" / "hard-negatives.md").read_text(encoding="utf-8")
    assert f"\n\n{pairing_rules.table(rows)}\n\n" in page
