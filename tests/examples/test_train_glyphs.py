"""The training example, on a few characters of the glyphs."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import DynamicSoftMarginLoss
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_glyphs
from kit import glyphs, training

METRICS = ("recall_at_1", "map_at_r", "hardest_real", "hardest_expansion", "hardest_loop")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A glyphs file of 40 Latin characters to train on and 12 Hebrew ones to test on."""
    with np.load(glyphs.FILE) as file:
        arrays = {name: file[name] for name in file.files}
    names = arrays["scripts"].tolist()
    kept = np.zeros(len(arrays["images"]), dtype=bool)
    for script, number in (("Latin", 40), ("Hebrew", 12)):
        of_script = arrays["script"] == names.index(script)
        characters = np.unique(arrays["character"][of_script])[:number]
        kept |= of_script & np.isin(arrays["character"], characters)
    for name in ("images", "character", "script", "family"):
        arrays[name] = arrays[name][kept]
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def run(data, tmp_path):
    """Run the example with small settings; the last of doubled options counts."""

    def call(out, *arguments):
        folder = tmp_path / out
        settings = ["--data", str(data), "--out", str(folder), "--jobs", "1", "--eval-every", "1"]
        train_glyphs.main([*settings, *arguments])
        return folder

    return call


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def read_checkpoint(folder, name):
    return torch.load(folder / name / "checkpoint.pt", weights_only=True)


def without_time(rows):
    return [{name: row[name] for name in row if name != "ms_per_step"} for row in rows]


@pytest.mark.slow
def test_run_leaves_metrics_figure_events_and_a_table(run, capsys):
    out = run("out", "--epochs", "2", "--losses", "triplet", "--seeds", "3")
    names = [f"triplet-{synthesis}-3" for synthesis in training.KINDS]
    rows = read_csv(out / "metrics.csv")
    assert [(f"{r['loss']}-{r['synthesis']}-{r['seed']}", r["epoch"]) for r in rows] == [
        (name, epoch) for name in names for epoch in ("1", "2")
    ]
    assert all(0 <= float(row[name]) <= 2 for row in rows for name in METRICS)

    summary = json.loads((out / "summary.json").read_text())
    assert [str(row["recall_at_1"]) for row in summary] == [r["recall_at_1"] for r in rows[1::2]]
    assert (out / "recall_at_1.png").read_bytes().startswith(b"\x89PNG")
    for name in names:
        of_run = read_csv(out / name / "metrics.csv")
        assert of_run == [r for r in rows if f"{r['loss']}-{r['synthesis']}-{r['seed']}" == name]
        assert read_checkpoint(out, name)["epoch"] == 2

    printed = capsys.readouterr().out
    for row in train_glyphs.group(summary, "loss", "synthesis"):
        assert any(line.split()[:2] == list(row) for line in printed.splitlines())
    assert str(out / "recall_at_1.png") in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "synthesis"),
    [("hphn", "expansion"), ("dynamic_soft_margin", "loop"), ("triplet", "loop_index")],
)
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(run, loss, synthesis):
    chosen = ["--losses", loss, "--synthesis", synthesis]
    straight = run("straight", *chosen, "--epochs", "2")
    run("stopped", *chosen, "--epochs", "1")
    torch.rand(3)  # what else the process draws must not matter
    time.sleep(1)  # files of events are read in the order of the second in their names
    stopped = run("stopped", *chosen, "--epochs", "2", "--resume")

    name = f"{loss}-{synthesis}-0"
    expected, found = read_checkpoint(straight, name), read_checkpoint(stopped, name)
    assert without_time(found.pop("rows")) == without_time(expected.pop("rows"))
    assert found["random"].pop("numpy") == expected["random"].pop("numpy")
    torch.testing.assert_close(found, expected, rtol=0, atol=0)

    events = EventAccumulator(str(stopped / name)).Reload()
    for tag in (*METRICS[:2], "train_loss", "hardest_negative/real", "hardest_negative/loop"):
        assert [scalar.step for scalar in events.Scalars(tag)] == [1, 2]


