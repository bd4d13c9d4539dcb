"""What is measured: the steps of losses, by name.

A case builds its step once from a batch, as a training builds its loss once; the step then maps
embeddings and labels to a loss, and what is measured is the step and its backward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from pytorch_metric_learning import losses, miners
from torch import Tensor

from benchmarks.steps import original
from benchmarks.steps.batches import Batch
from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, SyntheticLoss

Step = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A loss to measure, on batches of at most ``max_batch`` rows, beyond which memory runs out."""

    name: str
    group: Literal["ours", "PML", "original", "floor"]
    build: Callable[[Batch], Step]
    pairing: Literal["all", "consecutive"] = "all"
    max_batch: int = 8192


def fixed(step: Step) -> Callable[[Batch], Step]:
    """The same step for every batch."""
    return lambda batch: step


def mined(loss: losses.BaseMetricLossFunction, miner: miners.BaseMiner) -> Callable[[Batch], Step]:
    """A loss on the tuples of a miner."""
    return fixed(lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels)))


def floor(embeddings: Tensor, labels: Tensor) -> Tensor:
    """What every pairwise loss has to do: normalise and multiply the batch by itself."""
    unit = torch.nn.functional.normalize(embeddings)
    return (unit @ unit.T).sum()


def multi_similarity_on_synthetic(batch: Batch) -> Step:
    """The part of PML in ``SyntheticLoss``: its loss on synthetic negatives that are there already.

    Real and synthetic rows want a gradient, as they do in ``SyntheticLoss``, which goes on from it.
    """
    loss = losses.MultiSimilarityLoss()
    synthetic = ALL_PAIRS.synthesize(*batch)
    references = synthetic.ref_emb.detach()

    def step(embeddings: Tensor, labels: Tensor) -> Tensor:
        leaf = references.detach().requires_grad_()  # without the gradient of the last step
        value: Tensor = loss(
            embeddings, labels, synthetic.indices_tuple, leaf, synthetic.ref_labels
        )
        return value

    return step


# Also of classes for which the default would bound the pairs.
ALL_PAIRS = LoOpMiner(pairing="all")

FLOOR = "floor"
BATCH_HARD = "PML triplet, BatchHardMiner"
MULTI_SIMILARITY = "PML multi-similarity, its miner"
ALL_TRIPLETS = "PML triplet, all triplets"
ON_SYNTHETIC = "PML multi-similarity on synthetic rows"
ORIGINAL = "original HPHN + LoOp, transcribed"
LOOP_CONSECUTIVE = "HPHN + LoOp, consecutive"
LOOP = "HPHN + LoOp, all pairs"
EXPANSION = "HPHN + EE, 2 points, all pairs"
INDEX_MINER = "PML triplet, LoOpMiner"
SYNTHETIC = "SyntheticLoss(multi-similarity, LoOp)"
SYNTHETIC_TRIPLET = "SyntheticLoss(triplet, LoOp)"
SYNTHETIC_CONTRASTIVE = "SyntheticLoss(contrastive, LoOp)"


def registry(*cases: Case) -> Mapping[str, Case]:
    """Cases by name."""
    return MappingProxyType({case.name: case for case in cases})


CASES = registry(
    Case(FLOOR, "floor", fixed(floor)),
    Case(BATCH_HARD, "PML", mined(losses.TripletMarginLoss(), miners.BatchHardMiner())),
    Case(
        MULTI_SIMILARITY, "PML", mined(losses.MultiSimilarityLoss(), miners.MultiSimilarityMiner())
    ),
    # (n, n, n) booleans, then an index per triplet.
    Case(ALL_TRIPLETS, "PML", fixed(losses.TripletMarginLoss()), max_batch=1024),
    Case(ON_SYNTHETIC, "PML", multi_similarity_on_synthetic, max_batch=4096),
    # (10, m, d) points with m of the order of n^2.
    Case(ORIGINAL, "original", fixed(original.hphn_triplet), "consecutive", max_batch=256),
    Case(
        LOOP_CONSECUTIVE,
        "ours",
        fixed(HPHNTripletLoss(synthesizer=LoOpMiner(pairing="consecutive"))),
        "consecutive",
    ),
    Case(LOOP, "ours", fixed(HPHNTripletLoss(synthesizer=ALL_PAIRS))),
    Case(
        EXPANSION,
        "ours",
        fixed(HPHNTripletLoss(synthesizer=EmbeddingExpansion(2, pairing="all"))),
    ),
    Case(INDEX_MINER, "ours", mined(losses.TripletMarginLoss(), ALL_PAIRS)),
    # (n, n + k) distances with k synthetic rows, several times.
    *(
        Case(name, "ours", fixed(SyntheticLoss(loss, ALL_PAIRS)), max_batch=4096)
        for name, loss in (
            (SYNTHETIC, losses.MultiSimilarityLoss()),
            (SYNTHETIC_TRIPLET, losses.TripletMarginLoss()),
            (SYNTHETIC_CONTRASTIVE, losses.ContrastiveLoss()),
        )
    ),
)
