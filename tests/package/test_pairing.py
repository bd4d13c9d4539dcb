"""Which rows are joined: every two of a small class, a bounded number of a large one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import DotProductSimilarity, LpDistance
from pytorch_metric_learning.reducers import SumReducer
from torch import Tensor

from loopml import (
    EmbeddingExpansion,
    HPHNTripletLoss,
    LoOpMiner,
    NPairLoss,
    SyntheticLoss,
    points,
)
from loopml._types import Gram
from loopml.batch import Batch, batch_of, own_references, positive_mask
from loopml.pairing import ALL_UP_TO, PARTNERS, nearest_others, pair_up

DISTANCES: dict[str, Callable[[], Any]] = {
    "unit": LpDistance,
    "plain": lambda: LpDistance(normalize_embeddings=False),
    "product": lambda: DotProductSimilarity(normalize_embeddings=False),
}


def batch(seed: int, labels: np.ndarray, d: int = 6) -> tuple[Tensor, Tensor]:
    x = np.random.default_rng(seed).normal(size=(len(labels), d))
    return torch.tensor(x), torch.tensor(labels)


def gram_of(x: Tensor, ref: Tensor) -> Gram:
    """The inner products of rows and references."""
    return Gram(x @ ref.T, x.square().sum(1), ref.square().sum(1))


Rows = tuple[np.ndarray, np.ndarray]  # with their labels


def partners_of(
    batch: Rows, references: Rows, distance: str, few: bool = True
) -> set[tuple[int, int]]:
    """Ordered positive pairs by the rule in words, one row at a time.

    Near to another class is near to a reference where there are few, and else to the batch.
    """
    (x, labels), (ref, ref_labels) = batch, references
    if distance == "unit":
        x, ref = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, ref))
    pairs = set()
    near, near_labels = (ref, ref_labels) if few else (x, labels)

    def farness(j: int) -> float:
        others = near[near_labels != ref_labels[j]]
        if distance == "product":
            return float(-(others @ ref[j]).max())
        return float(np.linalg.norm(others - ref[j], axis=1).min())

    for i in range(len(x)):
        mates = [j for j in range(len(ref)) if ref_labels[j] == labels[i]]
        large = len(mates) > ALL_UP_TO
        mates = [j for j in mates if not np.array_equal(ref[j], x[i])]
        if large:
            mates = sorted(mates, key=farness)[:PARTNERS]
        pairs |= {(i, j) for j in mates}
    return pairs


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("sizes", [(9, 9), (8, 9), (1, 3, 20), (30, 2, 8, 9, 1), (40, 40)])
def test_large_classes_are_joined_at_their_frontier(sizes: tuple[int, ...], distance: str) -> None:
    """Each row of a large class is joined with the rows of it that lie nearest to another class."""
    rng = np.random.default_rng(len(sizes))
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x, y = batch(1, labels)
    anchor, positive, _ = LoOpMiner(distance=DISTANCES[distance]())(x, y)
    mined = list(zip(anchor.tolist(), positive.tolist(), strict=True))
    assert len(mined) == len(set(mined))
    rows = x.numpy(force=True), labels
    assert set(mined) == partners_of(rows, rows, distance)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("shared", [0, 5, 24])
@pytest.mark.parametrize("few", [True, False])
def test_references_are_joined_at_their_frontier(
    few: bool, shared: int, distance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of few references to each other, of many to the batch; also of rows that the batch has."""
    monkeypatch.setattr(points, "_FEW", 40 if few else 39)
    rng = np.random.default_rng(shared)
    labels, ref_labels = rng.permutation(np.arange(24) % 3), rng.integers(0, 4, 40)
    (x, y), (ref, ref_y) = batch(1, labels), batch(2, ref_labels)
    ref[40 - shared :], ref_y[40 - shared :] = x[:shared], y[:shared]
    assert np.bincount(ref_y).max() > ALL_UP_TO
    anchor, positive, _ = LoOpMiner(distance=DISTANCES[distance]())(x, y, ref, ref_y)
    mined = list(zip(anchor.tolist(), positive.tolist(), strict=True))
    assert len(mined) == len(set(mined))
    references = ref.cpu().numpy(), ref_y.cpu().numpy()
    assert set(mined) == partners_of((x.cpu().numpy(), labels), references, distance, few)


