"""The retrieval study: what its cells minimise, that it can be stopped, and that it adds up."""

import csv
import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_metric_learning.miners import MultiSimilarityMiner
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks.provenance import ROOT
from benchmarks.study import cures
from benchmarks.study import report as study_report
from benchmarks.study import run as retrieval_study
from benchmarks.study import steps as study_steps
from benchmarks.study.cells import (
    DEFAULT,
    DEFAULT_MARGIN,
    LOSSES,
    Cell,
    Setting,
    grid,
    idea_cells,
    objective,
    syntheses_of,
)
from benchmarks.study.ledger import (
    COLUMNS,
    HARDNESS,
    IDEA_RUNS,
    STUDY,
    TUNING,
    TUNING_SEEDS,
    Ledger,
    Outcome,
    Run,
    cell_of,
    setting_of,
)
from benchmarks.study.tasks import DATASETS, Task, varied

CELLS = [Cell("emoji", loss, synthesis) for loss in LOSSES for synthesis in syntheses_of(loss)]
IDEA_CELLS = [idea for cell in CELLS for idea in idea_cells(cell)]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Eight classes of four, as they come from the sampler."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(4)
    centres = torch.randn(8, 16, generator=generator, dtype=torch.float64)
    noise = torch.randn(32, 16, generator=generator, dtype=torch.float64)
    return (centres[labels] + noise).requires_grad_(), labels


@pytest.mark.parametrize("cell", [*CELLS, *IDEA_CELLS], ids=str)
def test_every_cell_can_be_minimised(cell: Cell, batch: tuple[Tensor, Tensor]) -> None:
    for setting in grid(cell):
        value = objective(cell, setting.margin, epoch=1)(*batch)
        (gradient,) = torch.autograd.grad(value, batch[0])
        assert value > 0
        assert gradient.isfinite().all()
        assert gradient.norm() > 0


def test_cells_of_a_loss_differ(batch: tuple[Tensor, Tensor]) -> None:
    """But for HPHN, which is a triplet loss on the hardest triplets already."""
    for loss in LOSSES:
        values = {
            synthesis: objective(Cell("emoji", loss, synthesis), LOSSES[loss][1][-1], 0)(
                *batch
            ).item()
            for synthesis in syntheses_of(loss)
        }
        if loss == "hphn":
            assert values.pop("hard_mining") == pytest.approx(values["none"], rel=1e-12)
        assert len(set(values.values())) == len(values)


def test_mined_n_pair_is_the_formula(batch: tuple[Tensor, Tensor]) -> None:
    """log(1 + sum of exp(a.n - a.p)) over mined negatives of each mined positive pair."""
    embeddings, labels = batch
    l2_reg = 0.02
    anchors, positives, others, negatives = MultiSimilarityMiner()(embeddings, labels)
    products = embeddings @ embeddings.T
    elements = [
        torch.log1p((products[a, negatives[others == a]] - products[a, p]).exp().sum())
        for a, p in zip(anchors, positives, strict=True)
    ]
    expected = torch.stack(elements).mean() + l2_reg * embeddings.square().sum(dim=1).mean()
    found = objective(Cell("emoji", "n_pair", "hard_mining"), l2_reg, 0)(embeddings, labels)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_ideas_change_what_they_say(batch: tuple[Tensor, Tensor]) -> None:
    def value(idea: str, epoch: int = 1, synthesis: str = "loop") -> float:
        return objective(Cell("emoji", "triplet", synthesis, idea), 0.2, epoch)(*batch).item()

    assert value("warm_up", epoch=0) == value("", synthesis="none")
    assert value("warm_up") == value("")
    mean = (value("", synthesis="none") + value("")) / 2
    assert value("mixed") == pytest.approx(mean, rel=1e-12)
    assert len({value(idea) for idea in ("", "mixed", "nearest_4", "consecutive")}) == 4


