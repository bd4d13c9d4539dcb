"""Losses that would ignore or misread synthetic negatives are refused, with a reason."""

from collections.abc import Callable

import pytest
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import BaseDistance, LpDistance, SNRDistance

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, NPairLoss, SyntheticLoss
from loopml.losses.support import SUPPORTED

CLASSES_AND_SIZE = {"num_classes": 3, "embedding_size": 4}
REJECTED: dict[str, Callable[[], object]] = {
    "AngularLoss": losses.AngularLoss,
    "ArcFaceLoss": lambda: losses.ArcFaceLoss(**CLASSES_AND_SIZE),
    "BaseMetricLossFunction": losses.BaseMetricLossFunction,
    "CosFaceLoss": lambda: losses.CosFaceLoss(**CLASSES_AND_SIZE),
    "CrossBatchMemory": lambda: losses.CrossBatchMemory(losses.ContrastiveLoss(), 4),
    "EmbeddingRegularizerMixin": losses.EmbeddingRegularizerMixin,
    "FastAPLoss": losses.FastAPLoss,
    "GenericPairLoss": lambda: losses.GenericPairLoss(mat_based_loss=True),
    "HistogramLoss": losses.HistogramLoss,
    "InstanceLoss": losses.InstanceLoss,
    "LargeMarginSoftmaxLoss": lambda: losses.LargeMarginSoftmaxLoss(**CLASSES_AND_SIZE),
    "ManifoldLoss": lambda: losses.ManifoldLoss(l=4),
    "MultipleLosses": lambda: losses.MultipleLosses([losses.ContrastiveLoss()]),
    "NCALoss": losses.NCALoss,
    "NPairsLoss": losses.NPairsLoss,
    "NormalizedSoftmaxLoss": lambda: losses.NormalizedSoftmaxLoss(**CLASSES_AND_SIZE),
    "P2SGradLoss": lambda: losses.P2SGradLoss(descriptors_dim=4, num_classes=3),
    "PNPLoss": losses.PNPLoss,
    "ProxyAnchorLoss": lambda: losses.ProxyAnchorLoss(**CLASSES_AND_SIZE),
    "ProxyNCALoss": lambda: losses.ProxyNCALoss(**CLASSES_AND_SIZE),
    "RankedListLoss": lambda: losses.RankedListLoss(margin=1, Tn=1),
    "SelfSupervisedLoss": lambda: losses.SelfSupervisedLoss(losses.ContrastiveLoss()),
    "SignalToNoiseRatioContrastiveLoss": losses.SignalToNoiseRatioContrastiveLoss,
    "SmoothAPLoss": lambda: losses.SmoothAPLoss(),
    "SoftTripleLoss": lambda: losses.SoftTripleLoss(**CLASSES_AND_SIZE),
    "SphereFaceLoss": lambda: losses.SphereFaceLoss(**CLASSES_AND_SIZE),
    "SubCenterArcFaceLoss": lambda: losses.SubCenterArcFaceLoss(**CLASSES_AND_SIZE),
    "ThresholdConsistentMarginLoss": lambda: losses.ThresholdConsistentMarginLoss(),
    "VICRegLoss": losses.VICRegLoss,
    "WeightRegularizerMixin": losses.WeightRegularizerMixin,
}
for name in ("SmoothAPLoss", "ThresholdConsistentMarginLoss"):
    if not hasattr(losses, name):  # newer than the lowest supported release
        del REJECTED[name]


class MyContrastiveLoss(losses.ContrastiveLoss):
    """A user's subclass: what it overrides nobody knows."""


OWN: dict[str, Callable[[], object]] = {
    "MyContrastiveLoss": MyContrastiveLoss,
    "HPHNTripletLoss": HPHNTripletLoss,
    "NPairLoss": NPairLoss,
    "SyntheticLoss": lambda: SyntheticLoss(losses.ContrastiveLoss(), LoOpMiner()),
}


def test_every_loss_of_pml_is_named_here() -> None:
    """A loss new in PML must be put on one side; BaseLossWrapper cannot be built at all."""
    exported = {name for name, value in vars(losses).items() if isinstance(value, type)}
    assert exported - {"BaseLossWrapper"} == {kind.__name__ for kind in SUPPORTED} | set(REJECTED)


# PML's LargeMarginSoftmaxLoss and SphereFaceLoss hand tensors to scipy
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.parametrize("synthesizer", [LoOpMiner, EmbeddingExpansion])
@pytest.mark.parametrize("name", [*REJECTED, *OWN])
def test_other_losses_are_rejected(name: str, synthesizer: Callable[[], object]) -> None:
    """A loss that would ignore or misread the synthetics is refused by name, with a reason."""
    loss = {**REJECTED, **OWN}[name]()
    with pytest.raises((ValueError, TypeError), match=name) as error:
        SyntheticLoss(loss, synthesizer())
    assert len(str(error.value)) > len(name) + 40  # a sentence, not a bare name


@pytest.mark.parametrize("distance", [SNRDistance(), LpDistance(p=1), LpDistance(p=3)])
def test_other_distances_are_rejected(distance: BaseDistance) -> None:
    """Neither SNR nor Lp with p other than 2 has the geometry."""
    with pytest.raises((ValueError, TypeError), match=type(distance).__name__):
        SyntheticLoss(losses.TripletMarginLoss(distance=distance), LoOpMiner())
