"""Which pytorch-metric-learning losses read synthetic negatives, as data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from loopml._checks import kind_of
from loopml.host import loss_named

# Each reads its tuples as entries (anchor, column) of the matrix that its distance returns, so that
# an entry stands for two curves. Subclasses may read them otherwise and are not taken on trust.
SUPPORTED: frozenset[type] = frozenset(
    loss_named(name)
    for name in (
        "CircleLoss",
        "ContrastiveLoss",
        "DynamicSoftMarginLoss",
        "GeneralizedLiftedStructureLoss",
        "IntraPairVarianceLoss",
        "LiftedStructureLoss",
        "MarginLoss",
        "MultiSimilarityLoss",
        "NTXentLoss",
        "SupConLoss",
        "TripletMarginLoss",
        "TupletMarginLoss",
    )
)

_WRAPPER = "it wraps another loss; wrap the inner loss in SyntheticLoss instead"
_WEIGHTS = "it compares embeddings with class weights or proxies and takes no tuples"
_RANKS = "it ranks whole rows of the batch and would silently ignore the triplets"

REJECTED: Mapping[str, str] = MappingProxyType(
    {
        "AngularLoss": "it takes negatives from labels and reads rows in the place of distances",
        "ArcFaceLoss": _WEIGHTS,
        "BaseLossWrapper": _WRAPPER,
        "BaseMetricLossFunction": "it is the base class and computes nothing",
        "CosFaceLoss": _WEIGHTS,
        "CrossBatchMemory": _WRAPPER,
        "FastAPLoss": _RANKS,
        "GenericPairLoss": "it is the base class and computes nothing",
        "HistogramLoss": "it has no bin for a similarity of 1, which is that of curves that touch",
        "InstanceLoss": _WEIGHTS,
        "LargeMarginSoftmaxLoss": _WEIGHTS,
        "ManifoldLoss": "it compares embeddings with proxies by a random walk and takes no tuples",
        "MultipleLosses": _WRAPPER,
        "NCALoss": "it builds its own pairs from labels and would silently ignore the triplets",
        "NPairsLoss": "it takes one pair of each class and would silently ignore the triplets",
        "NormalizedSoftmaxLoss": _WEIGHTS,
        "P2SGradLoss": _WEIGHTS,
        "PNPLoss": _RANKS,
        "ProxyAnchorLoss": _WEIGHTS,
        "ProxyNCALoss": _WEIGHTS,
        "RankedListLoss": _RANKS,
        "SelfSupervisedLoss": _WRAPPER,
        "SignalToNoiseRatioContrastiveLoss": "its distance is no function of Euclidean distance, "
        "and the nearest points of two curves are not known under it",
        "SmoothAPLoss": _RANKS,
        "SoftTripleLoss": _WEIGHTS,
        "SphereFaceLoss": _WEIGHTS,
        "SubCenterArcFaceLoss": _WEIGHTS,
        "ThresholdConsistentMarginLoss": "it reads rows in the place of distances, and a synthetic "
        "negative is no row",
        "VICRegLoss": "it takes no tuples",
    }
)


def check_supported(loss: object) -> None:
    """Raise unless ``loss`` reads the synthetic negatives that it is given."""
    name = type(loss).__name__
    if isinstance(loss, type):
        raise TypeError(f"loss must be a loss of pytorch_metric_learning, got {kind_of(loss)}")
    if type(loss) in SUPPORTED:
        return
    supported = ", ".join(sorted(kind.__name__ for kind in SUPPORTED))
    reason = REJECTED.get(name)
    if reason is None:
        base = next((kind.__name__ for kind in type(loss).__mro__ if kind in SUPPORTED), None)
        reason = (
            "it is not known to read tuples as distances from anchors"
            if base is None
            else f"it inherits from {base} but may read tuples otherwise"
        )
    raise ValueError(
        f"loss must be a supported tuple loss, got {name}: {reason}. Supported: {supported}"
    )
