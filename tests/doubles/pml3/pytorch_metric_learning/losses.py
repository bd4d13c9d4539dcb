"""A double of pytorch-metric-learning 3: its documented contract only; not the library."""

from __future__ import annotations

from typing import Any

from torch import nn

from ._base import BaseMetricLossFunction, GenericPairLoss
from ._pair_losses import (
    ContrastiveLoss,
    GeneralizedLiftedStructureLoss,
    LiftedStructureLoss,
    MultiSimilarityLoss,
    NTXentLoss,
)
from ._triplet_losses import MarginLoss, TripletMarginLoss
from ._wrappers import CrossBatchMemory, MultipleLosses, SelfSupervisedLoss

DOUBLE = True

__all__ = [
    "BaseMetricLossFunction",
    "CircleLoss",
    "ContrastiveLoss",
    "CrossBatchMemory",
    "DynamicSoftMarginLoss",
    "GeneralizedLiftedStructureLoss",
    "GenericPairLoss",
    "IntraPairVarianceLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "MultipleLosses",
    "NTXentLoss",
    "SelfSupervisedLoss",
    "SupConLoss",
    "TripletMarginLoss",
    "TupletMarginLoss",
    "VICRegLoss",
]


class _Name(BaseMetricLossFunction):
    """A loss of which the double has the name alone."""

    def __init__(self, *args: Any, **options: Any) -> None:
        raise NotImplementedError(f"{type(self).__name__}: not in the double")


class CircleLoss(_Name):
    """A name."""


class DynamicSoftMarginLoss(_Name):
    """A name."""


class IntraPairVarianceLoss(_Name):
    """A name."""


class SupConLoss(_Name):
    """A name."""


class TupletMarginLoss(_Name):
    """A name."""


class VICRegLoss(nn.Module):
    """A name, and no loss of tuples."""

    def __init__(self, *args: Any, **options: Any) -> None:
        raise NotImplementedError("VICRegLoss: not in the double")