def test_every_positive_takes_each_pair_with_its_hardest_negative(
    batch: tuple[Tensor, Tensor],
) -> None:
    embeddings, labels = batch
    distances = torch.cdist(*[torch.nn.functional.normalize(embeddings)] * 2)
    same = labels[:, None] == labels
    nearest = distances.masked_fill(same, torch.inf).amin(dim=1, keepdim=True)
    pairs = same & ~torch.eye(len(labels), dtype=torch.bool)
    expected = (distances - nearest + 0.4).relu()[pairs].mean()
    cell = Cell("emoji", "hphn", "every_positive")
    found = objective(cell, 0.4, 0)(embeddings, labels)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Task:
    """Two clouds for each class, learnt in a moment."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40).repeat_interleave(4)
    inputs = torch.randn(40, 8, generator=generator)[labels]
    inputs = inputs + 0.7 * torch.randn(160, 8, generator=generator)
    task = Task(*(inputs, labels, inputs, labels), make_net=lambda: nn.Linear(8, 4), epochs=2)
    monkeypatch.setattr(retrieval_study, "final_task", lambda _: task)
    monkeypatch.setattr(retrieval_study, "tuning_task", lambda _: task)
    return task


@pytest.mark.usefixtures("tiny")
def test_a_training_repeats_from_its_seed() -> None:
    run = Run(Cell("emoji", "hphn", "loop"), Setting(0.2, 1e-3), seed=3, tuning=False)
    first, again, other = (retrieval_study.train(run._replace(seed=seed)) for seed in (3, 3, 4))
    timeless = [{**o.scores, "seconds_per_step": None} for o in (first, again, other)]
    assert timeless[0] == timeless[1] != timeless[2]
    assert first.epochs == again.epochs
    assert [row["epoch"] for row in first.epochs] == [1, 2]
    for row in first.epochs:  # no negative between two points is farther than the points
        assert row["hardest_mates"] >= row["hardest_expansion"] >= row["hardest_loop"] > 0
        assert row["hardest_real"] >= row["hardest_mates"]


def test_steps_are_compared_with_the_plain_loss(
    tiny: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(study_steps, "final_task", lambda _: tiny)
    monkeypatch.setattr(Ledger, "validation_scores", lambda _, cell: {grid(cell)[1]: 0.5})
    monkeypatch.setattr(Ledger, "best_setting", lambda _, cell: grid(cell)[1])
    rows = study_steps.measure("emoji", Ledger(tmp_path), rounds=2)
    assert [cell_of(row) for row in rows] == CELLS
    for row in rows:
        assert row["seconds"] > 0
        assert (row["over_plain"] == 1) == (row["synthesis"] == "none")


OUTCOME = Outcome(
    {"recall_at_1": 0.5, "map_at_r": 0.4, "nmi": 0.3, "seconds_per_step": 0.01, "collapsed": 1},
    [{"epoch": 1, "train_loss": 0.1, "hardest_real": 0.09}],
)


def test_finished_trainings_are_not_repeated(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    cell = Cell("emoji", "triplet", "loop")
    tuning = list(retrieval_study.tuning_runs([cell]))
    assert len(tuning) == len(TUNING_SEEDS) * len(grid(cell)) == 24
    assert ledger.unfinished(tuning) == tuning
    for i, run in enumerate(tuning):
        ledger.add(run, OUTCOME)
        assert Ledger(tmp_path).unfinished(tuning) == tuning[i + 1 :]

    final = list(retrieval_study.final_runs({cell: tuning[4].setting}, [0, 1]))
    ledger.add(final[0], OUTCOME)
    assert Ledger(tmp_path).unfinished(final) == final[1:]
    with_idea = final[0]._replace(cell=cell._replace(idea="mixed"))
    assert ledger.unfinished([with_idea]) == [with_idea]
    with (tmp_path / STUDY).open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == COLUMNS
    assert row["collapsed"] == "1"


def _with_map(map_at_r: float) -> Outcome:
    return OUTCOME._replace(scores={**OUTCOME.scores, "map_at_r": map_at_r})


def test_the_setting_is_the_best_in_the_mean_over_tuning_seeds(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    cell = Cell("glyphs", "hphn", "none")
    scores = [(0.1, 0.1, 0.9), (0.4, 0.4, 0.4), (0.5, 0.5, 0.1), (0.2, 0.2, 0.2)]
    for setting, found in zip(grid(cell), scores, strict=True):
        for seed, score in zip(TUNING_SEEDS, found, strict=True):
            ledger.add(Run(cell, setting, seed, tuning=True), _with_map(score))
    assert ledger.best_setting(cell) == grid(cell)[1]
    elsewhere = Run(cell, Setting(7.0, 1e-3), TUNING_SEEDS[0], tuning=True)  # not on the grid
    ledger.add(elsewhere, _with_map(1.0))
    assert ledger.best_setting(cell) == grid(cell)[1]
    assert max(ledger.validation_scores(cell).values()) == pytest.approx(0.4)


def test_trainings_at_a_setting_no_longer_chosen_are_dropped(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    cells = [Cell("emoji", "hphn", "loop", idea) for idea in ("", "mixed")]
    cells += [cell._replace(loss="triplet") for cell in cells]
    old, new = Setting(0.4, 1e-3), Setting(0.4, 3e-4)
    for run in retrieval_study.final_runs(dict.fromkeys(cells, old), [0, 1]):
        ledger.add(run, OUTCOME)
    ledger.drop_superseded(dict.fromkeys(cells, old))
    assert len(ledger.rows(STUDY)) == len(ledger.rows(IDEA_RUNS)) == 4
    chosen = {cells[0]: old, cells[1]: new, cells[2]: new}  # of cells[3] nothing was asked
    ledger.drop_superseded(chosen)
    assert [cell_of(row) for row in ledger.rows(STUDY)] == [cells[0]] * 2
    assert [cell_of(row) for row in ledger.rows(IDEA_RUNS)] == [cells[3]] * 2
    runs = list(retrieval_study.final_runs(chosen, [0, 1]))
    assert [run.cell for run in ledger.unfinished(runs)] == cells[1:3] * 2


def test_intervals_are_of_the_mean() -> None:
    assert study_report.interval([0.3, 0.3, 0.3]) == (0.3, 0.3)
    values = np.random.default_rng(0).normal(1.0, 0.1, 10)
    low, high = study_report.interval(list(values))
    half = 1.96 * values.std() / 10**0.5  # what the bootstrap tends to
    assert low == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.2 * half)
    assert study_report.points([0.01, 0.02, 0.03]).startswith("**+2.0 [")
    assert study_report.points([-0.01, 0.01, 0.0]).startswith("0.0 [")


def test_intervals_stay_on_one_line_and_zero_has_no_sign() -> None:
    assert study_report.points([0.01, 0.01]) == "**+1.0 [+1.0,\N{NO-BREAK SPACE}+1.0]**"
    assert [study_report.signed(value) for value in (-0.04, 0.04, -0.06)] == ["0.0", "0.0", "-0.1"]


def test_differences_are_paired_by_seed() -> None:
    ours = {0: {"x": "0.5"}, 1: {"x": "0.7"}, 2: {"x": "0.9"}}
    theirs = {1: {"x": "0.5"}, 0: {"x": "0.1"}}
    assert study_report.differences(ours, theirs, "x") == pytest.approx([0.4, 0.2])


def test_variations_are_compared_with_every_positive() -> None:
    scores = {"every_positive": 0.40, "expansion": 0.42, "loop_index": 0.40, "loop": 0.37}
    runs = study_report.by_cell(
        {
            **Cell("text-64x2", "triplet", name)._asdict(),
            **{"seed": seed, "recall_at_1": score, "collapsed": int(name == "loop" and seed)},
        }
        for name, score in scores.items()
        for seed in (0, 1)
    )
    header, _, control, *rows = study_report.variations_table(runs).splitlines()
    assert header == "| negatives | text, 64 \N{MULTIPLICATION SIGN} 2 |"
    assert control.endswith("| 40.0 |")
    found = dict(row.strip("| ").replace("\N{NO-BREAK SPACE}", " ").split(" | ") for row in rows)
    assert found == {  # what was not run has no row
        "triplet, EE": "**+2.0 [+2.0, +2.0]**",
        "triplet, LoOp as miner": "0.0 [0.0, 0.0]",
        "triplet, LoOp": "**-3.0 [-3.0, -3.0]** \N{DAGGER}",
    }


def _runs(**scores: float) -> study_report.Runs:
    """Two seeds of each kind of negatives on text, with the same score."""
    return study_report.by_cell(
        {**Cell("text", *name.split("__"))._asdict(), **scored}
        for name, score in scores.items()
        for scored in ({"seed": s, "recall_at_1": score, "collapsed": 0} for s in (0, 1))
    )


def _means(table: str) -> list[list[str]]:
    """The cells of a table without intervals and without what makes them bold."""
    return [
        [cell.strip(" *").split(" [")[0] for cell in line.split("|")[1:-1]]
        for line in table.splitlines()[2:]
    ]


def test_the_triplet_loss_is_compared_with_every_positive_and_loop_with_expansion() -> None:
    runs = _runs(triplet__every_positive=0.40, triplet__expansion=0.41, triplet__loop=0.39)
    ideas = _runs(triplet__loop__warm_up=0.42)
    assert [line[::3] for line in _means(study_report.triplet_table(runs, ideas)) if line[3]] == [
        ["every positive**, Recall@1 %", "40.0"],
        ["EE - every positive", "+1.0"],
        ["LoOp - every positive", "-1.0"],
        ["LoOp, warm-up - every positive", "+2.0"],
        ["LoOp - EE", "-2.0"],
    ]


def test_other_losses_are_compared_with_their_best_real_negatives(tmp_path: Path) -> None:
    """Which are those with the better choice on validation classes, not on the test."""
    ledger = Ledger(tmp_path)
    for name, score in (("none", 0.5), ("hard_mining", 0.6)):
        cell = Cell("text", "hphn", name)
        ledger.add(Run(cell, grid(cell)[0], TUNING_SEEDS[0], tuning=True), _with_map(score))
    runs = _runs(hphn__none=0.42, hphn__hard_mining=0.40, hphn__loop=0.41, hphn__expansion=0.38)
    assert _means(study_report.contrasts_table(runs, ledger)) == [
        ["HPHN", "text", "hard mining", "-2.0", "+1.0", "", "+3.0"]
    ]


def test_what_class_mates_explain_is_a_range_over_the_cells_of_a_loss() -> None:
    """Of LoOp's lead of 0.2 they have 0.1, and of its lead of 0.4 they have 0.3."""
    distances = {"none": (1.0, 0.9, 0.84, 0.8), "loop": (0.8, 0.5, 0.4, 0.4)}
    rows = [
        {
            **Cell("text", "hphn", name)._asdict(),
            **{"seed": "0", "epoch": epoch},
            **{
                f"hardest_{kind}": str(value + (epoch == 1))
                for kind, value in zip(("real", "mates", "expansion", "loop"), found, strict=True)
            },
        }
        for name, found in distances.items()
        for epoch in (1, 2)  # the last counts
    ]
    (row,) = study_report.mates_table(rows).splitlines()[2:]
    assert row == "| text | HPHN | 2 | 50 to 75 | 0.0 to 5.0 |"