@pytest.mark.parametrize("size", [5, 12])
@pytest.mark.parametrize("pairing", ["auto", "all"])
def test_a_copy_of_the_batch_is_no_other_references(pairing: str, size: int) -> None:
    """Triplets, losses and gradients are those without references."""
    x, y = batch(4, np.random.default_rng(1).permutation(np.arange(3 * size) % 3))
    miner = LoOpMiner(pairing=pairing, num_negatives=2)
    found = torch.stack(miner(x, y, x.clone(), y.clone()), 1).tolist()
    wanted = torch.stack(miner(x, y), 1).tolist()
    assert len(found) == len(wanted)
    assert {tuple(t) for t in found} == {tuple(t) for t in wanted}
    for synthesizer in (LoOpMiner(pairing=pairing), EmbeddingExpansion(pairing=pairing)):
        loss = HPHNTripletLoss(synthesizer=synthesizer)
        z = x.clone().requires_grad_()
        for one, other in zip(
            torch.autograd.functional.vjp(lambda z, loss=loss: loss(z, y, None, z.clone(), y), z),
            torch.autograd.functional.vjp(lambda z, loss=loss: loss(z, y), z),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pairing", ["auto", "all"])
@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_where_nobody_looks_a_row_is_joined_with_itself(
    pairing: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the pair stands for that with its own reference, and changes no loss."""
    labels = np.random.default_rng(0).permutation(np.arange(3 * size) % 3)
    (x, y), (more, more_y) = batch(6, labels), batch(7, np.arange(9) % 3)
    ref, ref_y = torch.cat([more, x[: 2 * size]]), torch.cat([more_y, y[: 2 * size]])
    made = (LoOpMiner(pairing=pairing), EmbeddingExpansion(pairing=pairing))

    def found(*references: Tensor) -> list[Tensor]:
        z = x.clone().requires_grad_()
        values = [
            loss(synthesizer=synthesizer)(z, y, None, *references)
            for loss in (HPHNTripletLoss, NPairLoss)
            for synthesizer in made
        ]
        slopes = [torch.autograd.grad(value, z)[0] for value in values]
        return [*values, *slopes, *made[0](x, y, *references)]

    for references in ((x.clone(), y.clone()), (ref, ref_y), (more[3:5], more_y[3:5])):
        wanted = found(*references)
        with monkeypatch.context() as patch:
            patch.setattr("loopml.pairing.values_readable", lambda x: False)
            torch.testing.assert_close(found(*references), wanted, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.integers(1, 24), min_size=2, max_size=5))
def test_curves_are_bounded(seed: int, sizes: list[int]) -> None:
    """A class of s rows has s (s - 1) / 2 curves, or at most ``PARTNERS`` s; each of them once."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    x, y = batch(seed, labels)
    near = nearest_others(gram_of(x, x), y, y, similarity=False)
    found = pair_up("auto", Batch(x, y), lambda: near)
    pairs = list(zip(found.negatives.first.tolist(), found.negatives.second.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    for label, size in enumerate(sizes):
        curves = int((found.negatives.label == label).sum())
        few = size * (size - 1) // 2 if size <= ALL_UP_TO else PARTNERS * size
        assert curves == 1 if size == 1 else curves <= few
        if 1 < size <= ALL_UP_TO:
            assert curves == few
    joined = torch.stack([found.positives.first, found.positives.second])[:, found.curve]
    ends = torch.stack([found.anchor, found.positive])
    assert torch.equal(joined.sort(0).values, ends.sort(0).values)
    of_anchor = torch.bincount(found.anchor, minlength=len(labels))
    wanted = [s - 1 if s <= ALL_UP_TO else PARTNERS for s in np.bincount(labels)[labels]]
    assert of_anchor.tolist() == wanted


SYNTHESIZERS: dict[str, Callable[..., Any]] = {"loop": LoOpMiner, "ee": EmbeddingExpansion}


@pytest.mark.parametrize("name", SYNTHESIZERS)
@given(seed=st.integers(0, 2**32 - 1))
def test_nothing_changes_while_classes_are_small(name: str, seed: int) -> None:
    """Up to eight rows of a class "auto" is "all", to the last bit and in the same order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(4), rng.integers(1, ALL_UP_TO + 1, 4)))
    x, y = batch(seed, labels)
    for references in ((), (x.flip(0), y.flip(0))):
        auto, everything = (
            (made.synthesize if name == "loop" else made)(x, y, *references)
            for made in (SYNTHESIZERS[name](pairing=pairing) for pairing in ("auto", "all"))
        )
        for one, other in zip(auto, everything, strict=True):
            pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
            assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("sizes", [(12, 17), (9, 3, 1, 30)])
def test_the_order_of_rows_changes_nothing(sizes: tuple[int, ...]) -> None:
    """The same triplets in every order of the batch, and the same losses."""
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x, y = batch(2, labels)
    order = torch.tensor(rng.permutation(len(labels)))
    triplets = {tuple(t) for t in torch.stack(LoOpMiner()(x, y), 1).tolist()}
    turned = torch.stack(LoOpMiner()(x[order], y[order]), 1)
    assert {tuple(t) for t in order[turned].tolist()} == triplets
    for loss in LOSSES.values():
        torch.testing.assert_close(loss()(x[order], y[order]), loss()(x, y), rtol=1e-9, atol=1e-9)


def summed(loss: Any, synthesizer: Any) -> SyntheticLoss:
    return SyntheticLoss(loss(reducer=SumReducer()), synthesizer)


def hphn(synthesizer: Any = None) -> HPHNTripletLoss:
    return HPHNTripletLoss(reducer=SumReducer(), synthesizer=synthesizer)


LOSSES: dict[str, Callable[..., Any]] = {
    "hphn": lambda **options: hphn(),
    "hphn loop": lambda **options: hphn(LoOpMiner(**options)),
    "hphn ee": lambda **options: hphn(EmbeddingExpansion(**options)),
    "triplet loop": lambda **options: summed(losses.TripletMarginLoss, LoOpMiner(**options)),
    "triplet ee": lambda **options: summed(losses.TripletMarginLoss, EmbeddingExpansion(**options)),
    "ms loop": lambda **options: summed(
        losses.MultiSimilarityLoss, LoOpMiner(num_negatives=2, **options)
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("classes", "pairing"), [(2, "all"), (8, "auto")])
def test_anchors_in_chunks_sum_to_the_whole_batch(name: str, classes: int, pairing: str) -> None:
    """With the whole batch as references no row is its own positive, wherever its chunk lies.

    What is near to another class differs from chunk to chunk, so large classes need all pairs.
    """
    labels = np.random.default_rng(0).integers(0, classes, 40)
    x, y = batch(0, labels)
    x[7] = x[3]  # one sample twice, in one class
    y[7] = y[3]
    x.requires_grad_()
    loss = LOSSES[name](pairing=pairing)
    whole = loss(x, y)
    (wanted,) = torch.autograd.grad(whole, x)
    chunks = [loss(x[s : s + 9], y[s : s + 9], ref_emb=x, ref_labels=y) for s in range(0, 40, 9)]
    # 1e-9 of values around 100: sums in another order.
    torch.testing.assert_close(sum(chunks), whole, rtol=1e-9, atol=1e-9)
    (found,) = torch.autograd.grad(sum(chunks), x)
    same = [3, 7]  # which of two equal rows has a gradient is open, their sum is not
    keep = [i for i in range(40) if i not in same]
    torch.testing.assert_close(found[keep], wanted[keep], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found[same].sum(0), wanted[same].sum(0), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["n-pair", "n-pair loop", "n-pair ee"])
def test_n_pair_blocks_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and both gradients of many blocks are those of one."""
    synthesizer = {"n-pair": None, "n-pair loop": LoOpMiner(), "n-pair ee": EmbeddingExpansion()}
    loss = NPairLoss(synthesizer=synthesizer[name])
    x, y = batch(0, np.arange(24) % 2)
    found = []
    for block in (1 << 20, 1):
        monkeypatch.setattr("loopml.losses.n_pair._BLOCK", block)
        z = x.clone().requires_grad_()
        value = loss(z, y)
        (slope,) = torch.autograd.grad(value, z, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.square().sum(), z)
        found.append((value, slope, curvature))
    for one, many in zip(*found, strict=True):
        torch.testing.assert_close(many, one, rtol=1e-9, atol=1e-9)


def test_a_reference_is_the_row_itself_once() -> None:
    """The one at the row's index before the first; an equal row of another label is a negative."""
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [3.0, 4.0], [0.0, 5.0]])
    y = torch.tensor([0, 1, 1, 2])
    ref = torch.tensor([[3.0, 4.0], [3.0, 4.0], [1.0, 2.0], [-0.0, 5.0], [1.0, 2.0]])
    ref_y = torch.tensor([1, 1, 0, 2, 7])
    assert own_references(batch_of(x, y, ref, ref_y)).tolist() == [2, 1, 0, 3]
    mask = positive_mask(batch_of(x, y, ref, ref_y))
    assert mask.nonzero().tolist() == [[1, 0], [2, 1]]
    assert own_references(batch_of(x, y + 10, ref, ref_y)).tolist() == [-1] * 4
    assert own_references(batch_of(x, y, ref[:0], ref_y[:0])).tolist() == [-1] * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@given(seed=st.integers(0, 2**32 - 1))
def test_rows_are_told_apart(seed: int, dtype: torch.dtype) -> None:
    """Rows of small whole numbers, whose sums often agree, are equal only if they are."""
    rng = np.random.default_rng(seed)
    x, ref = (torch.tensor(rng.integers(-1, 2, (n, 3))).to(dtype) for n in (20, 30))
    y, ref_y = torch.zeros(20, dtype=torch.int64), torch.zeros(30, dtype=torch.int64)
    own = own_references(batch_of(x, y, ref, ref_y))
    same = (x.unsqueeze(1) == ref).all(2)
    assert torch.equal(own >= 0, same.any(1))
    assert all(bool(same[i, j]) for i, j in enumerate(own.tolist()) if j >= 0)


@pytest.mark.parametrize("labels_too", [True, False])
def test_references_with_labels_of_their_own(labels_too: bool) -> None:
    """The batch as its own references under other labels keeps these, in every loss and miner."""
    x, y = batch(5, np.arange(12) % 3)
    other = y if labels_too else y.roll(1)
    apart = other.clone()
    for loss in LOSSES.values():
        value = loss()(x, y, ref_emb=x, ref_labels=other)
        torch.testing.assert_close(value, loss()(x, y, ref_emb=x.clone(), ref_labels=apart))
    mean = HPHNTripletLoss(synthesizer=LoOpMiner())(x, y, ref_emb=x, ref_labels=other)
    torch.testing.assert_close(
        mean, HPHNTripletLoss(synthesizer=LoOpMiner())(x, y, ref_emb=x.clone(), ref_labels=apart)
    )
    anchor, positive, negative = LoOpMiner()(x, y, x, other)
    assert bool((y[anchor] == other[positive]).all())
    assert bool((y[anchor] != other[negative]).all())


@pytest.mark.parametrize("similarity", [False, True])
def test_nearest_other_of_rows_of_any_length(similarity: bool) -> None:
    """Minus half the squared distance to the nearest row of another label, or the product."""
    x, y = batch(0, np.arange(30) % 4)
    x = x * torch.linspace(0.1, 5, 30, dtype=x.dtype).unsqueeze(1)
    nearness = x @ x.T if similarity else -torch.cdist(x, x).square() / 2
    wanted = nearness.masked_fill(y.unsqueeze(1) == y, -torch.inf).amax(1)
    torch.testing.assert_close(nearest_others(gram_of(x, x), y, y, similarity), wanted)
