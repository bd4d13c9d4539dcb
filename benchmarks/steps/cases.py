"""What is measured: the steps of losses and of miners, by name.

A case builds its step once from a batch, as a training builds its loss once. The step maps
embeddings and labels to a loss, whose backward is measured with it, or to the indices of a miner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import torch
from pytorch_metric_learning import losses, miners
from torch import Tensor

from benchmarks.steps import original
from benchmarks.steps.batches import Batch
from benchmarks.steps.kernels import pure
from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, SyntheticLoss

Found = Tensor | tuple[Tensor, ...]  # a loss, or a miner's indices
Step = Callable[[Tensor, Tensor], Found]


@dataclass(frozen=True)
class Case:
    """A step to measure, on batches of at most ``max_batch`` rows, beyond which memory runs out."""

    name: str
    group: Literal["ours", "PML", "original", "one product"]
    build: Callable[[Batch], Step]
    max_batch: int = 8192
    without_kernels: bool = False

    def backend(self) -> AbstractContextManager[None]:
        """What its step has to run under."""
        return pure() if self.without_kernels else nullcontext()


def run(step: Step, leaf: Tensor, labels: Tensor) -> Found:
    """A step once: forward and, of a loss, backward."""
    found = step(leaf, labels)
    if isinstance(found, Tensor):
        found.backward()
    return found


def fixed(step: Step) -> Callable[[Batch], Step]:
    """The same step for every batch."""
    return lambda batch: step


def of(loss: losses.BaseMetricLossFunction) -> Callable[[Batch], Step]:
    """A loss on a batch and its queue."""
    return lambda batch: lambda x, labels: loss(x, labels, None, *batch.queue)


def mined(loss: losses.BaseMetricLossFunction, miner: miners.BaseMiner) -> Callable[[Batch], Step]:
    """A loss on the tuples of a miner, of a batch and its queue."""

    def build(batch: Batch) -> Step:
        queue = batch.queue
        return lambda x, labels: loss(x, labels, miner(x, labels, *queue), *queue)

    return build


def one_product(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Normalise, and multiply the batch by itself: what a training takes with every step."""
    unit = torch.nn.functional.normalize(embeddings)
    return (unit @ unit.T).sum()


# Also of classes for which the default would bound the pairs.
ALL_PAIRS = LoOpMiner(pairing="all")

ONE_PRODUCT = "one product"
BATCH_HARD = "PML triplet, BatchHardMiner"
ALL_TRIPLETS = "PML triplet, all triplets"
BATCH_HARD_MINER = "BatchHardMiner alone"
MULTI_SIMILARITY_MINER = "MultiSimilarityMiner alone"
MULTI_SIMILARITY = "PML multi-similarity"
CONTRASTIVE = "PML contrastive"
ORIGINAL = "original HPHN + LoOp, transcribed"
LOOP_CONSECUTIVE = "HPHN + LoOp, consecutive"
LOOP = "HPHN + LoOp, all pairs"
LOOP_DEFAULT = "HPHN + LoOp, default pairing"
EXPANSION = "HPHN + EE(2), all pairs"
MINED_TRIPLET = "PML triplet, LoOpMiner"
LOOP_MINER = "LoOpMiner alone"
SYNTHETIC = "SyntheticLoss(multi-similarity, LoOp)"
SYNTHETIC_CONTRASTIVE = "SyntheticLoss(contrastive, LoOp)"


def without_kernels(name: str) -> str:
    """The name of a case of ours where numba is not installed."""
    return f"{name}, without numba"


def registry(*cases: Case) -> Mapping[str, Case]:
    """Cases by name, ours a second time without kernels."""
    twins = (
        replace(case, name=without_kernels(case.name), without_kernels=True)
        for case in cases
        if case.group == "ours"
    )
    return MappingProxyType({case.name: case for case in (*cases, *twins)})


CASES = registry(
    Case(ONE_PRODUCT, "one product", fixed(one_product)),
    Case(BATCH_HARD, "PML", mined(losses.TripletMarginLoss(), miners.BatchHardMiner())),
    # (n, n, n) booleans, then an index per triplet.
    Case(ALL_TRIPLETS, "PML", of(losses.TripletMarginLoss()), max_batch=1024),
    Case(BATCH_HARD_MINER, "PML", fixed(miners.BatchHardMiner())),
    Case(MULTI_SIMILARITY_MINER, "PML", fixed(miners.MultiSimilarityMiner())),
    Case(MULTI_SIMILARITY, "PML", of(losses.MultiSimilarityLoss()), max_batch=4096),
    Case(CONTRASTIVE, "PML", of(losses.ContrastiveLoss()), max_batch=4096),
    # (10, m, d) points with m of the order of n^2.
    Case(ORIGINAL, "original", fixed(original.hphn_triplet), max_batch=256),
    Case(
        LOOP_CONSECUTIVE,
        "ours",
        of(HPHNTripletLoss(synthesizer=LoOpMiner(pairing="consecutive"))),
    ),
    Case(LOOP, "ours", of(HPHNTripletLoss(synthesizer=ALL_PAIRS))),
    Case(LOOP_DEFAULT, "ours", of(HPHNTripletLoss(synthesizer=LoOpMiner()))),
    Case(EXPANSION, "ours", of(HPHNTripletLoss(synthesizer=EmbeddingExpansion(2, pairing="all")))),
    Case(MINED_TRIPLET, "ours", mined(losses.TripletMarginLoss(), ALL_PAIRS)),
    Case(LOOP_MINER, "ours", fixed(ALL_PAIRS)),
    # (n, n + k) distances with k slots for synthetic negatives.
    *(
        Case(name, "ours", of(SyntheticLoss(loss, ALL_PAIRS)), max_batch=4096)
        for name, loss in (
            (SYNTHETIC, losses.MultiSimilarityLoss()),
            (SYNTHETIC_CONTRASTIVE, losses.ContrastiveLoss()),
        )
    ),
)
