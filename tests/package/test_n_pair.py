"""NPairLoss against loops over the definition, and the papers' combinations."""

from collections.abc import Callable
from itertools import combinations, product

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import (
    CosineSimilarity,
    DotProductSimilarity,
    LpDistance,
)
from pytorch_metric_learning.regularizers import LpRegularizer
from torch import Tensor

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, NPairLoss, SyntheticLoss
from loopml.geometry import pairwise_arc_distance
from tests.oracles.hosts import DOUBLE, unreduced

LAYOUTS = ([0, 0, 1, 1, 2, 2], [3, 1, 3, 2, 1, 3, 5, 1])
SYNTHESIZERS: dict[str, Callable[[], LoOpMiner | EmbeddingExpansion | None]] = {
    "none": lambda: None,
    "expansion": EmbeddingExpansion,
    "loop": LoOpMiner,
}


def batch(labels: list[int], dim: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A float64 batch that wants a gradient."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    embeddings = torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)
    return embeddings.requires_grad_(), torch.tensor(labels)


def curves(labels: list[int]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Positive pairs, and negative curves with lone samples as pairs of themselves."""
    pairs = [(i, j) for i, j in combinations(range(len(labels)), 2) if labels[i] == labels[j]]
    lone = [(i, i) for i, label in enumerate(labels) if labels.count(label) == 1]
    return pairs, pairs + lone


def points_between(a: np.ndarray, b: np.ndarray, n: int) -> list[np.ndarray]:
    """Both ends and n unit points between them."""
    inner = [(n + 1 - k) * a + k * b for k in range(1, n + 1)]
    return [a, b, *(x / np.linalg.norm(x) for x in inner)]


def expected(x: np.ndarray, labels: list[int], kind: str) -> list[float]:
    """One element per positive pair, by loops over numpy rows."""
    pairs, negatives = curves(labels)
    elements = []
    for a, p in pairs:
        total = 1.0
        for q0, q1 in negatives:
            if labels[q0] == labels[a]:
                continue
            if kind == "none":
                similarity = x[a] @ x[q1]
            else:
                n = 2 if kind == "expansion" else 0
                ends = points_between(x[a], x[p], n), points_between(x[q0], x[q1], n)
                similarity = max(u @ v for u, v in product(*ends))
            total += np.exp(similarity - x[a] @ x[p])
        elements.append(np.log(total))
    return elements


@pytest.mark.parametrize("labels", LAYOUTS)
@pytest.mark.parametrize("kind", SYNTHESIZERS)
def test_elements_are_those_of_the_definition(kind: str, labels: list[int]) -> None:
    embeddings, targets = batch(labels)
    loss = NPairLoss(synthesizer=SYNTHESIZERS[kind]())
    elements = unreduced(loss, embeddings, targets)["loss"]
    wanted = expected(embeddings.numpy(force=True), labels, kind)
    np.testing.assert_allclose(elements["losses"].numpy(force=True), wanted, rtol=1e-12)
    assert list(zip(*(i.tolist() for i in elements["indices"]), strict=True)) == curves(labels)[0]


@pytest.mark.skipif(DOUBLE, reason="the double has no NPairsLoss")
def test_plain_is_the_n_pair_loss_of_pml() -> None:
    """With one pair per class both are the loss of Sohn (2016)."""
    embeddings, labels = batch(LAYOUTS[0])
    raw = DotProductSimilarity(normalize_embeddings=False)
    torch.testing.assert_close(
        NPairLoss()(embeddings, labels), losses.NPairsLoss(distance=raw)(embeddings, labels)
    )


@pytest.mark.parametrize(
    "distance", [CosineSimilarity(), DotProductSimilarity(normalize_embeddings=True)]
)
def test_normalised_products_are_those_of_arcs(distance: CosineSimilarity) -> None:
    labels = LAYOUTS[1]
    embeddings, targets = batch(labels)
    pairs, negatives = (torch.tensor(found).T for found in curves(labels))
    ends = (*embeddings[pairs], *embeddings[negatives])
    similarity = 1 - pairwise_arc_distance(*ends).square() / 2
    unit = torch.nn.functional.normalize(embeddings)
    excess = similarity - (unit[pairs[0]] * unit[pairs[1]]).sum(1, keepdim=True)
    other = targets[pairs[0]].unsqueeze(1) != targets[negatives[0]]
    wanted = (1 + (excess.exp() * other).sum(1)).log().mean()
    loss = NPairLoss(synthesizer=LoOpMiner(), distance=distance)(embeddings, targets)
    torch.testing.assert_close(loss, wanted)
    found = torch.autograd.grad(loss, embeddings)[0]
    torch.testing.assert_close(found, torch.autograd.grad(wanted, embeddings)[0])


def test_segments_between_unit_vectors_are_largest_at_their_ends() -> None:
    """A product of two segments is bilinear: no pair of points inside beats the best corner."""
    labels = LAYOUTS[1]
    embeddings, targets = batch(labels)
    unit = torch.nn.functional.normalize(embeddings.detach()).numpy(force=True)
    fractions = np.linspace(0, 1, 41)[:, None]
    (pairs, negatives), elements = curves(labels), []
    for a, p in pairs:
        total = 1.0
        for q0, q1 in negatives:
            if labels[q0] != labels[a]:
                on_p = (1 - fractions) * unit[a] + fractions * unit[p]
                on_q = (1 - fractions) * unit[q0] + fractions * unit[q1]
                total += np.exp((on_p @ on_q.T).max() - unit[a] @ unit[p])
        elements.append(np.log(total))
    miner = LoOpMiner(geometry="segment")
    loss = NPairLoss(synthesizer=miner, distance=CosineSimilarity())(embeddings, targets)
    np.testing.assert_allclose(loss.item(), np.mean(elements), rtol=1e-12)


@pytest.mark.parametrize("kind", SYNTHESIZERS)
@pytest.mark.parametrize(
    "distance", [DotProductSimilarity(normalize_embeddings=False), CosineSimilarity()]
)
def test_gradient_is_the_slope(kind: str, distance: DotProductSimilarity) -> None:
    embeddings, labels = batch(LAYOUTS[1])
    loss = NPairLoss(synthesizer=SYNTHESIZERS[kind](), distance=distance, l2_reg=0.1)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), embeddings, atol=1e-7)


def test_l2_reg_is_times_the_mean_squared_length() -> None:
    embeddings, labels = batch(LAYOUTS[0])
    difference = NPairLoss(l2_reg=0.3)(embeddings, labels) - NPairLoss()(embeddings, labels)
    torch.testing.assert_close(difference, 0.3 * embeddings.square().sum(1).mean())


@pytest.mark.parametrize("labels", [[0, 1, 2], [4, 4, 4], [7]])
@pytest.mark.parametrize("kind", SYNTHESIZERS)
def test_no_pair_is_a_zero_that_backpropagates(kind: str, labels: list[int]) -> None:
    embeddings, targets = batch(labels)
    loss = NPairLoss(synthesizer=SYNTHESIZERS[kind]())(embeddings, targets)
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad is not None
    assert not embeddings.grad.any()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"l2_reg": -1.0}, "l2_reg"),
        ({"l2_reg": float("nan")}, "l2_reg"),
        ({"l2_reg": 0.1, "embedding_regularizer": LpRegularizer()}, "l2_reg"),
        ({"distance": LpDistance()}, "LpDistance"),
        ({"distance": DotProductSimilarity(power=2)}, "power"),
    ],
)
def test_bad_options(options: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        NPairLoss(**options)  # type: ignore[arg-type]


TABLE: dict[str, Callable[[str], torch.nn.Module]] = {
    "triplet": lambda kind: tuple_loss(losses.TripletMarginLoss(margin=0.2), kind),
    "hphn": lambda kind: HPHNTripletLoss(synthesizer=SYNTHESIZERS[kind]()),
    "lifted": lambda kind: tuple_loss(losses.LiftedStructureLoss(), kind),
    "n_pair": lambda kind: NPairLoss(synthesizer=SYNTHESIZERS[kind]()),
    "multi_similarity": lambda kind: tuple_loss(losses.MultiSimilarityLoss(), kind),
}


def tuple_loss(loss: losses.BaseMetricLossFunction, kind: str) -> torch.nn.Module:
    """The loss itself or on synthetic negatives."""
    synthesizer = SYNTHESIZERS[kind]()
    return loss if synthesizer is None else SyntheticLoss(loss, synthesizer)


@pytest.mark.parametrize("kind", SYNTHESIZERS)
@pytest.mark.parametrize("name", TABLE)
def test_every_combination_of_the_papers_trains(name: str, kind: str) -> None:
    """Gradient steps on free embeddings lower the loss."""
    embeddings, labels = batch(LAYOUTS[1], dim=8)
    loss_fn = TABLE[name](kind)
    optimizer = torch.optim.SGD([embeddings], lr=0.1)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = loss_fn(embeddings, labels)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0]


def test_stats_are_collected_where_asked_for() -> None:
    """Of triplets: their number, the mean distances, and how many minima are inside both curves."""
    embeddings, labels = batch(LAYOUTS[0], dim=2)
    quiet, miner = LoOpMiner(), LoOpMiner(collect_stats=True)
    miner(embeddings, labels)
    assert not hasattr(quiet, "num_tuples")
    assert miner.num_tuples == 6
    assert 0 <= miner.hardest_synthetic_negative <= miner.hardest_real_negative <= 2
    assert 0 <= miner.interior_share <= 1
    loss = HPHNTripletLoss(synthesizer=LoOpMiner(), collect_stats=True)
    loss(embeddings, labels)
    assert loss.hardest_synthetic_negative == pytest.approx(miner.hardest_synthetic_negative)
    loss(*batch([1, 2]))
    assert loss.num_tuples == 0


@pytest.mark.parametrize(
    ("rows", "interior", "real", "synthetic"),
    [
        # The first segment ends one short of the middle of the second.
        ([[-2.0, 1.0], [0.0, 1.0], [1.0, -3.0], [1.0, 5.0]], 0, 17**0.5, 1),
        ([[0.0, 1.0], [-2.0, 1.0], [1.0, -3.0], [1.0, 5.0]], 0, 17**0.5, 1),
        # They cross in the middle of both.
        ([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]], 1, 2**0.5, 0),
    ],
)
def test_stats_of_known_segments(
    rows: list[list[float]], interior: float, real: float, synthetic: float
) -> None:
    """A minimum counts as interior only where it is an end of neither curve."""
    plain = LpDistance(normalize_embeddings=False)
    miner = LoOpMiner(distance=plain, collect_stats=True)
    miner(torch.tensor(rows, dtype=torch.float64), torch.tensor([0, 0, 1, 1]))
    assert miner.num_tuples == 4
    assert miner.interior_share == interior
    assert miner.hardest_real_negative == pytest.approx(real)
    assert miner.hardest_synthetic_negative == pytest.approx(synthetic)
