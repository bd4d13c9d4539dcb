"""Train a linear layer on the frozen emoji features, with and without synthetic negatives.

    python -m examples.emoji.dataset         # once: builds the data
    python -m examples.emoji.train   # two losses, three kinds of negatives, five seeds: two minutes

prints Recall@1 and MAP@R on emoji of Unicode subgroups that training never saw, first of the
features as they are, then of each loss and kind of negatives as a mean with the deviation of the
seeds. Margins are the default ones; `benchmarks/study/run.py` chooses them on validation
classes.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset
from tqdm import tqdm

from examples.emoji import dataset as emoji
from examples.kit.training import (
    LOSSES,
    SYNTHESIZERS,
    embed,
    epoch_of_batches,
    make_loss,
    retrieval,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Train from every seed and print a line for each loss and kind of negatives."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    train_set = emoji.load("train", options.cache)
    test_set = emoji.load("test", options.cache)
    plain = retrieval(test_set.features, test_set.labels)
    print(line("features as they are", [plain]))
    kinds = list(product(options.losses, options.synthesis))
    runs = tqdm([(*kind, seed) for kind in kinds for seed in options.seeds], unit="run")
    scores = [train(*run, options.epochs, train_set, test_set) for run in runs]
    for i, (loss, synthesis) in enumerate(kinds):
        of_kind = scores[i * len(options.seeds) : (i + 1) * len(options.seeds)]
        print(line(f"{loss}, {synthesis}", of_kind))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    kinds = list(SYNTHESIZERS)
    add("--losses", nargs="+", choices=LOSSES, default=["hphn", "triplet"], metavar="LOSS")
    add("--synthesis", nargs="+", choices=kinds, default=kinds, metavar="KIND")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="SEED")
    add("--epochs", type=int, default=8, help="passes over the training images")
    add("--threads", type=int, default=1, help="CPU threads")
    add(
        "--cache",
        type=Path,
        default=emoji.CACHE,
        help="where dataset.py put the data",
    )
    return parser.parse_args(argv)


def train(
    loss: str,
    synthesis: str,
    seed: int,
    epochs: int,
    train_set: emoji.Emoji,
    test_set: emoji.Emoji,
) -> dict[str, float]:
    """Train one layer and score it on the unseen subgroups."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002, MPerClassSampler draws from this generator
    torch.manual_seed(seed)
    inputs, unseen = emoji.standardize(train_set.features, test_set.features)
    head = nn.Linear(inputs.shape[1], 128)
    loss_fn = make_loss(loss, synthesis)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-4)
    data = TensorDataset(inputs, train_set.labels)
    for _ in range(epochs):
        for features, labels in epoch_of_batches(data, train_set.labels):
            value = loss_fn(head(features), labels)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    return retrieval(embed(head, unseen, torch.device("cpu")), test_set.labels)


def line(name: str, scores: Sequence[dict[str, float]]) -> str:
    """Means in percent, with deviations if there are several."""
    cells = [f"{name:22}"]
    for score in ("recall_at_1", "map_at_r"):
        values = [100 * found[score] for found in scores]
        deviation = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
        cells.append(f"{score} {fmean(values):.1f}{deviation}")
    return "  ".join(cells)


if __name__ == "__main__":
    main()
