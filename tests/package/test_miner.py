"""LoOpMiner as a PML miner: triplets of real rows against a brute force over all curves."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.distances import (
    BaseDistance,
    CosineSimilarity,
    DotProductSimilarity,
    LpDistance,
)
from torch import Tensor

from loopml import LoOpMiner
from tests.oracles import papers

Triplets = list[tuple[int, int, int]]

MIXED = np.array([3, 1, 1, 0, 3, 1, 7, 0, 0, 9])  # uneven, in any order, two singletons
TWO_EACH = np.array([2, 2, 0, 0, 5, 5, 1, 1])
FOUR_EACH = np.array([2, 2, 0, 0, 2, 2, 0, 0])

# geometry="auto" by distance: what the distance sees, and the curve between two such points.
DISTANCES: dict[str, tuple[Callable[[], BaseDistance], Callable, str]] = {
    "l2": (LpDistance, papers.unit, "arc"),
    "l2 squared": (lambda: LpDistance(power=2), papers.unit, "arc"),
    "cosine": (CosineSimilarity, papers.unit, "arc"),
    "dot": (partial(DotProductSimilarity, normalize_embeddings=True), papers.unit, "arc"),
    "raw l2": (lambda: LpDistance(normalize_embeddings=False), lambda x: x, "segment"),
}


def rows(seed: int, n: int, d: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def as_triplets(indices: tuple[Tensor, ...]) -> Triplets:
    """The triplets of a PML tuple as a sorted list: a multiset."""
    assert len(indices) == 3
    for index in indices:
        assert index.dtype == torch.int64
        assert index.ndim == 1
        assert not index.requires_grad
    return sorted(zip(*(index.tolist() for index in indices), strict=True))


def mine(miner: LoOpMiner, x: np.ndarray, labels: np.ndarray, *ref: np.ndarray) -> Triplets:
    return as_triplets(miner(*(torch.tensor(value) for value in (x, labels, *ref))))


# --- against brute force -----------------------------------------------------------------------


@pytest.mark.parametrize("labels", [MIXED, TWO_EACH, np.repeat([0, 1, 2], 3)], ids=str)
@pytest.mark.parametrize("num_negatives", [1, 2, 5, 1000, None])
@pytest.mark.parametrize("distance", DISTANCES)
def test_equals_brute_force(distance: str, num_negatives: int | None, labels: np.ndarray) -> None:
    """Each ordered positive pair with its nearest negative curves, of each the heavier end."""
    build, see, geometry = DISTANCES[distance]
    for seed in range(2):
        x = rows(seed, len(labels))
        miner = LoOpMiner(distance=build(), num_negatives=num_negatives)
        wanted = papers.mined_triplets(see(x), labels, geometry, num_negatives=num_negatives)
        assert mine(miner, x, labels) == wanted


@pytest.mark.parametrize("num_negatives", [1, 3])
@pytest.mark.parametrize("labels", [TWO_EACH, FOUR_EACH], ids=str)
@pytest.mark.parametrize("distance", ["l2", "raw l2"])
def test_consecutive_pairs(distance: str, labels: np.ndarray, num_negatives: int) -> None:
    """Curves are rows (0, 1), (2, 3), ... only; another pair of the same class is no negative."""
    build, see, geometry = DISTANCES[distance]
    x = rows(1, len(labels))
    options = {"pairing": "consecutive", "num_negatives": num_negatives}
    wanted = papers.mined_triplets(see(x), labels, geometry, **options)
    assert {(a, p) for a, p, _ in wanted} == {(i, i ^ 1) for i in range(len(labels))}
    assert mine(LoOpMiner(distance=build(), **options), x, labels) == wanted


def test_unnormalised_dot_product_takes_corners() -> None:
    """The largest of the four corner products chooses the pair, and its corner is the negative."""
    x = rows(2, len(MIXED))
    distance = DotProductSimilarity(normalize_embeddings=False)
    products = x @ x.T
    wanted = []
    for a, p in papers.ordered_pairs(MIXED):
        negatives = np.flatnonzero(MIXED[a] != MIXED)
        wanted.append((a, p, negatives[products[[a, p]][:, negatives].max(0).argmax()]))
    assert mine(LoOpMiner(distance=distance), x, MIXED) == wanted


def test_forced_segments() -> None:
    """geometry="segment" joins what the distance sees by chords; "arc" is what "auto" takes."""
    changed = 0
    for seed in range(5):
        x = rows(seed, len(MIXED), 3)
        options = {"num_negatives": None}
        segments = mine(LoOpMiner(geometry="segment", **options), x, MIXED)
        assert segments == papers.mined_triplets(papers.unit(x), MIXED, "segment", **options)
        arcs = mine(LoOpMiner(geometry="arc", **options), x, MIXED)
        assert arcs == mine(LoOpMiner(**options), x, MIXED)
        changed += arcs != segments
    assert changed  # the option does something


@given(
    seed=st.integers(0, 2**32 - 1),
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=10).map(np.array),
    num_negatives=st.sampled_from([1, 2, None]),
    d=st.sampled_from([4, 6]),  # below, arcs cross, and all that cross tie at distance 0
    normalized=st.booleans(),
    data=st.data(),
)
def test_row_order_does_not_matter(
    seed: int,
    labels: np.ndarray,
    num_negatives: int | None,
    d: int,
    normalized: bool,
    data: st.DataObject,
) -> None:
    """Shuffling the batch renames the triplets, ties of curves that share an end included."""
    x = rows(seed, len(labels), d)
    order = np.array(data.draw(st.permutations(range(len(labels)))))
    miner = LoOpMiner(
        distance=LpDistance(normalize_embeddings=normalized), num_negatives=num_negatives
    )
    shuffled = mine(miner, x[order], labels[order])
    assert sorted(tuple(order[list(t)].tolist()) for t in shuffled) == mine(miner, x, labels)


def test_tied_curves_give_their_shared_end() -> None:
    """Curves of a class that meet at the nearest row tie: any order mines that row."""
    labels = np.array([0, 0, 1, 1, 1, 1])
    x = np.array([[0, 0], [0, 1], [2, 0.5], [5, 3], [6, -1], [9, 1]])
    miner = LoOpMiner(distance=LpDistance(normalize_embeddings=False), num_negatives=3)
    for order in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 0, 4, 2, 5, 1]):
        triplets = [[order[i] for i in t] for t in mine(miner, x[order], labels[order])]
        assert [n for a, _, n in triplets if labels[a] == 0] == [2] * 6


def test_equally_near_curves_take_the_lowest() -> None:
    """A tie of two classes goes to the lower row; with two negatives both come, in either order."""
    labels = np.array([0, 0, 1, 2])
    x = np.array([[0.0, 0], [0, 2], [1, 1], [-1, 1]])  # both singletons at distance 1, exactly
    options = {"distance": LpDistance(normalize_embeddings=False)}
    assert mine(LoOpMiner(**options), x, labels) == [(0, 1, 2), (1, 0, 2)]
    both = [(0, 1, 2), (0, 1, 3), (1, 0, 2), (1, 0, 3)]
    assert mine(LoOpMiner(num_negatives=2, **options), x, labels) == both


@pytest.mark.parametrize("flip", [False, True])
def test_a_minimum_in_the_middle_takes_the_first_end(flip: bool) -> None:
    """T = 1/2 counts as the first row; a little past it counts as the second."""
    labels = np.array([1, 1, 0, 0])
    x = np.array([[-1.0, 2, 0], [1, 2, 0], [0, 0, -1], [0, 0, 1]])
    x[:2] *= -1 if flip else 1
    miner = LoOpMiner(distance=LpDistance(normalize_embeddings=False))
    assert (2, 3, 0) in mine(miner, x, labels)
    x[:2, 0] += 1e-3 * np.sign(x[0, 0])
    assert (2, 3, 1) in mine(miner, x, labels)


def test_singletons_are_points() -> None:
    """A lone sample competes as itself, at any distance, and never as an anchor."""
    labels = np.array([0, 0, 1, 2])
    x = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, -1], [-0.1, -0.1, 1]])
    # cosines with the arc between the first two rows: 0 for row 2, at most -0.1 for row 3
    assert mine(LoOpMiner(), x, labels) == [(0, 1, 2), (1, 0, 2)]
    assert mine(LoOpMiner(num_negatives=None), x, labels) == [
        (0, 1, 2), (0, 1, 3), (1, 0, 2), (1, 0, 3),
    ]  # fmt: skip


def test_float32_mines_the_same_rows() -> None:
    """Well separated curves rank alike in single precision."""
    x = rows(3, len(MIXED))
    single = as_triplets(LoOpMiner()(torch.tensor(x, dtype=torch.float32), torch.tensor(MIXED)))
    assert single == papers.mined_triplets(papers.unit(x), MIXED, "arc")


def test_far_from_the_origin() -> None:
    """Straight segments may lie anywhere: a common offset costs float32 no rank."""
    x = (rows(3, len(MIXED)) + 1000).astype(np.float32)
    distance = LpDistance(normalize_embeddings=False)
    mined = as_triplets(LoOpMiner(distance=distance)(torch.tensor(x), torch.tensor(MIXED)))
    assert mined == papers.mined_triplets(x.astype(float), MIXED, "segment")


# --- PML's conventions -------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[0, 1, 2], [5, 5, 5], [4]], ids=str)
@pytest.mark.parametrize("num_negatives", [1, None])
def test_nothing_to_mine(num_negatives: int | None, labels: list[int]) -> None:
    """No positive or no negative: three empty index tensors."""
    x = rows(0, len(labels))
    assert mine(LoOpMiner(num_negatives=num_negatives), x, np.array(labels)) == []


def test_is_a_pml_miner() -> None:
    """Base options reach PML, statistics included."""
    miner = LoOpMiner(collect_stats=True)
    assert isinstance(miner, miners.BaseMiner)
    assert len(mine(miner, rows(0, len(MIXED)), MIXED)) == miner.num_triplets


@pytest.mark.parametrize(
    "loss", [losses.TripletMarginLoss(), losses.ContrastiveLoss(), losses.NTXentLoss()]
)
def test_feeds_a_loss(loss: losses.BaseMetricLossFunction) -> None:
    """loss(emb, labels, miner(emb, labels)) is the loss on the brute-force triplets."""
    x = torch.tensor(rows(0, len(MIXED)), requires_grad=True)
    labels = torch.tensor(MIXED)
    value = loss(x, labels, LoOpMiner()(x, labels))
    triplets = papers.mined_triplets(papers.unit(x.numpy(force=True)), MIXED, "arc")
    torch.testing.assert_close(value, loss(x, labels, tuple(torch.tensor(triplets).T)))
    value.backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("num_negatives", [1, 2, None])
@pytest.mark.parametrize("distance", ["l2", "raw l2"])
def test_reference_set(distance: str, num_negatives: int | None) -> None:
    """With ref_emb: anchors are rows of embeddings, p and n rows of the reference."""
    build, see, geometry = DISTANCES[distance]
    x, ref = rows(1, 5), rows(2, 9)
    labels, ref_labels = np.array([0, 0, 1, 5, 2]), np.array([0, 1, 1, 2, 0, 2, 2, 8, 1])
    miner = LoOpMiner(distance=build(), num_negatives=num_negatives)
    wanted = papers.mined_triplets(
        see(x), labels, geometry, num_negatives=num_negatives, ref=see(ref), ref_labels=ref_labels
    )
    assert {a for a, _, _ in wanted} == {0, 1, 2, 4}
    assert mine(miner, x, labels, ref, ref_labels) == wanted


@pytest.mark.parametrize("num_negatives", [1, None])
def test_a_shard_mines_its_share(num_negatives: int | None) -> None:
    """A reference that starts with the batch's own rows, as in DDP: the whole batch's triplets."""
    x = rows(5, len(MIXED))
    miner = LoOpMiner(num_negatives=num_negatives)
    whole = mine(miner, x, MIXED)
    assert mine(miner, x[:6], MIXED[:6], x, MIXED) == [t for t in whole if t[0] < 6]


def test_in_a_cross_batch_memory() -> None:
    """In a CrossBatchMemory the miner equals brute force over its memory, full or not."""
    loss = losses.TripletMarginLoss(margin=2)
    size, per_batch = 14, 6
    memory = losses.CrossBatchMemory(loss, 4, memory_size=size, miner=LoOpMiner(pairing="all"))
    stored, stored_labels = np.zeros((size, 4)), np.zeros(size, dtype=int)
    for step in range(4):
        x = rows(step, per_batch)
        labels = np.random.default_rng(step).integers(0, 3, per_batch)
        at = (step * per_batch + np.arange(per_batch)) % size
        stored[at], stored_labels[at] = x, labels
        filled = min((step + 1) * per_batch, size)
        triplets = papers.mined_triplets(
            papers.unit(x), labels, "arc",
            ref=papers.unit(stored[:filled]), ref_labels=stored_labels[:filled],
            skip=set(enumerate(at.tolist())),
        )  # fmt: skip
        batch = torch.tensor(x, requires_grad=True)
        value = memory(batch, torch.tensor(labels))
        reference = torch.tensor(stored[:filled]), torch.tensor(stored_labels[:filled])
        indices = tuple(torch.tensor(triplets).T)
        torch.testing.assert_close(value, loss(batch, torch.tensor(labels), indices, *reference))
        value.backward()
        assert batch.grad.isfinite().all()


def test_mined_curves_are_the_synthesised_ones() -> None:
    """The two faces of the miner agree: same ordered pairs, same classes of negatives."""
    x, labels = torch.tensor(rows(0, len(MIXED))), torch.tensor(MIXED)
    miner = LoOpMiner(num_negatives=2)
    a, p, n = miner(x, labels)
    batch = miner.synthesize(x, labels)
    real = sorted(zip(a.tolist(), p.tolist(), labels[n].tolist(), strict=True))
    a, p, n = batch.indices_tuple
    assert real == sorted(zip(a.tolist(), p.tolist(), batch.ref_labels[n].tolist(), strict=True))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [([0, 0, 1], "odd|even"), ([0, 0, 1, 2, 3, 3], "label"), ([0, 1, 1, 0], "label")],
    ids=str,
)
def test_consecutive_pairing_needs_pairs(labels: list[int], reason: str) -> None:
    """An odd batch or a pair with two labels is an error that names the option."""
    x, labels = torch.tensor(rows(0, len(labels))), torch.tensor(labels)
    miner = LoOpMiner(pairing="consecutive")
    for call in (miner, miner.synthesize):
        with pytest.raises(ValueError, match="consecutive") as error:
            call(x, labels)
        assert any(word in str(error.value).lower() for word in reason.split("|"))
