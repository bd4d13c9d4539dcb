"""Synthetic negatives in open-metric-learning, and in a triplet loss of no library."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_metric_learning import distances, losses, reducers
from torch import Tensor

from loopml import EmbeddingExpansion, LoOpMiner, SyntheticLoss
from loopml.open_metric_learning import SyntheticTripletsMiner

LABELS = torch.tensor([3, 3, 3, 1, 1, 0, 0, 0, 7])
AS_GIVEN = distances.LpDistance(normalize_embeddings=False)

# A loss of features and labels, from a margin and a miner.
Criterion = Callable[[Tensor, Any], Tensor]


def of_no_library(margin: float, miner: SyntheticTripletsMiner) -> Criterion:
    """The mean of the triplet losses."""

    def criterion(features: Tensor, labels: Any) -> Tensor:
        anchor, positive, negative = miner.sample(features, labels)
        to_positive, to_negative = ((anchor - x).norm(dim=1) for x in (positive, negative))
        return (margin + to_positive - to_negative).relu().mean()

    return criterion


def of_oml(margin: float, miner: SyntheticTripletsMiner) -> Criterion:
    """That of open-metric-learning."""
    oml = pytest.importorskip(
        "oml.losses",
        reason="open-metric-learning is missing, or what it needs; nox -s reproduce has it",
    )
    criterion: Criterion = oml.TripletLossWithMiner(margin=margin, miner=miner)
    return criterion


@pytest.fixture
def features() -> Tensor:
    return torch.randn(len(LABELS), 5, dtype=torch.float64, requires_grad=True)


def value_and_gradient(criterion: Criterion, features: Tensor, labels: Any) -> list[Tensor]:
    loss = criterion(features, labels)
    return [loss, *torch.autograd.grad(loss, features)]


@pytest.mark.parametrize("library", [of_no_library, of_oml])
@pytest.mark.parametrize(
    ("synthesizer", "distance"),
    [
        (LoOpMiner(), distances.LpDistance()),
        (LoOpMiner(num_negatives=3), distances.LpDistance()),
        (LoOpMiner(distance=AS_GIVEN), AS_GIVEN),
        (EmbeddingExpansion(n_points=2), distances.LpDistance()),
    ],
    ids=["arcs", "three", "segments", "expansion"],
)
def test_loss_is_that_on_the_distance_of_the_curves(
    library: Any, synthesizer: Any, distance: Any, features: Tensor
) -> None:
    """In value and in gradient, whether labels are a list or a tensor."""
    inner = losses.TripletMarginLoss(0.7, distance=distance, reducer=reducers.MeanReducer())
    expected = value_and_gradient(SyntheticLoss(inner, synthesizer), features, LABELS)
    criterion = library(0.7, SyntheticTripletsMiner(synthesizer))
    for labels in (LABELS, LABELS.tolist()):
        result = value_and_gradient(criterion, features, labels)
        torch.testing.assert_close(result, expected)
    assert expected[0] > 0


@pytest.mark.parametrize("library", [of_no_library, of_oml])
def test_curves_that_touch(library: Any) -> None:
    """The negative is the anchor: the distance is 0, and its gradient is 0 and no NaN."""
    rows = torch.tensor([[3.0, 0, 1], [0, 2, 1], [2, 0, -1], [0, 1, -1]])[[0, 1, 0, 3]]
    rows.requires_grad_()
    labels = torch.tensor([0, 0, 1, 1])
    miner = SyntheticTripletsMiner(LoOpMiner())
    anchor, _, negative = miner.sample(rows, labels)
    assert torch.equal(anchor, negative)
    plain = losses.TripletMarginLoss(0.2, reducer=reducers.MeanReducer())
    expected = value_and_gradient(SyntheticLoss(plain, LoOpMiner()), rows, labels)
    torch.testing.assert_close(value_and_gradient(library(0.2, miner), rows, labels), expected)


def test_half_precision_becomes_float32(features: Tensor) -> None:
    half = features.detach().bfloat16()
    miner = SyntheticTripletsMiner(LoOpMiner())
    expected = miner.sample(half.float(), LABELS)
    for rows, wanted in zip(miner.sample(half, LABELS), expected, strict=True):
        assert rows.dtype == torch.float32
        assert torch.equal(rows, wanted)


def test_wrong_input(features: Tensor) -> None:
    for labels in ([0] * len(LABELS), torch.arange(len(LABELS))):
        miner = SyntheticTripletsMiner(LoOpMiner())  # one that saw both would warn as well
        with pytest.raises(ValueError, match=r"labels must have a class of two rows .* got 9 rows"):
            miner.sample(features, labels)
    with pytest.raises(TypeError, match=r"labels must be a torch.Tensor of integers, got list"):
        miner.sample(features, ["cat"] * len(LABELS))  # type: ignore[list-item]
    with pytest.raises(TypeError, match="synthesizer must be an EmbeddingExpansion or a LoOpMiner"):
        SyntheticTripletsMiner(None)  # type: ignore[arg-type]
    products = distances.DotProductSimilarity(normalize_embeddings=False)
    with pytest.raises(ValueError, match="must have a Euclidean distance"):
        SyntheticTripletsMiner(LoOpMiner(distance=products))
