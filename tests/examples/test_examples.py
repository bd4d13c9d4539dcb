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
from torch.utils.data import SequentialSampler
from transformers import TrainingArguments

import distributed
import hugging_face_trainer
import lightning_module
import memory_queue
import plain_loop
import sentence_transformers_trainer
from loopml import LoOpMiner, SyntheticLoss

# Lightning advises data loaders with workers, and uses a torch function that is to go.
of_lightning = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec.* is deprecated"
)

# The trainers of Hugging Face pin memory for an accelerator that is not there.
of_hugging_face = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")


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


@of_hugging_face
def test_hugging_face_trains(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each step, with a positive loss."""
    hugging_face_trainer.main(["--steps", "3"])
    found = re.findall(r"^\{'loss': '(\d\.\d+)'", capsys.readouterr().out, re.MULTILINE)
    assert len(found) == 3
    assert all(float(loss) > 0 for loss in found)


@of_hugging_face
def test_hugging_face_adds_up_to_a_mean(tmp_path: Path) -> None:
    """A step of two batches is one with the mean of their gradients."""
    loss = SyntheticLoss(TripletMarginLoss(0.5), LoOpMiner())
    rows, labels = torch.randn(8, 3), torch.tensor([0, 0, 1, 1, 0, 1, 0, 1])
    net = nn.Linear(3, 2)
    halves = [loss(net(rows[half]), labels[half]) for half in (slice(4), slice(4, 8))]
    wanted = net.weight.detach() - torch.autograd.grad(sum(halves) / 2, net.weight)[0]

    class InOrder(hugging_face_trainer.Trainer):
        def _get_train_sampler(self, train_dataset: object = None) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    args = TrainingArguments(
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_grad_norm=0.0,
        optim="sgd",
        learning_rate=1.0,
        save_strategy="no",
        disable_tqdm=True,
    )
    data = [{"input": row, "label": label} for row, label in zip(rows, labels, strict=True)]
    in_shares = hugging_face_trainer.in_shares(loss)
    InOrder(net, args, train_dataset=data, compute_loss_func=in_shares).train()
    torch.testing.assert_close(net.weight, wanted)


@of_hugging_face
def test_sentence_transformers_train(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each step, then the Recall@1 before and after."""
    sentence_transformers_trainer.main(["--steps", "4"])
    printed = capsys.readouterr().out
    assert len(re.findall(r"^\{'loss': '\d\.\d+'", printed, re.MULTILINE)) == 4
    before, after = map(float, re.findall(r"0\.\d+", printed.splitlines()[-1]))
    assert after > before + 0.005


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
