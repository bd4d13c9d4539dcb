"""The benchmarks run, refuse to time a wrong loss and report what they measured."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.accuracy import conditioning, differences
from benchmarks.steps import calls, cases, figures, gate, original, report, results, run, suites
from benchmarks.steps.batches import EMBEDDINGS, Batch, Setting, make
from benchmarks.steps.cases import CASES, Case
from loopml import geometry

KINDS = tuple(EMBEDDINGS)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a smoke run."""
    path = tmp_path_factory.mktemp("benchmarks") / "smoke.csv"
    assert run.main(["--suite", "smoke", "--budget", "0", "--output", str(path)]) == 0
    return path


def spoilt(case: Case, spoil: Callable[[Tensor, Tensor], Tensor]) -> Case:
    """The case with its value passed through ``spoil``, together with the embeddings."""

    def build(batch: Batch) -> cases.Step:
        step = case.build(batch)
        return lambda embeddings, labels: spoil(step(embeddings, labels), embeddings)

    return replace(case, build=build)


# --- batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_the_same_each_time_and_pair_up(kind: str) -> None:
    setting = Setting(32, 16, 4, kind)
    batch, again = make(setting), make(setting)
    assert torch.equal(batch.embeddings, again.embeddings)
    assert batch.embeddings.shape == (32, 16)
    assert torch.equal(batch.labels[0::2], batch.labels[1::2])
    assert setting.pairs("consecutive") == 16
    assert setting.pairs("all") == len(gate.Truth(batch).pairs("all")[0]) == 48


def test_collapsed_rows_are_near_one_point_and_clustered_ones_near_their_class() -> None:
    collapsed = normalize(make(Setting(64, 32, 2, "collapsed")).embeddings)
    assert torch.cdist(collapsed, collapsed).max() <= 2e-3
    truth = gate.Truth(make(Setting(512, 64, 2, "clustered")))
    nearest = truth.distances.fill_diagonal_(9).argmin(1)
    strangers = (truth.labels[nearest] != truth.labels).double().mean()
    assert 0.05 < strangers < 0.2


# --- the gate ----------------------------------------------------------------------------------


def test_every_loss_of_ours_has_an_expected_value() -> None:
    ours = {name for name, case in CASES.items() if case.group in ("ours", "original")}
    assert ours <= set(gate.EXPECTED) <= set(CASES)


