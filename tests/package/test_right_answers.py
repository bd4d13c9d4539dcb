"""Batches that users bring, in the losses: each distance is a fact of its own rows.

Far rows, zero rows, opposite rows, rows that nearly touch; gradients of every distance with every
geometry, by finite differences of the loss.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import (
    BaseDistance,
    CosineSimilarity,
    DotProductSimilarity,
    LpDistance,
)
from torch import Tensor

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, NPairLoss, SyntheticLoss
from loopml.geometry.distances import half_sq_distances
from tests.oracles.brute_force import brute_force
from tests.oracles.hosts import unreduced

DISTANCES: dict[str, Callable[[], BaseDistance]] = {
    "unit": LpDistance,
    "plain": lambda: LpDistance(normalize_embeddings=False),
    "squared": lambda: LpDistance(normalize_embeddings=False, power=2),
    "cosine": CosineSimilarity,
    "product": lambda: DotProductSimilarity(normalize_embeddings=False),
}
SYNTHESIZERS: dict[str, Callable[[], Any]] = {
    "auto": LoOpMiner,
    "arc": lambda: LoOpMiner(geometry="arc"),
    "segment": lambda: LoOpMiner(geometry="segment"),
    "ee": EmbeddingExpansion,
    "ee raw": lambda: EmbeddingExpansion(n_points=1, normalize=False),
}


def hphn(distance: BaseDistance, synthesizer: Any) -> Any:
    return HPHNTripletLoss(margin=5.0, distance=distance, synthesizer=synthesizer)


def triplet(distance: BaseDistance, synthesizer: Any) -> Any:
    return SyntheticLoss(losses.TripletMarginLoss(margin=20.0, distance=distance), synthesizer)


def n_pair(distance: BaseDistance, synthesizer: Any) -> Any:
    return NPairLoss(distance=distance, synthesizer=synthesizer)


SIMILAR = ("cosine", "product")
LOSSES = [
    (make, distance)
    for make in (hphn, triplet, n_pair)
    for distance in DISTANCES
    if not (make is hphn and distance in SIMILAR)
    and not (make is n_pair and distance not in SIMILAR)
]


@pytest.mark.parametrize("synthesizer", SYNTHESIZERS)
@pytest.mark.parametrize(("make", "distance"), LOSSES)
def test_gradient_is_the_slope_of_the_loss(
    make: Callable[..., Any], distance: str, synthesizer: str
) -> None:
    """For every distance with every geometry the gradient is what finite differences of it are."""
    loss = make(DISTANCES[distance](), SYNTHESIZERS[synthesizer]())
    generator = torch.Generator(torch.get_default_device()).manual_seed(1)
    y = torch.arange(12) % 4
    x = torch.randn(12, 5, generator=generator, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x, y), x)
    step = 1e-6
    for _ in range(3):
        along = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            slope = (loss(x + step * along, y) - loss(x - step * along, y)) / (2 * step)
        # Largest error measured over all of these: 5e-8 of values around 10; choices that
        # change within the step would show as 1e-3 and more.
        torch.testing.assert_close((gradient * along).sum(), slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["hphn", "hphn loop", "hphn segment", "triplet loop"])
@pytest.mark.parametrize("far", [1e3, 1e5, 1e9, 1e15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_far_row_changes_nothing(name: str, far: float, dtype: torch.dtype) -> None:
    """One exploded row of a class of its own, nobody's nearest, leaves the loss as it is."""
    rng = np.random.default_rng(0)
    y = np.arange(16).repeat(4)
    x = rng.normal(size=(16, 32))[y] + 0.3 * rng.normal(size=(64, 32))
    plain = LpDistance(normalize_embeddings=False)
    loss = {
        "hphn": lambda: HPHNTripletLoss(margin=5.0, distance=plain),
        "hphn loop": lambda: hphn(plain, LoOpMiner()),
        "hphn segment": lambda: hphn(plain, EmbeddingExpansion(normalize=False)),
        "triplet loop": lambda: triplet(plain, LoOpMiner()),
    }[name]()
    rows = torch.tensor(np.concatenate([x, np.full((1, 32), far)]), dtype=dtype)
    labels = torch.tensor([*y, 99])
    wanted = loss(torch.tensor(x), labels[:-1])
    # 4e-7 is the rounding of rows to float32, measured 1e-7.
    tolerance = 4e-7 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(loss(rows, labels).double(), wanted, rtol=tolerance, atol=tolerance)


