"""The Trainer of Hugging Face with a PML loss on synthetic negatives, on the glyphs.

It takes two things: a sampler that draws several rows of each class, and a loss that the trainer
can add up over the batches of a step. Needs `pip install transformers accelerate`.

    python examples/hugging_face_trainer.py --steps 200
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from pytorch_metric_learning.losses import MultiSimilarityLoss
from pytorch_metric_learning.samplers import MPerClassSampler
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from kit import glyphs
from kit.training import make_net
from loopml import LoOpMiner, SyntheticLoss

BATCH = 64
IMAGES_PER_CLASS = 4


class Inputs(Dataset[dict[str, Tensor]]):
    """The rows of the glyphs by the names of the net's argument and of what the trainer keeps."""

    def __init__(self, data: glyphs.Glyphs):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input": self.data.images[row], "label": self.data.labels[row]}


class ClassTrainer(Trainer):
    """A trainer that draws several images of a class."""

    def _get_train_sampler(self, train_dataset: Any = None) -> MPerClassSampler:
        rows = self.args.max_steps * BATCH * self.args.gradient_accumulation_steps
        return MPerClassSampler(self.train_dataset.data.labels, IMAGES_PER_CLASS, BATCH, rows)


def in_shares(loss: nn.Module) -> Callable[..., Tensor]:
    """A loss that is a mean, as one that the trainer can add up: each batch with its share.

    The trainer adds what it gets over ``gradient_accumulation_steps`` and over devices.
    """

    def compute_loss(
        embeddings: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        share = 1.0 if num_items_in_batch is None else len(labels) / num_items_in_batch
        value: Tensor = share * loss(embeddings, labels)
        return value

    return compute_loss


def main(argv: Sequence[str] | None = None) -> None:
    """Train for some steps; the trainer prints a line for every tenth of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(argv)

    set_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            max_steps=options.steps,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-3,
            logging_steps=max(1, options.steps // 10),
            save_strategy="no",
            disable_tqdm=True,
        )
        loss = in_shares(SyntheticLoss(MultiSimilarityLoss(), LoOpMiner()))
        data = Inputs(glyphs.load("train"))
        ClassTrainer(make_net(), args, train_dataset=data, compute_loss_func=loss).train()


if __name__ == "__main__":
    main()
