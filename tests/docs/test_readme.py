"""The README: its code runs, its links lead somewhere, its numbers are those of the study."""

import re
from functools import cache
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss, MultiSimilarityLoss
from torch.utils.data import TensorDataset

from benchmarks.provenance import RESULTS
from benchmarks.study import report
from benchmarks.study.cells import DEFAULT, Cell
from benchmarks.study.ledger import IDEA_RUNS, STEPS, STUDY, Ledger, cell_of
from benchmarks.study.tasks import DATASETS
from loopml import EmbeddingExpansion, HPHNTripletLoss, SyntheticLoss

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FLAT = " ".join(README.split())


def test_code_runs() -> None:
    """The loop on a small net; then each of the other ways on its last batch."""
    model = torch.nn.Linear(8, 4)
    names: dict[str, Any] = {
        "targets": torch.arange(32).repeat(4),
        "dataset": TensorDataset(torch.randn(128, 8), torch.arange(32).repeat(4)),
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        **{kind.__name__: kind for kind in (ContrastiveLoss, MultiSimilarityLoss)},
        **{kind.__name__: kind for kind in (EmbeddingExpansion, HPHNTripletLoss, SyntheticLoss)},
    }
    before = model.weight.clone()
    loop, others = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    exec(compile(loop, "README.md", "exec"), names)
    assert not torch.equal(model.weight, before)
    for line in others.splitlines()[1:]:  # the first is a comment
        names["embeddings"] = names["embeddings"].detach().requires_grad_()
        exec(compile(line, "README.md", "exec"), names)
        names["loss"].backward()
        assert names["embeddings"].grad.isfinite().all()


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", README):
        assert "://" in target or (ROOT / target).exists(), target


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