@given(
    seed=st.integers(0, 2**32 - 1),
    offset=st.sampled_from([0.0, 1.0, 1e4, 1e8]),
    spread=st.sampled_from([1e-6, 1.0, 1e6]),
    far=st.sampled_from([None, 1e3, 1e12, 1e100]),
)
def test_squared_distances_are_those_of_their_two_rows(
    seed: int, offset: float, spread: float, far: float | None
) -> None:
    """Each to 1e-7 of itself, against differences, whatever the other rows are."""
    rng = np.random.default_rng(seed)
    x = offset + spread * rng.normal(size=(12, 7))
    x[5] = x[2]
    if far is not None:
        x[0] = far
    wanted = -0.5 * ((x[:, None] - x) ** 2).sum(-1)
    np.testing.assert_allclose(
        half_sq_distances(torch.tensor(x)).numpy(force=True), wanted, rtol=1e-7
    )


@pytest.mark.parametrize("separation", [1e-4, 5.4e-4, 1e-2, 0.3])
@pytest.mark.parametrize("length", [1e-5, 8e-4, 1e-2, 0.5, 1.9])
def test_short_arcs_are_measured_as_long_ones(length: float, separation: float) -> None:
    """In float32 the nearest points of two short arcs are those of their very rows."""
    rng = np.random.default_rng(3)
    for _ in range(3):
        base = np.linalg.qr(rng.normal(size=(16, 4)))[0].T
        middle = np.array([base[0], base[0] + separation * base[3]])
        along = np.array([base[1], np.cos(0.7) * base[1] + np.sin(0.7) * base[2]])
        ends = [
            m + sign * length / 2 * a
            for m, a in zip(middle, along, strict=True)
            for sign in (-1, 1)
        ]
        x = torch.tensor(np.stack(ends), dtype=torch.float32)
        loss = HPHNTripletLoss(margin=10.0, synthesizer=LoOpMiner())
        rows = torch.nn.functional.normalize(x)
        d_ap = (rows[::2] - rows[1::2]).double().norm(dim=1).mean()
        found = 10 + float(d_ap) - float(loss(x, torch.tensor([0, 0, 1, 1])))
        exact = brute_force("arc", rows.double().numpy(force=True)[:, None]).distance[0]
        # float32 rows, points and the loss around 10: 1e-6, measured 1.4e-6 of 10 + d.
        assert abs(found - exact) < 3e-6 + 1e-6 * exact


def unit_rows(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    x = rng.normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def lead_of(synthesizer: Any, x: Tensor, y: Tensor) -> float:
    """How much nearer its negatives are in the mean than real rows; the loss is linear in that."""
    loss = HPHNTripletLoss(margin=10.0, synthesizer=synthesizer)
    return (loss(x, y) - HPHNTripletLoss(margin=10.0)(x, y)).item()


@given(seed=st.integers(0, 2**32 - 1), zeros=st.integers(1, 6), d=st.sampled_from([2, 3, 8]))
def test_zero_rows_are_ends_like_others(seed: int, zeros: int, d: int) -> None:
    """With zero rows, as of a dead ReLU, curves still come no less near than their ends."""
    rng = np.random.default_rng(seed)
    x, y = unit_rows(rng, 12, d), rng.permutation(np.arange(12) % 3)
    x[rng.permutation(12)[:zeros]] = 0
    rows, labels = torch.tensor(x), torch.tensor(y)
    for dtype, slack in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        z = rows.to(dtype).requires_grad_()
        lead = [lead_of(made, z, labels) for made in (EmbeddingExpansion(), LoOpMiner())]
        assert lead[0] >= -slack
        assert lead[1] >= lead[0] - slack
        loss = HPHNTripletLoss(margin=10.0, synthesizer=LoOpMiner())(z, labels)
        (gradient,) = torch.autograd.grad(loss, z)
        assert gradient.isfinite().all()


def test_a_zero_row_is_the_nearest_end() -> None:
    """Where a zero row is 1 away and all else is farther, so is the hardest negative."""
    x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 1])
    loss = HPHNTripletLoss(margin=10.0, synthesizer=LoOpMiner(), collect_stats=True)
    loss(x, y)
    assert loss.hardest_synthetic_negative == pytest.approx(1)
    assert loss.interior_share == 0


