"""A double of pytorch-metric-learning 3: its documented contract only; not the library."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

DOUBLE = True

__all__ = ["IndicesTuple", "LossDict", "PairIndices", "TripletIndices"]


class PairIndices(NamedTuple):
    """Positive pairs and negative pairs: anchors index the batch, the others the references."""

    pos_anchors: Tensor
    positives: Tensor
    neg_anchors: Tensor
    negatives: Tensor


class TripletIndices(NamedTuple):
    """Triplets: anchors index the batch, the others the references."""

    anchors: Tensor
    positives: Tensor
    negatives: Tensor


IndicesTuple: TypeAlias = PairIndices | TripletIndices
# From the name of a term to its losses, its indices and, for DivisorReducer, its divisor.
LossDict: TypeAlias = dict[str, dict[str, Any]]
