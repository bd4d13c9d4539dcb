"""The short examples run as they stand."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pytorch_metric_learning.losses import TripletMarginLoss
from torch import nn

import distributed
import lightning_module
import memory_queue
import plain_loop
from loopml import LoOpMiner, SyntheticLoss

# Lightning advises data loaders with workers, and uses a torch function that is to go.
of_lightning = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec.* is deprecated"
)


def steps(lines: list[str]) -> list[int]:
    """The steps that have a line; each has a positive loss."""
    found = [match for line in lines if (match := re.match(r"step +(\d+)  loss (\d+\.\d+)", line))]
    assert all(float(match[2]) > 0 for match in found)
    return [int(match[1]) for match in found]


@pytest.mark.slow
def test_plain_loop_needs_no_other_file(tmp_path: Path) -> None:
    """Alone in a folder it trains, and tells classes apart that it never saw."""
    script = shutil.copy(plain_loop.__file__, tmp_path)
    command = [sys.executable, script, "--steps", "100"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert steps(lines) == list(range(10, 101, 10))
    before, after = map(float, re.findall(r"0\.\d+|1\.0+", last))
    assert after > before + 0.3


def test_queue_trains_and_evaluates(capsys: pytest.CaptureFixture[str]) -> None:
    """A line per step, then the Recall@1 of the net."""
    memory_queue.main(["--steps", "3", "--queries", "200"])
    lines = capsys.readouterr().out.splitlines()
    assert steps(lines) == [1, 2, 3]
    recall = re.fullmatch(r"Recall@1 on 200 images of unseen scripts: (0\.\d+)", lines[-1])
    assert recall
    assert float(recall[1]) > 0.2  # by chance it is 0.03


def test_queue_fills_and_stays_full(capsys: pytest.CaptureFixture[str]) -> None:
    """Real rows alone: as many as were embedded, and never more than its size."""
    memory_queue.main(["--steps", "3", "--queries", "50", "--size", "80"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[:3]] == ["32", "64", "80"]


def test_queue_of_no_rows_is_empty() -> None:
    queue = memory_queue.Queue(dim=2, size=0)
    queue.enqueue(torch.ones(3, 2), torch.arange(3))
    assert len(queue.labels) == len(queue.embeddings) == 0


@of_lightning
def test_lightning_trains(capsys: pytest.CaptureFixture[str]) -> None:
    lightning_module.main(["--steps", "3"])
    assert steps(capsys.readouterr().out.splitlines()) == [1, 2, 3]


def test_lightning_optimises_the_loss_too() -> None:
    """Weights that a loss has are among those of the module."""
    loss = SyntheticLoss(TripletMarginLoss(), LoOpMiner())
    loss.scale = nn.Parameter(torch.ones(()))
    (group,) = lightning_module.Embedder(nn.Linear(2, 2), loss).configure_optimizers().param_groups
    assert any(parameter is loss.scale for parameter in group["params"])


@pytest.mark.slow
def test_distributed_trains_one_net() -> None:
    """Two processes started by torchrun end with the same weights; one of them prints."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", distributed.__file__, "--steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert steps(lines) == [1, 2]
    assert lines[-1] == "2 processes, weights differ by 0e+00"


def test_distributed_says_how_to_start_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit, match="2"):
        distributed.main([])
    assert "torchrun --nproc-per-node 2 examples/distributed.py" in capsys.readouterr().err
