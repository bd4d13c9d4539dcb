"""A plain PyTorch loop: the HPHN triplet loss on LoOp negatives, on the glyphs.

Nothing but a sampler, a net, a loss and an optimizer. Batches have several images of each class,
since a loss on pairs needs them.

    python examples/plain_loop.py --steps 200
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import glyphs
import numpy as np
import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from torch.utils.data import DataLoader
from training import embed, make_net, retrieval

from loopml import HPHNTripletLoss, LoOpMiner

BATCH = 64
IMAGES_PER_CLASS = 4


def main(argv: Sequence[str] | None = None) -> None:
    """Train for some steps, with a line for every tenth of them, and evaluate on unseen scripts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--queries", type=int, default=1000, help="test images (default: 1000)")
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002, MPerClassSampler draws from this generator
    train, test = glyphs.load("train"), glyphs.load("test")
    sampler = MPerClassSampler(train.labels, IMAGES_PER_CLASS, BATCH, options.steps * BATCH)
    net = make_net()
    loss_fn = HPHNTripletLoss(margin=0.2, synthesizer=LoOpMiner())
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for step, (images, labels) in enumerate(DataLoader(train, BATCH, sampler=sampler), 1):
        loss = loss_fn(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % max(1, options.steps // 10) == 0:
            print(f"step {step:4}  loss {loss.item():.4f}")

    images, labels = test.images[: options.queries], test.labels[: options.queries]
    recall = retrieval(embed(net, images, torch.device("cpu")), labels)["recall_at_1"]
    print(f"Recall@1 on {len(labels)} images of unseen scripts: {recall:.3f}")


if __name__ == "__main__":
    main()
