"""The benchmarks run, refuse to time a wrong loss and report what they measured."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.accuracy import conditioning, differences
from benchmarks.provenance import RESULTS
from benchmarks.steps import all as everything
from benchmarks.steps import (
    cases,
    compilation,
    expected,
    gate,
    kernels,
    original,
    results,
    run,
    suites,
)
from benchmarks.steps.batches import EMBEDDINGS, Batch, Setting, make
from benchmarks.steps.cases import CASES, Case
from benchmarks.steps.report import __main__ as report
from benchmarks.steps.report import figure, markdown, memory, ratios, sources, times
from benchmarks.steps.report.accuracy import accuracy_section
from benchmarks.steps.report.calls import compilation_section, lines_of
from benchmarks.steps.report.targets import OF_SETTING
from loopml import compiled, geometry

KINDS = tuple(EMBEDDINGS)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a smoke run."""
    folder = tmp_path_factory.mktemp("benchmarks")
    where = ["--output", str(folder), "--docs", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        # Compiling everything once more takes as long as the rest: a test of its own replaces it.
        patch.setattr(compilation, "in_fresh_process", lambda cache: 1.5)
        assert everything.main(["--smoke", *where]) == 0
    return folder


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


def test_collapsed_rows_are_near_one_point_and_clustered_ones_near_their_class() -> None:
    collapsed = normalize(make(Setting(64, 32, 2, "collapsed")).embeddings)
    assert torch.cdist(collapsed, collapsed).max() <= 2e-3
    truth = expected.Truth(make(Setting(512, 64, 2, "clustered")))
    nearest = truth.distances.fill_diagonal_(9).argmin(1)
    strangers = (truth.labels[nearest] != truth.labels).double().mean()
    assert 0.05 < strangers < 0.2


def test_a_batch_beside_a_queue_has_its_classes_and_lies_near_their_rows() -> None:
    batch = make(Setting(32, 128, 64, "clustered", references=1024))
    rows, labels = batch.queue
    assert rows is not None
    assert labels is not None
    assert (len(batch.labels), len(rows)) == (32, 1024)
    assert torch.equal(batch.labels.unique(return_counts=True)[1], torch.full((8,), 4))
    distances = torch.cdist(normalize(batch.embeddings), normalize(rows))
    assert torch.equal(labels[distances.argmin(1)], batch.labels)
    head = batch.head(64)
    assert head.reference_labels is not None
    assert torch.equal(head.reference_labels.unique(return_counts=True)[1], torch.full((8,), 8))
    assert torch.equal(head.labels, batch.labels)


# --- with and without kernels ------------------------------------------------------------------


def test_pure_takes_the_kernels_away_and_gives_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "kernels", lambda: compiled)
    seen = []

    def step(embeddings: Tensor, labels: Tensor) -> Tensor:
        seen.append(compiled.kernels() is None)
        return embeddings.sum()

    case = Case("a", "ours", cases.fixed(step))
    twins = cases.registry(case)
    for name in ("a", cases.without_kernels("a")):
        gate.step_once(twins[name], make(Setting(8, 4, 2, "random")))
    assert seen == [False, True]
    assert compiled.kernels() is compiled


def test_pure_is_without_numba() -> None:
    """Also where it is installed."""
    with kernels.pure():
        assert kernels.used() == ""
        assert compiled.kernels() is None


# --- the gate ----------------------------------------------------------------------------------


def test_every_loss_of_ours_has_an_expected_value() -> None:
    ours = {name for name, case in CASES.items() if case.group in ("ours", "original")}
    assert ours <= set(expected.EXPECTED) <= set(CASES)


def check(name: str, setting: Setting) -> None:
    """The right step passes and one that is off by a little does not."""
    batch, tolerance = make(setting), gate.TOLERANCE[setting.embeddings]
    gate.check([CASES[name]], batch, tolerance)
    if name.startswith(cases.LOOP_MINER):
        wrong = reversed_negatives(CASES[name])
    else:
        wrong = spoilt(CASES[name], lambda loss, embeddings: 1.01 * loss)
    with pytest.raises(gate.WrongCaseError, match="the loss is"):
        gate.check([wrong], batch, tolerance)


