"""A plain PyTorch loop: a triplet loss on triplets that LoOp mined. This file is all it needs.

A batch has four samples of each class, because a loss on pairs needs several. The data are points
around the centres of their classes. Half of the dimensions are noise, and the net has to learn
which. Put your own data and your own net in their place.

    python examples/plain_loop.py

It prints the loss, and the Recall@1 on classes that the net has not seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.samplers import MPerClassSampler
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from loopml import LoOpMiner
from loopml.evaluation import RetrievalAccuracy

CLASSES, PER_CLASS, DIM = 100, 8, 32
BATCH, PER_CLASS_IN_BATCH = 64, 4


def draw_classes() -> tuple[Tensor, Tensor]:
    """Points (n, DIM) and their labels (n,)."""
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    centres = torch.randn(CLASSES, DIM // 2)[labels]
    inside = centres + 0.5 * torch.randn(len(labels), DIM // 2)
    return torch.cat([inside, 1.5 * torch.randn(len(labels), DIM // 2)], dim=1), labels


@torch.no_grad()
def recall(net: nn.Module, points: Tensor, labels: Tensor) -> float:
    """Recall@1, each point in turn the query and all others the gallery."""
    accuracy = RetrievalAccuracy(recall_at=(1,), include=("recall_at_1",))
    found: float = accuracy.get_accuracy(net(points), labels)["recall_at_1"]
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Train for some steps, with a line for every tenth of them, and evaluate on unseen classes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002, MPerClassSampler draws from this generator
    train, test = TensorDataset(*draw_classes()), draw_classes()
    sampler = MPerClassSampler(train.tensors[1], PER_CLASS_IN_BATCH, BATCH, options.steps * BATCH)
    net = nn.Linear(DIM, 16)
    loss_fn, miner = TripletMarginLoss(margin=0.8), LoOpMiner()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    before = recall(net, *test)
    for step, (points, labels) in enumerate(DataLoader(train, BATCH, sampler=sampler), 1):
        embeddings = net(points)
        loss = loss_fn(embeddings, labels, miner(embeddings, labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % max(1, options.steps // 10) == 0:
            print(f"step {step:4}  loss {loss.item():.4f}")
    print(f"Recall@1 on unseen classes: {before:.3f} before, {recall(net, *test):.3f} after")


if __name__ == "__main__":
    main()