@pytest.mark.parametrize("name", gate.EXPECTED)
@pytest.mark.parametrize("per_class", [2, 4])
def test_gate_passes_the_right_value_and_stops_a_wrong_one(name: str, per_class: int) -> None:
    batch, tolerance = make(Setting(32, 16, per_class, "random")), gate.TOLERANCE["random"]
    gate.check([CASES[name]], batch, tolerance)
    wrong = spoilt(CASES[name], lambda loss, embeddings: 1.01 * loss)
    with pytest.raises(gate.WrongCaseError, match="the loss is"):
        gate.check([wrong], batch, tolerance)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda loss, embeddings: loss + 1, "the loss is"),
        (lambda loss, embeddings: loss / 0, "the loss is"),
        (lambda loss, embeddings: loss + (0 * embeddings).square().sum().sqrt(), "gradient"),
    ],
)
def test_a_wrong_case_is_named_and_nothing_is_timed(
    spoil: Callable[[Tensor, Tensor], Tensor],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    wrong = spoilt(CASES[cases.LOOP], spoil)
    monkeypatch.setattr(suites, "CASES", {**CASES, cases.LOOP: wrong})
    path = tmp_path / "out.csv"
    options = ["--batch", "32", "--dim", "128", "--per-class", "2", "--embeddings", "random"]
    assert run.main(["--suite", "targets", *options, "--output", str(path)]) == 1
    error = capsys.readouterr().err
    assert cases.LOOP in error
    assert message in error
    assert not path.exists()


def test_the_full_batch_must_have_a_finite_gradient_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate compares values on the first rows; a fault beyond them stops the run as well."""

    def spoil(loss: Tensor, embeddings: Tensor) -> Tensor:
        return loss + (0 * embeddings[24:]).square().sum().sqrt()

    monkeypatch.setattr(gate, "ROWS", 16)
    monkeypatch.setattr(suites, "CASES", {**CASES, cases.FLOOR: spoilt(CASES[cases.FLOOR], spoil)})
    experiment = suites.Experiment("", "time", Setting(32, 16, 2, "random"), (cases.FLOOR,))
    with pytest.raises(gate.WrongCaseError, match="floor: the gradient is not finite"):
        run.timed(experiment, 0, 1)


# --- the run and its report --------------------------------------------------------------------


@pytest.mark.slow
def test_smoke_measures_every_case_in_every_part(smoke: Path) -> None:
    rows = results.read(smoke)
    assert {row.case for row in rows} == set(CASES)
    assert {row.part for row in rows} == {e.part for e in suites.ALL_SUITES["all"]}
    assert len(rows) == sum(len(e.names) for e in suites.SMOKE)
    for row in rows:
        assert row.amount > 0
        assert row.commit
        if row.measure == "time":
            assert row.rounds == 5
            assert row.p20_ms <= row.median_ms <= row.p80_ms
        if row.case == cases.FLOOR:
            assert row.over_floor == 1


def test_a_case_is_left_out_of_batches_too_large_for_it() -> None:
    for experiment in suites.ALL_SUITES["all"]:
        assert all(case.max_batch >= experiment.setting.batch for case in experiment.cases)
        assert {case.name for case in experiment.cases} >= set(suites.YARDSTICKS)


@pytest.mark.slow
def test_report_has_all_sections_the_figure_and_the_missed_target(
    smoke: Path, tmp_path: Path
) -> None:
    targets = tmp_path / "targets.csv"
    with targets.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["part", "measure", "case", "over", "batch", "at_most"])
        for at_most in (0, 1e9):
            writer.writerow(["targets", "time", cases.LOOP, cases.FLOOR, 16, at_most])
        writer.writerow(["targets", "time", cases.LOOP, cases.FLOOR, 2048, 1])  # not measured
    page, counted = tmp_path / "page.md", tmp_path / "calls.csv"
    calls.main(["--output", str(counted)])
    options = {
        "--calls": counted,
        "--input": smoke,
        "--output": page,
        "--targets": targets,
        "--conditioning": tmp_path / "not there",
        "--figures": tmp_path,
    }
    report.main([str(x) for option in options.items() for x in option])
    text = page.read_text()
    for heading in ("Targets", "Steps", "The papers", "Calls", "Growth", "Every step", "Memory"):
        assert f"\n## {heading}" in text
    assert "1 of 2 are missed" in text
    assert text.count("**missed**") == 1
    assert "nan" not in text.lower()
    assert (tmp_path / "step_time.png").stat().st_size > 10_000


def row_at(batch: int, milliseconds: float, date: str = "today") -> results.Row:
    """A time of LoOp, with the rest left empty."""
    values = dict.fromkeys(results.Row.__dataclass_fields__)
    known = {
        "part": "batch",
        "measure": "time",
        "date": date,
        "case": cases.LOOP,
        "batch": batch,
        "pairs": batch // 2,
        "median_ms": milliseconds,
    }
    return results.Row(**{**values, **known})


def test_growth_is_the_exponent_of_the_upper_half() -> None:
    rows = [row_at(n, max(1.0, n**2 / 512**2)) for n in (32, 64, 128, 512, 1024, 2048)]
    found = results.comparisons(rows, "batch", "time").values()
    assert report.growth(found, cases.LOOP) == "2.00 (256 to 1024)"


def test_the_last_comparison_counts() -> None:
    rows = [row_at(32, 1.0, "monday"), row_at(64, 2.0, "monday"), row_at(32, 3.0, "tuesday")]
    found = results.comparisons(rows, "batch", "time").values()
    assert sorted(comparison[cases.LOOP].amount for comparison in found) == [2, 3]


def test_labels_are_spread_no_further_than_they_must() -> None:
    assert figures.spread([0.0, 1.0, 0.5], 0.2) == [0.0, 1.0, 0.5]
    np.testing.assert_allclose(figures.spread([0.5, 0.5, 0.5, 5.0], 0.2), [0.3, 0.5, 0.7, 5.0])
    assert report.geometric_mean([2, 8]) == pytest.approx(4)
    assert report.fit([1, 2, 4], [3, 12, 48]) == pytest.approx(log(4) / log(2))


# --- the original, and accuracy ----------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("dim", [4, 16, 128])
def test_transcription_is_right_in_general_position(
    dtype: torch.dtype, tolerance: float, dim: int
) -> None:
    ends = normalize(torch.randn(4, 500, dim, dtype=dtype), dim=-1).requires_grad_()
    theirs, ours = original.arc_distance(*ends), geometry.arc_distance(*ends)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=tolerance)
    if dtype == torch.float64:
        gradients = (torch.autograd.grad(d.sum(), ends)[0] for d in (theirs, ours))
        # Theirs counts the ends' lengths, ours their directions alone: compare along the sphere.
        tangents = (g - (g * ends).sum(-1, keepdim=True) * ends for g in gradients)
        torch.testing.assert_close(*tangents, rtol=0, atol=1e-5)


def test_transcription_has_the_flaw_of_the_original() -> None:
    """On arcs of one great circle some distances are those of no candidate."""
    angles = 2 * torch.rand(4, 500, 1, dtype=torch.float64)
    ends = torch.cat([torch.cos(angles), torch.sin(angles), torch.zeros_like(angles)], -1)
    found = original.arc_distance(*ends)
    assert (found == original.REJECTED).any()
    assert geometry.arc_distance(*ends).max() <= 2


@pytest.mark.parametrize("kind", ["arc", "segment"])
@pytest.mark.parametrize("separation", [1e-8, 1e-3, 1.0])
def test_truth_is_the_separation_built_in(kind: str, separation: float) -> None:
    ends = conditioning.curves(kind, separation, 8, np.random.default_rng(0))
    truth = conditioning.true_distance(kind, ends)
    np.testing.assert_allclose(truth.astype(float), separation, rtol=0, atol=5e-16)


def test_conditioning_draws_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditioning, "SEPARATIONS", (1e-4, 1.0))
    table, figure = tmp_path / "conditioning.csv", tmp_path / "conditioning.png"
    conditioning.main(["--problems", "2", "--output", str(table), "--figure", str(figure)])
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * sum(len(methods) for methods in conditioning.METHODS.values())
    assert all(float(row["largest_error"]) < 1e-6 for row in rows if row["separation"] == "1")
    assert figure.stat().st_size > 10_000
    assert "Accuracy" in "".join(report.conditioning_section(table, "figure.png"))


# --- differences from the papers' code ----------------------------------------------------------


def test_flaws_are_those_of_the_original() -> None:
    """Its gradient is NaN on a point and on opposite ends; ours never is."""
    effects = dict(differences.arcs())
    assert all(effect.endswith("; ours 0.0 %") for effect in effects.values())
    assert "NaN for 0.0 %;" in effects["arcs, general position"]
    for name in ("arcs, a point (coincident ends)", "arcs, opposite ends"):
        assert "NaN for 0.0 %;" not in effects[name]


@pytest.mark.parametrize("part", [differences.losses, differences.ties, differences.curves])
def test_page_quotes_what_is_measured(part: Callable[[], Iterable[tuple[str, str]]]) -> None:
    """All decimals; shares of arcs are left out, since they hang on the sign of a zero."""
    page = (Path(__file__).parents[2] / "docs" / "differences.md").read_text()
    for _, effect in part():
        for number in re.findall(r"\d+\.\d+", effect):
            assert number in page, effect
