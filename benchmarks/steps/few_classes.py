"""A step where a batch has few classes: times and their ratio to mining on real rows.

Untrained (random) embeddings, one thread, process time, medians of interleaved runs. From the root
of the repository, two minutes:

    python -m benchmarks.steps.few_classes
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from pytorch_metric_learning import losses, miners
from torch import Tensor

from benchmarks.provenance import commit
from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, NPairLoss, SyntheticLoss

SHAPES = ((256, 2), (512, 10), (512, 2), (1024, 10))  # rows, classes
DIM, REPEATS = 128, 5
STEPS: dict[str, Callable[[], Any]] = {
    "HPHN, real rows": HPHNTripletLoss,
    "HPHN + LoOp": lambda: HPHNTripletLoss(synthesizer=LoOpMiner()),
    "HPHN + EE": lambda: HPHNTripletLoss(synthesizer=EmbeddingExpansion()),
    "triplet + LoOp": lambda: SyntheticLoss(losses.TripletMarginLoss(), LoOpMiner()),
    "multi-similarity + EE": lambda: SyntheticLoss(
        losses.MultiSimilarityLoss(), EmbeddingExpansion()
    ),
    "N-pair": NPairLoss,
    "N-pair + LoOp": lambda: NPairLoss(synthesizer=LoOpMiner()),
    "N-pair + EE": lambda: NPairLoss(synthesizer=EmbeddingExpansion()),
    "PML BatchHardMiner": miners.BatchHardMiner,
    "LoOpMiner": LoOpMiner,
}


def run(module: Any, labels: Tensor) -> None:
    """A step of a loss, or a call of a miner."""
    x = torch.randn(len(labels), DIM, requires_grad=True)
    if isinstance(module, miners.BaseMiner):
        module(x.detach(), labels)
    else:
        module(x, labels).backward()


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"commit {commit()}, torch {torch.__version__}; milliseconds\n")
    print("| rows, classes | " + " | ".join(STEPS) + " |")
    print("|---|" + "---|" * len(STEPS))
    for rows, classes in SHAPES:
        labels = torch.arange(rows) % classes
        modules = {name: make() for name, make in STEPS.items()}
        taken: dict[str, list[float]] = {name: [] for name in STEPS}
        for repeat in range(REPEATS + 1):
            for name, module in modules.items():
                start = time.process_time()
                run(module, labels)
                if repeat:
                    taken[name].append(1e3 * (time.process_time() - start))
        columns = [f"{statistics.median(times):.0f}" for times in taken.values()]
        print(f"| {rows}, {classes} | " + " | ".join(columns) + " |")


if __name__ == "__main__":
    main()
