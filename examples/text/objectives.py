"""What the trainings on names minimise, by name: a loss and the miner of its tuples, if it has one.

The first lines are what `docs/choosing.md` recommends to begin with: real negatives, all positives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from pytorch_metric_learning.losses import BaseMetricLossFunction, NTXentLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BaseMiner, BatchEasyHardMiner
from torch import Tensor

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, SyntheticLoss


class Objective(NamedTuple):
    """A loss, and the miner whose tuples it gets as its third argument, or None."""

    loss: BaseMetricLossFunction
    miner: BaseMiner | None = None

    def __call__(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The value () for embeddings (n, d) and labels (n,)."""
        tuples = () if self.miner is None else (self.miner(embeddings, labels),)
        value: Tensor = self.loss(embeddings, labels, *tuples)
        return value


OBJECTIVES: Mapping[str, Callable[[float], Objective]] = MappingProxyType(
    {  # by margin
        "triplet-loop-mined": lambda margin: Objective(TripletMarginLoss(margin), LoOpMiner()),
        "triplet-hard": lambda margin: Objective(
            TripletMarginLoss(margin), BatchEasyHardMiner(pos_strategy="all", neg_strategy="hard")
        ),
        "hphn": lambda margin: Objective(HPHNTripletLoss(margin)),
        "triplet-loop": lambda margin: Objective(
            SyntheticLoss(TripletMarginLoss(margin), LoOpMiner())
        ),
        "triplet-expansion": lambda margin: Objective(
            SyntheticLoss(TripletMarginLoss(margin), EmbeddingExpansion())
        ),
        "hphn-loop": lambda margin: Objective(HPHNTripletLoss(margin, synthesizer=LoOpMiner())),
        "triplet-all": lambda margin: Objective(TripletMarginLoss(margin)),
        # A softmax over the batch, at the temperature of MultipleNegativesRankingLoss; no margin.
        "ntxent": lambda _: Objective(NTXentLoss(temperature=0.05)),
        "ntxent-loop": lambda _: Objective(
            SyntheticLoss(NTXentLoss(temperature=0.05), LoOpMiner(num_negatives=None))
        ),
    }
)