def reversed_negatives(case: Case) -> Case:
    """A miner that gives each pair the negative of another."""

    def build(batch: Batch) -> cases.Step:
        step = case.build(batch)

        def mine(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
            anchor, positive, negative = step(embeddings, labels)
            return anchor, positive, negative.flip(0)

        return mine

    return replace(case, build=build)


@pytest.mark.parametrize("name", expected.EXPECTED)
@pytest.mark.parametrize("per_class", [2, 4])
def test_gate_passes_the_right_value_and_stops_a_wrong_one(name: str, per_class: int) -> None:
    check(name, Setting(32, 16, per_class, "random"))


@pytest.mark.parametrize("kind", suites.PLAIN)
@pytest.mark.parametrize("per_class", [8, 64])
def test_gate_knows_the_value_against_a_queue(kind: str, per_class: int) -> None:
    check(cases.LOOP_DEFAULT, Setting(32, 16, per_class, kind, references=1024))


def test_a_miner_without_tuples_is_not_timed() -> None:
    nothing = (torch.empty(0, dtype=torch.long),) * 3
    wrong = replace(CASES[cases.BATCH_HARD_MINER], build=cases.fixed(lambda x, labels: nothing))
    with pytest.raises(gate.WrongCaseError, match="no tuples"):
        gate.check([wrong], make(Setting(32, 16, 2, "random")), 1.0)


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
    assert run.main(["--suite", "table", *options, "--output", str(path)]) == 1
    error = capsys.readouterr().err
    assert cases.LOOP in error
    assert message in error
    assert not path.exists()


def test_the_full_batch_must_have_a_finite_gradient_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate compares values on the first rows; a fault beyond them stops the run as well."""

    def spoil(loss: Tensor, embeddings: Tensor) -> Tensor:
        return loss + (0 * embeddings[24:]).square().sum().sqrt()

    monkeypatch.setattr(gate, "ROWS", 16)
    monkeypatch.setattr(
        suites, "CASES", {**CASES, cases.ONE_PRODUCT: spoilt(CASES[cases.ONE_PRODUCT], spoil)}
    )
    experiment = suites.Experiment("", "time", Setting(32, 16, 2, "random"), (cases.ONE_PRODUCT,))
    with pytest.raises(gate.WrongCaseError, match="one product: the gradient is not finite"):
        run.timed(experiment, 0, 1)


# --- the run and its report --------------------------------------------------------------------


@pytest.mark.slow
def test_smoke_measures_every_case_in_every_part(smoke: Path) -> None:
    rows = results.read(smoke / "steps.csv")
    assert {row.case for row in rows} == set(CASES)
    assert {row.part for row in rows} == set(everything.SUITES)
    assert len(rows) == sum(len(e.names) for e in suites.SUITES["smoke"])
    for row in rows:
        assert row.amount > 0
        assert row.commit
        assert row.numba == kernels.used()
        if row.measure == "time":
            assert row.rounds == 5
            assert row.p20_ms <= row.median_ms <= row.p80_ms


def test_a_suite_holds_its_parts_and_leaves_out_cases_that_are_too_large() -> None:
    assert {*everything.SUITES, "smoke"} == set(suites.SUITES)
    for name in everything.SUITES:
        for experiment in suites.SUITES[name]:
            assert experiment.part == name
            assert all(case.max_batch >= experiment.setting.batch for case in experiment.cases)
            assert len(experiment.cases) > 1


def test_a_run_goes_on_where_it_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "steps.csv"
    options = ["--suite", "smoke", "--batch", "512", "--output", str(path)]
    monkeypatch.setattr(run, "peak_in_fresh_process", lambda *arguments: 1.0)
    monkeypatch.setattr(run, "commit", lambda: results.provenance()["commit"])
    monkeypatch.setitem(results.provenance(), "commit", "abc")
    for _ in range(2):
        assert run.main(options) == 0
    assert len(results.read(path)) == 1
    everything.keep_own(path)
    assert len(results.read(path)) == 1
    monkeypatch.setattr(run, "commit", lambda: "another")
    assert run.main(options) == 0
    assert len(results.read(path)) == 2
    everything.keep_own(path)
    assert results.read(path) == []


@pytest.mark.slow
def test_page_has_all_sections_the_figure_and_the_missed_target(
    smoke: Path, tmp_path: Path
) -> None:
    targets = tmp_path / "targets.csv"
    with targets.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["part", "measure", "case", "over", "batch", "per_class", "references", "at_most"]
        )
        for at_most in (0, 1e9):
            writer.writerow(["table", "time", cases.LOOP, cases.ONE_PRODUCT, 16, "", "", at_most])
        writer.writerow(["queue", "time", cases.LOOP_DEFAULT, "", 16, 8, 64, 1e9])
        writer.writerow(["queue", "time", cases.LOOP_DEFAULT, "", 16, 8, 65536, 1])  # not measured
    report.main(["--results", str(smoke), "--docs", str(tmp_path), "--targets", str(targets)])
    text = (tmp_path / "benchmarks.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    # A smoke run measures the memory of one case, which leaves nothing to compare.
    assert [h for h in headings if h != "Compilation"] == [
        "In short",
        "Growth",
        "Time",
        "The papers' algorithm",
        "Queues",
        "Calls of operators",
        "Accuracy where curves nearly touch",
        "How it was measured",
        "Targets",
    ]
    assert ("Compilation" in headings) == bool(kernels.used())
    assert "1 of 3 targets are missed" in text
    assert text.count("**missed**") == 1
    assert "nan" not in text.lower()
    assert (tmp_path / "figures" / "step_time.png").stat().st_size > 10_000


def test_compile_time_is_the_first_use_less_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a fresh process with an empty cache, then in one that finds it filled."""
    taken = {case: iter([5.0, 2.0]) for case in compilation.TIMED}
    monkeypatch.setattr(compilation, "step", lambda case: next(taken.get(case.name, iter([9.0]))))
    assert compilation.seconds_of_first_use() == 3 * len(taken)


def test_compile_time_is_measured_in_a_process_with_a_cache_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that is run prints the seconds that are read; the folder is where numba looks."""
    monkeypatch.setattr(compilation, "seconds_of_first_use", lambda: 2.5)

    def here(command: list[str], *, env: dict[str, str], **_: object) -> CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", compilation.__name__]
        assert env["NUMBA_CACHE_DIR"] == "folder"
        compilation.main(command[3:])
        return CompletedProcess(command, 0, capsys.readouterr().out)

    monkeypatch.setattr(subprocess, "run", here)
    assert compilation.in_fresh_process("folder") == 2.5


def test_compile_times_are_on_the_page() -> None:
    row = {"numba": "numba 1", "commit": "abc", "machine": "here"}
    rows = [
        {"cache": cache, "seconds": s, **row} for cache, s in (("empty", "12"), ("filled", "3"))
    ]
    text = " ".join(compilation_section(rows))
    assert "took 12 s" in text
    assert "loaded in 3 s" in text


def test_the_page_is_what_the_committed_rows_say() -> None:
    assert (report.DOCS / "benchmarks.md").read_text() == report.page(RESULTS, report.TARGETS)


def test_targets_speak_of_what_is_measured() -> None:
    """Each has an experiment, so that none goes unseen."""
    for target in lines_of(report.TARGETS):
        experiments = [
            e
            for e in suites.SUITES[target["part"]]
            if e.measure == target["measure"]
            and all(
                int(target[name] or getattr(e.setting, name)) == getattr(e.setting, name)
                for name in OF_SETTING
            )
        ]
        assert experiments, target
        for name in filter(None, (target["case"], target["over"])):
            assert all(name in e.names for e in experiments) or target["part"] == "memory", target
            assert any(name in e.names for e in experiments), target


def row_at(batch: int, milliseconds: float, date: str = "today") -> results.Row:
    """A time of LoOp, with the rest left empty."""
    values = dict.fromkeys(results.Row.__dataclass_fields__)
    known = {
        "part": "growth",
        "measure": "time",
        "date": date,
        "case": cases.LOOP,
        "batch": batch,
        "median_ms": milliseconds,
    }
    return results.Row(**{**values, **known})


def test_means_have_their_range_on_one_line() -> None:
    assert markdown.spread([2, 8]) == f"4.00 (2.00{markdown.DASH}8.00)"
    assert markdown.spread([2]) == "2.00"
    assert times.cells([2, 8], with_range=False) == "**4.00**"
    assert times.cells([0.5, 1.5], with_range=True).startswith("0.87 (0.50")
    assert times.cells([], with_range=True) == ""


def test_small_numbers_are_formulas() -> None:
    found = [markdown.power(value) for value in ("1", "2.63", "1e-06", "2.28e-08")]
    assert found == ["1", "3", "$10^{-6}$", r"$2 \cdot 10^{-8}$"]


def test_memory_is_a_range_and_a_ratio() -> None:
    peaks = {cases.LOOP: (10.0, 20.0), cases.BATCH_HARD: (20.0, 80.0)}
    found = {
        Setting(4096, dim, 2, "random"): {
            name: row_at(4096, peak[i]) for name, peak in peaks.items()
        }
        for i, dim in enumerate((128, 512))
    }
    line = memory.line(ratios.Ratio(*peaks), found)
    assert line[0] == f"`{cases.LOOP}`<br>over `{cases.BATCH_HARD}`"
    assert line[1:] == ["4096", markdown.span([10, 20]), "", markdown.span([20, 80]), "0.35", ""]
    assert memory.line(ratios.Ratio(cases.EXPANSION, cases.BATCH_HARD), found) == []


def test_each_section_says_what_it_was_measured_by() -> None:
    row = {"commit": "abc", "machine": "here", "numba": ""}
    found = [
        *sources.of_lines("Calls", "steps.calls", [row]),
        *sources.of_lines("Accuracy", "accuracy.conditioning", []),
    ]
    text = "\n".join(sources.sources_section(found))
    assert "| Calls | `python -m benchmarks.steps.calls` | abc | (1) |" in text
    assert "(1) here, no numba." in text
    assert "Accuracy" not in text


def test_the_last_comparison_counts() -> None:
    rows = [row_at(32, 1.0, "monday"), row_at(64, 2.0, "monday"), row_at(32, 3.0, "tuesday")]
    found = results.comparisons(rows, "growth", "time").values()
    assert sorted(comparison[cases.LOOP].amount for comparison in found) == [2, 3]


def test_labels_are_spread_no_further_than_they_must() -> None:
    assert figure.spread([0.0, 1.0, 0.5], 0.2) == [0.0, 1.0, 0.5]
    np.testing.assert_allclose(figure.spread([0.5, 0.5, 0.5, 5.0], 0.2), [0.3, 0.5, 0.7, 5.0])
    assert markdown.geometric_mean([2, 8]) == pytest.approx(4)


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
    assert "Accuracy" in "".join(accuracy_section(rows, "figure.png"))


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