def test_the_recommended_lines_are_compared_with_the_best_and_with_every_positive() -> None:
    scores = {"every_positive": 0.42, "loop": 0.43}
    seeds = [{"seed": seed, "collapsed": 0} for seed in (0, 1)]
    runs = study_report.by_cell(
        {**Cell("text", "triplet", name)._asdict(), **seed, "recall_at_1": score}
        for name, score in scores.items()
        for seed in seeds
    )
    ideas = study_report.by_cell(
        {**DEFAULT._replace(dataset="text")._asdict(), **seed, "recall_at_1": 0.4} for seed in seeds
    )
    row = study_report.default_table(runs, ideas).splitlines()[-1].split(" | ")
    assert row[2] == "triplet, LoOp"
    assert [cell.strip("*")[:4] for cell in row[4:6]] == ["-3.0", "-2.0"]


def test_fine_tuned_encoders_are_summed_up_by_loss() -> None:
    rows = [
        {
            **{"classes": 0, "loss": "st-mnrl", "margin": 0.8, "cpu_seconds_per_step": seconds},
            **{"peak_memory_mb": memory, "before_recall_at_1": 0.3},
            **{"best_recall_at_1": last + 0.01, "last_recall_at_1": last},
        }
        for last, seconds, memory in ((0.35, 1.0, 1000), (0.37, 2.0, 900))
    ]
    *names, best, last, seconds, memory = (
        cell.strip() for cell in study_report.finetune_table(rows).splitlines()[-1].split("|")[1:-1]
    )
    assert names == ["all 820", "`st-mnrl`", "", "2", "30.0"]  # that loss has no margin
    assert [score.replace("\N{NO-BREAK SPACE}", " ") for score in (best, last)] == [
        "37.0 [36.0, 38.0]",
        "36.0 [35.0, 37.0]",
    ]
    assert (seconds, memory) == ("1.50", "1000")


