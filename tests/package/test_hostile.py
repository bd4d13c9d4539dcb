"""Whatever finite numbers come in, finite numbers or a speaking error come out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import (
    CosineSimilarity,
    DotProductSimilarity,
    LpDistance,
)
from torch import Tensor

from loopml import (
    EmbeddingExpansion,
    HPHNTripletLoss,
    LoOpMiner,
    NPairLoss,
    SyntheticLoss,
    geometry,
)
from tests.oracles.hosts import in_double

PLAIN = LpDistance(normalize_embeddings=False)
PRODUCT = DotProductSimilarity(normalize_embeddings=False)

LOSSES: dict[str, Callable[[], Any]] = {
    "hphn": HPHNTripletLoss,
    "hphn soft loop": lambda: HPHNTripletLoss(soft_margin=True, synthesizer=LoOpMiner()),
    "hphn ee": lambda: HPHNTripletLoss(synthesizer=EmbeddingExpansion()),
    "hphn plain loop": lambda: HPHNTripletLoss(distance=PLAIN, synthesizer=LoOpMiner()),
    "hphn plain ee": lambda: HPHNTripletLoss(distance=PLAIN, synthesizer=EmbeddingExpansion(1)),
    "hphn segment": lambda: HPHNTripletLoss(synthesizer=LoOpMiner(geometry="segment")),
    "hphn plain arc": lambda: HPHNTripletLoss(
        distance=PLAIN, synthesizer=LoOpMiner(geometry="arc")
    ),
    "n-pair": NPairLoss,
    "n-pair loop": lambda: NPairLoss(synthesizer=LoOpMiner()),
    "n-pair ee": lambda: NPairLoss(synthesizer=EmbeddingExpansion(), l2_reg=0.1),
    "n-pair arc": lambda: NPairLoss(distance=CosineSimilarity(), synthesizer=LoOpMiner()),
    "triplet loop": lambda: SyntheticLoss(losses.TripletMarginLoss(), LoOpMiner()),
    "triplet segment": lambda: SyntheticLoss(
        losses.TripletMarginLoss(), LoOpMiner(geometry="segment")
    ),
    "triplet plain": lambda: SyntheticLoss(losses.TripletMarginLoss(distance=PLAIN), LoOpMiner()),
    "triplet product": lambda: SyntheticLoss(
        losses.TripletMarginLoss(distance=PRODUCT), LoOpMiner()
    ),
    "contrastive ee": lambda: SyntheticLoss(
        losses.ContrastiveLoss(), EmbeddingExpansion(num_negatives=None)
    ),
    "ms loop 3": lambda: SyntheticLoss(losses.MultiSimilarityLoss(), LoOpMiner(num_negatives=3)),
    "supcon loop": lambda: SyntheticLoss(losses.SupConLoss(), LoOpMiner()),
    # At its default temperature PML's own gradient is up to 1e38, which no float16 holds.
    "ntxent all": lambda: SyntheticLoss(
        losses.NTXentLoss(temperature=0.5), LoOpMiner(num_negatives=None)
    ),
}
LOSSES = {name: build for name, build in LOSSES.items() if in_double(build)}


def zero_rows(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    x[rng.integers(0, len(x), len(x) // 2)] = 0
    return x


def any_lengths(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x * 10.0 ** rng.integers(-30, 31, (len(x), 1))


def duplicates(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x[rng.integers(0, len(x), len(x))]


def antipodes(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    x[1::2] = -x[: len(x) - len(x[::2])]
    return x


def collapsed(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.ones_like(x) + 1e-7 * x


def lattice(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.round(x)


def untouched(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x


FAMILIES = (untouched, zero_rows, any_lengths, duplicates, antipodes, collapsed, lattice)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LABEL_DTYPES = (torch.int64, torch.int32, torch.int16, torch.uint8)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """A batch of a hostile family, in any dtype."""
    n, dim, classes = (draw(st.integers(low, high)) for low, high in ((0, 11), (1, 6), (1, 5)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.normal(size=(n, dim))
    if n:
        x = draw(st.sampled_from(FAMILIES))(x, rng)
    dtype = draw(st.sampled_from(DTYPES))
    if dtype is torch.float16:
        # Beyond this the length, or the gradient of a division by it, is no float16 any more.
        x = np.sign(x) * np.clip(np.abs(x), 0.25, 1e2) * (x != 0)
    labels = torch.as_tensor(rng.integers(0, classes, n)).to(draw(st.sampled_from(LABEL_DTYPES)))
    embeddings = torch.as_tensor(x).to(dtype)
    if draw(st.booleans()):  # a view with strides of its own
        embeddings = embeddings.T.contiguous().T
    return embeddings, labels


@pytest.mark.parametrize("name", LOSSES)
@given(batch=batches())
def test_losses_stay_finite(name: str, batch: tuple[Tensor, Tensor]) -> None:
    """Loss and gradient, and the same bits when asked again."""
    embeddings, labels = batch
    results = []
    for _ in range(2):
        leaf = embeddings.clone().requires_grad_()
        try:
            loss = LOSSES[name]()(leaf, labels)
        except ValueError as error:
            assert "entries of at most" in str(error)  # noqa: PT017 - only some batches raise
            assert embeddings.abs().max() > 1e17
            return
        loss.backward()
        assert torch.isfinite(loss)
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
        results.append((loss.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


MINERS = (
    LoOpMiner(),
    LoOpMiner(geometry="segment", num_negatives=None),
    LoOpMiner(distance=PRODUCT, num_negatives=2),
)


@pytest.mark.parametrize("miner", MINERS, ids=repr)
@given(batch=batches())
def test_mined_triplets_are_triplets(miner: LoOpMiner, batch: tuple[Tensor, Tensor]) -> None:
    embeddings, labels = batch
    if embeddings.numel() and embeddings.abs().max() > 1e17:
        return
    anchor, positive, negative = miner(embeddings, labels)
    assert (labels[anchor] == labels[positive]).all()
    assert (labels[anchor] != labels[negative]).all()
    assert (anchor != positive).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "name",
    ["segment_distance", "arc_distance", "pairwise_segment_distance", "pairwise_arc_distance"],
)
def test_no_distance_is_the_number_of_a_nan(name: str, value: float) -> None:
    """Under torch.func, where values are not read, it is no distance of 0."""
    for end in range(4):
        ends = list(torch.randn(4, 3, 5))
        ends[end][0, 1] = value
        total = torch.func.grad_and_value(lambda *ends: getattr(geometry, name)(*ends).sum())(*ends)
        assert total[1].isnan()