@pytest.mark.parametrize("gap", [0.0, 1e-4, 1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("synthesizer", ["auto", "ee raw"])
def test_float32_chooses_as_float64_where_rows_are_nearly_opposite(
    gap: float, synthesizer: str
) -> None:
    """The nearest class of arcs of nearly half a circle is the same in both dtypes."""
    rng = np.random.default_rng(4)
    y = torch.arange(8).repeat_interleave(2)
    for _ in range(10):
        x = unit_rows(rng, 16, 6)
        aside = x[1::2] - (x[1::2] * x[::2]).sum(1, keepdims=True) * x[::2]
        aside *= gap / np.linalg.norm(aside, axis=1, keepdims=True)
        x[1::2] = aside - np.sqrt(1 - gap**2) * x[::2]
        rows = torch.tensor(x).float()
        rows[1::2] = torch.where(torch.tensor(gap > 0), rows[1::2], -rows[::2])
        losses_of = (
            unreduced(HPHNTripletLoss(margin=10.0, synthesizer=SYNTHESIZERS[synthesizer]()), z, y)[
                "loss"
            ]["losses"].double()
            for z in (rows, rows.double())
        )
        # Rows of float32 know their middle to 6e-8 over the gap: measured 1.3e-7 over it. Another
        # class would be off by 1e-2 and more.
        torch.testing.assert_close(
            *losses_of, rtol=0, atol=2e-6 + 5e-7 / max(gap, 1e-4) * (gap > 0)
        )


@pytest.mark.parametrize("distance", ["unit", "plain", "cosine"])
@pytest.mark.parametrize("n", [4, 40])
def test_touching_curves_have_no_gradient_through_a_pml_loss(distance: str, n: int) -> None:
    """One picture under two labels: the curves touch, and nothing pulls at their ends.

    More than 25 rows, and torch measures distances by products.
    """
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    half = torch.randn(n // 2, 6, generator=generator, dtype=torch.float64)
    x = torch.cat([half, half]).requires_grad_()  # every picture in a class of each half
    y = torch.arange(n) // 2
    made = DISTANCES[distance]()
    # Only negatives count: positives are within their margin.
    inner = (
        losses.ContrastiveLoss(pos_margin=-1.0, neg_margin=-1.0, distance=made)
        if distance == "cosine"
        else losses.ContrastiveLoss(pos_margin=100.0, neg_margin=100.0, distance=made)
    )
    value = SyntheticLoss(inner, LoOpMiner())(x, y)
    assert value > 1  # a full margin, for all of them touch
    (gradient,) = torch.autograd.grad(value, x)
    # Measured 1e-16 of cosines, and 0 of distances.
    assert gradient.abs().max() < 1e-12


def test_points_between_opposite_rows_are_an_end() -> None:
    """A point that has no direction stands at the first end, in the samples and in ``expand``."""
    x = torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    more, _ = EmbeddingExpansion(n_points=3).expand(x, torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(more[4:].norm(dim=1), torch.ones(6))
    first = torch.nn.functional.normalize(x[0], dim=0)
    torch.testing.assert_close(more[6], first)
    rotated = x @ torch.linalg.qr(torch.randn(3, 3))[0]
    more, _ = EmbeddingExpansion(n_points=1).expand(rotated, torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(more[4], torch.nn.functional.normalize(rotated[0], dim=0))


def test_stats_of_an_expansion_name_the_ends_that_it_measures_from() -> None:
    """The real distance of HPHN with an expansion is the anchor's own, not its positive's."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [-0.6, -0.8]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1, 1])
    loss = HPHNTripletLoss(synthesizer=EmbeddingExpansion(1), collect_stats=True)
    loss(x, y)
    d = torch.cdist(x, x)
    wanted = torch.minimum(d[:2, 2:].amin(1), torch.full((2,), 9.0)).sum() + d[2:, :2].amin(1).sum()
    assert loss.hardest_real_negative == pytest.approx(wanted.item() / 4)


@pytest.mark.parametrize("synthesizer", [None, *SYNTHESIZERS])
@pytest.mark.parametrize("kind", ["hphn", "ms", "n-pair"])
def test_losses_differentiate_twice(kind: str, synthesizer: str | None) -> None:
    """The gradient of a gradient penalty is the slope of that penalty."""
    made = None if synthesizer is None else SYNTHESIZERS[synthesizer]()
    if kind == "ms" and made is None:
        return  # that is pytorch-metric-learning alone
    loss = {
        "hphn": lambda: HPHNTripletLoss(margin=5.0, synthesizer=made),
        "ms": lambda: SyntheticLoss(losses.MultiSimilarityLoss(), made),
        "n-pair": lambda: NPairLoss(synthesizer=made),
    }[kind]()
    generator = torch.Generator(torch.get_default_device()).manual_seed(2)
    x = torch.randn(12, 5, generator=generator, dtype=torch.float64).requires_grad_()
    y = torch.arange(12) % 3

    def penalty(z: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(loss(z, y), z, create_graph=True)
        return slope.square().sum()

    (found,) = torch.autograd.grad(penalty(x), x)
    along = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    step = 1e-6
    up, down = (penalty((x + sign * step * along).detach().requires_grad_()) for sign in (1, -1))
    # Fractions are constants, so the second derivative is that of the loss with them held fixed.
    if synthesizer in (None, "ee", "ee raw"):
        slope = (up - down).detach() / (2 * step)
        torch.testing.assert_close((found * along).sum(), slope, rtol=1e-5, atol=1e-5)
    assert found.isfinite().all()
