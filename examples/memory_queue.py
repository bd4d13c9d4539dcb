"""Synthetic negatives against a memory queue that holds real rows only.

The references are the batch and the queue together. Curves join an anchor with its positives in
both, and negatives come from both. Each step makes its own synthetic points. They are never stored.

    python examples/memory_queue.py --steps 200
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.samplers import MPerClassSampler
from torch import Tensor
from torch.utils.data import DataLoader

from kit import glyphs
from kit.training import embed, make_net, retrieval
from loopml import LoOpMiner, SyntheticLoss

DIM = 64
BATCH = 32
IMAGES_PER_CLASS = 4


class Queue:
    """The last ``size`` embeddings, first in, first out; without gradient.

    Attributes:
        embeddings: (m, dim) with m <= size, the oldest first.
        labels: (m,).
    """

    def __init__(self, dim: int, size: int, dtype: torch.dtype = torch.float32) -> None:
        self.size = size
        self.embeddings = torch.empty(0, dim, dtype=dtype)
        self.labels = torch.empty(0, dtype=torch.int64)

    def enqueue(self, embeddings: Tensor, labels: Tensor) -> None:
        """Append a batch and drop what is older than the last ``size`` rows."""
        oldest = max(0, len(self.labels) + len(labels) - self.size)
        self.embeddings = torch.cat([self.embeddings, embeddings.detach()])[oldest:]
        self.labels = torch.cat([self.labels, labels])[oldest:]

    def references(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The batch and the queue, as the arguments of a loss that name its references."""
        # The batch comes first: a row that equals its reference at the same index is itself, and
        # so is never its own positive. It has to be enqueued after the loss for the same reason.
        return {
            "ref_emb": torch.cat([embeddings, self.embeddings]),
            "ref_labels": torch.cat([labels, self.labels]),
        }


def main(argv: Sequence[str] | None = None) -> None:
    """Train for some steps, with a line for every tenth of them, and evaluate on unseen scripts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--size", type=int, default=256, help="rows of the queue (default: 256)")
    parser.add_argument("--queries", type=int, default=1000, help="test images (default: 1000)")
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002, MPerClassSampler draws from this generator
    train, test = glyphs.load("train"), glyphs.load("test")
    sampler = MPerClassSampler(train.labels, IMAGES_PER_CLASS, BATCH, options.steps * BATCH)
    net = make_net(DIM)
    loss_fn = SyntheticLoss(TripletMarginLoss(margin=0.2), LoOpMiner())
    queue = Queue(DIM, options.size)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for step, (images, labels) in enumerate(DataLoader(train, BATCH, sampler=sampler), 1):
        embeddings = net(images)
        loss = loss_fn(embeddings, labels, **queue.references(embeddings, labels))
        queue.enqueue(embeddings, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % max(1, options.steps // 10) == 0:
            print(f"step {step:4}  loss {loss.item():.4f}  queue {len(queue.labels)}")

    images, labels = test.images[: options.queries], test.labels[: options.queries]
    recall = retrieval(embed(net, images, torch.device("cpu")), labels)["recall_at_1"]
    print(f"Recall@1 on {len(labels)} images of unseen scripts: {recall:.3f}")


if __name__ == "__main__":
    main()
