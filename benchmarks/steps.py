"""Time of a training step (forward and backward) against pytorch-metric-learning's hard mining.

All cases run in one process, interleaved, on one thread; the table has medians as ratios to
``TripletMarginLoss`` with ``BatchHardMiner`` and to the floor, which is normalising, one product of
the batch with itself, and its backward. Absolute times depend on the machine and its load; ratios
much less. From the root of the repository:

    python benchmarks/steps.py --batch 128 --dim 512 --per-class 2
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter

import torch
from pytorch_metric_learning import losses, miners
from torch import Tensor

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, SyntheticLoss

Loss = Callable[[Tensor, Tensor], Tensor]


def mined(loss: losses.BaseMetricLossFunction, miner: miners.BaseMiner) -> Loss:
    """A loss on the triplets of a miner."""
    return lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels))


def floor(embeddings: Tensor, labels: Tensor) -> Tensor:
    """What every pairwise loss has to do."""
    unit = torch.nn.functional.normalize(embeddings)
    return (unit @ unit.T).sum()


BASELINE, FLOOR = "PML triplet, BatchHardMiner", "floor"
CASES: Mapping[str, Loss] = {
    BASELINE: mined(losses.TripletMarginLoss(), miners.BatchHardMiner()),
    FLOOR: floor,
    "HPHN, real negatives": HPHNTripletLoss(),
    "HPHN + LoOp, consecutive": HPHNTripletLoss(synthesizer=LoOpMiner(pairing="consecutive")),
    "HPHN + LoOp": HPHNTripletLoss(synthesizer=LoOpMiner()),
    "HPHN + EE, 2 points": HPHNTripletLoss(synthesizer=EmbeddingExpansion()),
    "PML triplet, LoOpMiner": mined(losses.TripletMarginLoss(), LoOpMiner()),
    "PML multi-similarity": losses.MultiSimilarityLoss(),
    "SyntheticLoss(multi-similarity, LoOp)": SyntheticLoss(
        losses.MultiSimilarityLoss(), LoOpMiner()
    ),
}


def seconds(loss: Loss, embeddings: Tensor, labels: Tensor) -> float:
    """One step."""
    leaf = embeddings.clone().requires_grad_()
    start = perf_counter()
    loss(leaf, labels).backward()
    return perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--per-class", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    embeddings = torch.randn(options.batch, options.dim)
    labels = torch.arange(options.batch) // options.per_class
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(options.rounds):
        for name, loss in CASES.items():
            times[name].append(seconds(loss, embeddings, labels))
    middle = {name: median(values[len(values) // 4 :]) for name, values in times.items()}
    print(f"batch {options.batch}, {options.dim}-d, {options.per_class} per class")
    print("| step | over PML's batch-hard triplet | over the floor |\n|---|---|---|")
    for name, value in middle.items():
        print(f"| {name} | {value / middle[BASELINE]:.2f} | {value / middle[FLOOR]:.2f} |")


if __name__ == "__main__":
    main()