def test_variations_change_what_they_say() -> None:
    labels = torch.arange(60).repeat_interleave(4)
    inputs = torch.arange(240.0).unsqueeze(1)
    task = Task(*(inputs, labels, inputs, labels), make_net=lambda: nn.Linear(1, 1), epochs=2)
    few, wrong, wide = (varied(task, name) for name in ("few", "wrong", "64x2"))
    assert few.labels.unique().tolist() == list(range(40))
    of_row = (few.inputs.squeeze(1) // 4).tolist()  # the class it had
    assert len(set(zip(of_row, few.labels.tolist(), strict=True))) == 40
    assert int((wrong.labels != labels).sum()) == 24
    assert wrong.inputs is inputs
    assert wrong.unseen_labels is labels
    assert (wide.classes_per_batch, wide.rows_per_class) == (64, 2)
    batches = list(retrieval_study.batches_of(varied(task, "8x4"), TensorDataset(inputs, labels)))
    assert len(batches) == 100
    for _, of_batch in batches:
        assert sorted(Counter(of_batch.tolist()).values()) == [4] * 8


def test_the_choice_of_a_margin_is_compared_with_chance(tmp_path: Path) -> None:
    """Means 0.50, 0.53, 0.51, 0.48, each between trainings 0.01 below and above it."""
    ledger = Ledger(tmp_path)
    for cell in (Cell(name, "hphn", "none") for name in DATASETS):
        for i, setting in enumerate(grid(cell)):
            mean = (0.50, 0.53, 0.51, 0.48)[i % 4]
            if i >= 4:
                mean -= 0.1  # the second learning rate is far behind
            for seed, score in zip(TUNING_SEEDS, (mean - 0.01, mean, mean + 0.01), strict=True):
                ledger.add(Run(cell, setting, seed, tuning=True), _with_map(score))
    lines = study_report.choice_table(ledger).splitlines()[2:]
    assert lines == [f"| {name} | 1.00 | 0.58 | 2.00 |" for name in DATASETS]


@pytest.fixture(scope="module")
def committed() -> Ledger:
    """The committed rows, each file read once."""
    ledger = Ledger(retrieval_study.RESULTS)
    ledger.rows = cache(ledger.rows)  # type: ignore[method-assign]
    return ledger


def test_the_committed_results_are_complete(committed: Ledger) -> None:
    """Every cell has ten seeds or more, at its tuned margin, and the main ones are there."""
    runs = study_report.by_cell(committed.rows(STUDY))
    assert tuple(committed.rows(STUDY)[0]) == COLUMNS
    for cell, rows in runs.items():
        assert set(rows) >= set(range(10)), cell
        margins = {float(row["margin"]) for row in rows.values()}
        assert margins == {committed.best_setting(cell).margin}
    ours = ("none", "hard_mining", "every_positive", "loop_index", "loop")
    assert {Cell(name, "triplet", way) for name in DATASETS for way in ours} <= set(runs)
    tuned = {cell_of(row) for row in committed.rows(TUNING) if not row["idea"]}
    assert set(runs) <= tuned


def test_the_recommended_lines_were_run_on_every_data_set(committed: Ledger) -> None:
    runs = study_report.by_cell(committed.rows(IDEA_RUNS))
    for dataset in DATASETS:
        rows = runs[DEFAULT._replace(dataset=dataset)]
        assert set(rows) >= set(range(10))
        for row in rows.values():
            assert float(row["margin"]) == DEFAULT_MARGIN
            assert int(row["collapsed"]) == 0


def test_the_committed_trainings_all_left_their_epochs_at_their_chosen_setting(
    committed: Ledger,
) -> None:
    """Ideas too; a row that was lost would be found done by its epochs, and never trained again."""
    rows = [*committed.rows(STUDY), *committed.rows(IDEA_RUNS)]
    epochs = committed.rows(HARDNESS)
    trained = Counter((cell_of(row), row["seed"]) for row in rows)
    assert set(trained.values()) == {1}
    assert trained.keys() == {(cell_of(row), row["seed"]) for row in epochs}
    found = {(cell_of(row), setting_of(row)) for row in epochs}
    assert found == {(cell, committed.best_setting(cell)) for cell in {cell for cell, _ in trained}}


def test_the_pages_say_what_was_measured(committed: Ledger) -> None:
    """`benchmarks/study/report.py` has been run on the committed rows."""
    made = study_report.tables(committed)
    pages = [(study_report.DOCS / name).read_text() for name in study_report.PAGES]
    for name in made:
        assert sum(page.count(f"<!-- {name} -->") for page in pages) == 1, name
    for page in pages:
        assert study_report.fill(page, made) == page


def test_numbers_in_sentences_of_the_study_stand_in_a_table() -> None:
    """Those with one decimal, on the first page, as a mean: no end of an interval counts.

    Above the first figure the page quotes published results, below it its own tables.
    """
    decimal = re.compile(r"(?<![\d.])\d+\.\d(?![\d.]*\d)")
    row, ends = re.compile(r"^\|.*$", re.MULTILINE), re.compile(r"\[[^]]*\]")
    page, details, published = (
        (study_report.DOCS / name).read_text() for name in (*study_report.PAGES, "published.md")
    )
    quoted, _, own = page.partition("![")
    for text, tables in ((quoted, [published]), (own, [own, details])):
        said = set(decimal.findall(row.sub("", text)))
        assert said
        assert said <= set(decimal.findall(ends.sub("", " ".join(row.findall("\n".join(tables))))))


def test_published_gains_are_the_differences_beside_them() -> None:
    published = (study_report.DOCS / "published.md").read_text()
    gains = re.findall(r"([\d.]+)\s\S\s([\d.]+) \(([+-][\d.]+)\)", published)
    assert len(gains) == published.count("(+") == 21
    for without, with_them, gain in gains:
        assert f"{float(with_them) - float(without):+.1f}" == gain


def test_the_recipe_says_what_the_cures_did() -> None:
    """Each training left its epochs, and the table is of them."""
    rows = cures.committed()
    left = Counter(tuple(row[name] for name in cures.Trial._fields) for row in rows)
    assert left == {tuple(map(str, trial)): trial.epochs for trial in cures.trials()}
    assert not any("dirty" in row["commit"] for row in rows)
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert f"<!-- cures -->\n\n{cures.table(rows)}\n\n<!-- end -->" in page


def test_what_the_cures_make_of_distances() -> None:
    d_ap, real = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([1.2, 0.9, 0.8])
    synthetic = torch.tensor([1.1, 0.6, 0.4]).requires_grad_()
    d_ap.requires_grad_()
    positive, negative = cures.selective(d_ap, real, synthetic, 0)
    slopes = torch.autograd.grad((positive - negative).sum(), (d_ap, synthetic))
    assert [slope.tolist() for slope in slopes] == [[1, 0, 0], [-1, -1, -1]]
    halves = cures.real_while_half(d_ap, real, synthetic, 0)[1]
    torch.testing.assert_close(halves, torch.tensor([1.1, 0.6, 0.8]))
    for step, wanted in ((0, real), (cures.RAMP, synthetic), (2 * cures.RAMP, synthetic)):
        torch.testing.assert_close(cures.ramp(d_ap, real, synthetic, step)[1], wanted)


@pytest.mark.parametrize("synthesis", ["expansion", "loop"])
def test_a_cured_loss_that_changes_nothing_is_hphn(
    synthesis: str, batch: tuple[Tensor, Tensor]
) -> None:
    cured = cures.Cured(lambda d_ap, real, synthetic, step: (d_ap, synthetic), synthesis, 0.8)
    plain = cures.make_loss("hphn", synthesis, margin=0.8)
    found, wanted = (
        (value, torch.autograd.grad(value, batch[0])[0])
        for value in (loss(*batch) for loss in (cured, plain))
    )
    torch.testing.assert_close(found, wanted)