@pytest.mark.slow
def test_finished_runs_are_not_repeated(run, monkeypatch):
    chosen = ["--losses", "triplet", "--synthesis", "none", "--epochs", "1"]
    first = (run("out", *chosen) / "metrics.csv").read_text()

    def fail(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(training.Training, "run_epoch", fail)
    assert (run("out", *chosen, "--resume") / "metrics.csv").read_text() == first


@pytest.mark.slow
def test_script_trains_in_two_processes_with_the_same_result(run, data, tmp_path):
    chosen = ["--losses", "triplet", "--synthesis", "none", "loop", "--epochs", "1"]
    alone = run("alone", *chosen)
    out = tmp_path / "script"
    command = [sys.executable, train_glyphs.__file__, "--data", str(data), "--out", str(out)]
    done = subprocess.run(
        [*command, *chosen, "--jobs", "2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2/2" in done.stderr
    assert done.stdout.splitlines()[-1] == f"Figure: {out / 'recall_at_1.png'}"
    rows = without_time(read_csv(out / "metrics.csv"))
    assert rows == without_time(read_csv(alone / "metrics.csv"))


def test_help_names_every_loss_and_synthesis(capsys):
    with pytest.raises(SystemExit, match="0"):
        train_glyphs.main(["--help"])
    printed = capsys.readouterr().out
    for word in (*training.LOSSES, *training.KINDS, "--resume", "--threads", "--device"):
        assert word in printed


@pytest.mark.parametrize("wrong", [["--losses", "arcface"], ["--epochs", "0"], ["--jobs", "x"]])
def test_wrong_options_end_with_usage(wrong, capsys):
    with pytest.raises(SystemExit, match="2"):
        train_glyphs.main(wrong)
    assert wrong[1] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("loss", "synthesis"),
    [(loss, kind) for loss in training.LOSSES for kind in training.kinds_for(loss)],
)
def test_every_loss_trains(loss, synthesis):
    run = training.Training(loss, synthesis, 0, torch.device("cpu"))
    before = [parameter.clone() for parameter in run.net.parameters()]
    batch = torch.rand(8, 1, 28, 28), torch.arange(4).repeat_interleave(2)
    value = run.run_epoch([batch] * 3)
    assert np.isfinite(value)
    assert all(
        parameter.isfinite().all() and not torch.equal(parameter, old)
        for parameter, old in zip(run.net.parameters(), before, strict=True)
    )


def test_pml_still_needs_its_histogram_detached():
    loss, labels = DynamicSoftMarginLoss(), torch.arange(4).repeat_interleave(2)
    loss(torch.rand(8, 4, requires_grad=True), labels).backward()
    assert loss.hist_.requires_grad, "issue 731 is fixed: _step need not detach"


def test_interrupted_save_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    run = training.Training("triplet", "none", 0, torch.device("cpu"))
    path = tmp_path / "checkpoint.pt"
    run.save(path)
    before = path.read_bytes()

    def fail(_, file):
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        run.save(path)
    assert path.read_bytes() == before


def test_fixed_batch_is_fixed_balanced_and_draws_from_no_global_generator():
    labels = torch.arange(40).repeat(6)
    images = torch.arange(len(labels)).float()
    state = torch.get_rng_state()
    batch = training.fixed_batch(images, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(training.fixed_batch(images, labels).images, batch.images)
    assert torch.equal(labels[batch.images.long()], batch.labels)
    assert batch.labels.unique(return_counts=True)[1].tolist() == [4] * 32


def test_retrieval_leaves_the_query_out_and_ignores_length():
    angle = torch.tensor([0.0, 0.1, 1.0, 1.5, 1.7, 3.0])
    length = torch.tensor([1.0, 9.0, 1.0, 5.0, 1.0, 1.0])
    embeddings = length.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], dim=1)
    labels = torch.tensor([0, 0, 1, 2, 2, 1])
    metrics = training.retrieval(embeddings, labels)
    assert metrics["recall_at_1"] == pytest.approx(4 / 6)
    assert metrics["map_at_r"] == pytest.approx(4 / 6)  # one relevant image each: the same


def test_hardest_negatives_are_nearer_the_more_is_synthesised():
    embeddings, labels = torch.randn(24, 8), torch.arange(6).repeat_interleave(4)
    means = training.hardest_negatives(embeddings, labels)
    unit = torch.nn.functional.normalize(embeddings)
    apart = (unit.unsqueeze(1) - unit).norm(dim=2)
    nearest = [apart[i, labels != labels[i]].min() for i in range(24)]
    assert means["hardest_real"] == pytest.approx(torch.stack(nearest).mean().item(), abs=1e-5)
    assert means["hardest_real"] > means["hardest_expansion"] > means["hardest_loop"] > 0


def test_figure_has_a_panel_for_each_loss_and_lines_told_apart_without_colour():
    rows = [
        {"loss": loss, "synthesis": s, "seed": seed, "epoch": epoch, "recall_at_1": 0.1 * epoch}
        for loss in ("hphn", "supcon")
        for s in training.KINDS
        for seed in (0, 1)
        for epoch in (2, 4)
    ]
    figure = train_glyphs.draw(rows)
    assert [axes.get_title() for axes in figure.axes] == ["hphn", "supcon"]
    for axes in figure.axes:
        lines = axes.get_lines()
        assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == 5
        assert [line.get_xdata().tolist() for line in lines] == [[2, 4]] * 5
        assert len(axes.collections) == 5


def test_table_compares_with_no_synthesis():
    def row(synthesis, seed, recall):
        numbers = dict.fromkeys((*METRICS, "ms_per_step"), 0.5)
        key = {"loss": "tuplet_margin", "synthesis": synthesis, "seed": seed}
        return {**numbers, **key, "recall_at_1": recall}

    last = [row("none", 0, 0.5), row("none", 1, 0.6), row("loop", 0, 0.6), row("loop", 1, 0.7)]
    lines = train_glyphs.table(last).splitlines()
    assert lines[2].split()[:5] == ["tuplet_margin", "none", "0.550", "±", "0.071"]
    assert lines[3].split()[:6] == ["tuplet_margin", "loop", "0.650", "±", "0.071", "+0.100"]
    assert len({line.index("0.500") for line in lines[2:4]}) == 1
