"""A Lightning module with a PML loss on synthetic negatives, on the glyphs.

A loss of loopml is a module without weights. Lightning moves, saves and calls it with the rest of
the net. Needs `pip install lightning`.

    python examples/lightning_module.py --steps 200
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import lightning
import torch
from pytorch_metric_learning.losses import MultiSimilarityLoss
from pytorch_metric_learning.samplers import MPerClassSampler
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kit import glyphs
from kit.training import make_net
from loopml import LoOpMiner, SyntheticLoss

BATCH = 64
IMAGES_PER_CLASS = 4


class Embedder(lightning.LightningModule):
    """A net and its loss; a batch is ``(images, labels)``.

    Args:
        net: images to embeddings (n, d).
        loss: called with embeddings and labels.
        lr: learning rate of Adam.
        print_every: steps from one printed line to the next.
    """

    def __init__(self, net: nn.Module, loss: nn.Module, lr: float = 1e-3, print_every: int = 20):
        super().__init__()
        self.net = net
        self.loss = loss
        self.lr = lr
        self.print_every = print_every

    def forward(self, images: Tensor) -> Tensor:
        """The embeddings (n, d) of images."""
        embeddings: Tensor = self.net(images)
        return embeddings

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        images, labels = batch
        loss: Tensor = self.loss(self(images), labels)
        self.log("train_loss", loss)
        if (batch_idx + 1) % self.print_every == 0:
            self.print(f"step {batch_idx + 1:4}  loss {loss.item():.4f}")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on all weights, those that a loss may have too."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def main(argv: Sequence[str] | None = None) -> None:
    """Train for one epoch of some steps, with a line for every tenth of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(argv)

    lightning.seed_everything(0, verbose=False)
    data = glyphs.load("train")
    sampler = MPerClassSampler(data.labels, IMAGES_PER_CLASS, BATCH, options.steps * BATCH)
    module = Embedder(
        make_net(),
        SyntheticLoss(MultiSimilarityLoss(), LoOpMiner()),
        print_every=max(1, options.steps // 10),
    )
    trainer = lightning.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(data, BATCH, sampler=sampler))


if __name__ == "__main__":
    main()
