"""Train a linear layer on the frozen features of names, with real and with synthetic negatives.

    python -m examples.text.dataset     # once: builds the features
    python -m examples.text.train       # five losses, three seeds: three minutes
    python -m examples.text.train --losses hphn hphn-loop --margin 0.8

prints Recall@1 and MAP@R on emoji of Unicode subgroups that training never saw, first of the
features as they are, then of each loss as a mean with the deviation of the seeds.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from tqdm import tqdm

from examples.kit.training import embed, epoch_of_batches
from examples.text import dataset
from examples.text.objectives import OBJECTIVES
from loopml.evaluation import RetrievalAccuracy

SCORES = {"recall_at_1": "recall_at_1", "map_at_r": "mean_average_precision_at_r"}


def main(argv: Sequence[str] | None = None) -> None:
    """Train from every seed and print a line for each loss."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    data = {
        split: (dataset.load_features(split, options.cache), dataset.load(split).labels)
        for split in ("train", "test")
    }
    print(line("features as they are", [retrieval(*data["test"])]))
    runs = tqdm([(loss, seed) for loss in options.losses for seed in options.seeds], unit="run")
    scores = [train(*run, options, data) for run in runs]
    for i, loss in enumerate(options.losses):
        print(line(loss, scores[i * len(options.seeds) : (i + 1) * len(options.seeds)]))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    default = ["triplet-loop-mined", "triplet-hard", "hphn", "triplet-loop", "triplet-all"]
    names = ", ".join(OBJECTIVES)
    add("--losses", nargs="+", choices=OBJECTIVES, default=default, metavar="LOSS", help=names)
    add("--margin", type=float, default=0.8, help="of all losses")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    add("--epochs", type=int, default=4, help="passes over the names")
    add("--learning-rate", type=float, default=1e-3)
    add("--threads", type=int, default=1, help="CPU threads")
    add("--cache", type=Path, default=dataset.CACHE, help="where dataset.py put the features")
    return parser.parse_args(argv)


def train(
    loss: str, seed: int, options: argparse.Namespace, data: dict[str, tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Train one layer and score it on the unseen subgroups."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002, MPerClassSampler draws from this generator
    torch.manual_seed(seed)
    features, labels = data["train"]
    head = nn.Linear(features.shape[1], features.shape[1], bias=False)
    nn.init.eye_(head.weight)  # training begins at the features as they are
    objective = OBJECTIVES[loss](options.margin)
    optimizer = torch.optim.Adam(head.parameters(), lr=options.learning_rate)
    start = time.perf_counter()
    for _ in range(options.epochs):
        for batch, of_batch in epoch_of_batches(TensorDataset(features, labels), labels):
            value = objective(head(batch), of_batch)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    seconds = time.perf_counter() - start
    unseen, of_unseen = data["test"]
    scores = retrieval(embed(head, unseen, torch.device("cpu")), of_unseen)
    return {**scores, "seconds": seconds}


def retrieval(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """Recall@1 and MAP@R by the cosine, each row in turn the query and all others the gallery."""
    scorer = RetrievalAccuracy(recall_at=(1,), k="max_bin_count", include=tuple(SCORES.values()))
    found = scorer.get_accuracy(embeddings, labels)
    return {name: found[score] for name, score in SCORES.items()}


def line(name: str, scores: Sequence[dict[str, float]]) -> str:
    """Means, scores in percent with deviations if there are several."""
    cells = [f"{name:20}"]
    for score in SCORES:
        values = [100 * found[score] for found in scores]
        deviation = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
        cells.append(f"{score} {fmean(values):.1f}{deviation}")
    if "seconds" in scores[0]:
        cells.append(f"{fmean(found['seconds'] for found in scores):.0f} s")
    return "  ".join(cells)


if __name__ == "__main__":
    main()
