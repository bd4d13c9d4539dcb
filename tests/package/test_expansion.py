"""EmbeddingExpansion: the points it makes and the hardest pair it chooses, against loops."""

import inspect
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance

from loopml import EmbeddingExpansion, SyntheticBatch
from tests.oracles import papers

MIXED = np.array([3, 1, 1, 0, 3, 1, 7, 0, 0, 9])  # uneven, in any order, two singletons
PAIRED = np.array([4, 4, 1, 1, 4, 4, 2, 2])  # consecutive pairs, two pairs of a class

TOL = {"rtol": 0, "atol": 1e-12}  # float64 points of length around 1: some roundings


def rows(seed: int, n: int, d: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


# --- expand ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("labels", "pairing"), [(MIXED, "all"), (PAIRED, "consecutive")])
@pytest.mark.parametrize("unit_input", [True, False], ids=["unit rows", "raw rows"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_expand_appends_the_inner_points(
    n: int, normalize: bool, unit_input: bool, labels: np.ndarray, pairing: str
) -> None:
    """Rows as they are, then for k = 1..n the k-th inner point of each positive pair."""
    x = rows(n, len(labels))
    x = papers.unit(x) if unit_input else x
    expansion = EmbeddingExpansion(n, normalize=normalize, pairing=pairing)
    embeddings, all_labels = expansion.expand(torch.tensor(x), torch.tensor(labels))
    assert torch.equal(embeddings[: len(x)], torch.tensor(x))
    assert torch.equal(all_labels[: len(x)], torch.tensor(labels))
    pairs = papers.positive_pairs(labels, pairing)
    assert embeddings.shape == (len(x) + n * len(pairs), x.shape[1])
    inner = [papers.inner_points(x[i], x[j], n, normalize) for i, j in pairs]
    for k in range(n):
        block = slice(len(x) + k * len(pairs), len(x) + (k + 1) * len(pairs))
        points = np.stack([between[k] for between in inner]).round(9)
        wanted = [(*z, labels[i]) for z, (i, _) in zip(points, pairs, strict=True)]
        actual = (
            torch.cat([embeddings[block], all_labels[block, None]], dim=1)
            .numpy(force=True)
            .round(9)
        )
        if pairing == "all":  # in which order the pairs come is not promised
            wanted, actual = sorted(wanted), sorted(map(tuple, actual))
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=2e-9)  # the rounding above


def test_expand_counts_from_the_first_row() -> None:
    """Point k has weight (n + 1 - k) / (n + 1) on the pair's first row."""
    x = torch.tensor([[0.0, 0], [3, 6]], dtype=torch.float64)
    expansion = EmbeddingExpansion(2, normalize=False)
    embeddings, labels = expansion.expand(x, torch.tensor([5, 5]))
    wanted = torch.tensor([[0.0, 0], [3, 6], [1, 2], [2, 4]], dtype=torch.float64)
    torch.testing.assert_close(embeddings, wanted, **TOL)
    assert labels.tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize("labels", [[0, 1, 2], [4]], ids=str)
def test_expand_without_a_pair_adds_nothing(labels: list[int]) -> None:
    """No positive pair: the batch as it came, still differentiable."""
    x = torch.tensor(rows(0, len(labels)), requires_grad=True)
    embeddings, out = EmbeddingExpansion(3).expand(x, torch.tensor(labels))
    assert torch.equal(embeddings, x)
    assert out.tolist() == labels
    assert embeddings.requires_grad


@pytest.mark.parametrize("normalize", [True, False])
def test_expand_is_differentiable(normalize: bool) -> None:
    """The gradient runs through the points, and through their normalisation."""
    x = torch.tensor(rows(0, 6), requires_grad=True)
    expansion = EmbeddingExpansion(2, normalize=normalize)
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda x: expansion.expand(x, labels)[0], x)


@pytest.mark.parametrize("normalize", [True, False])
def test_expand_survives_antipodal_rows(normalize: bool) -> None:
    """The middle of two opposite rows is the origin: finite points, finite gradient."""
    x = torch.tensor([[1.0, 0], [-1, 0]], requires_grad=True)
    embeddings, _ = EmbeddingExpansion(1, normalize=normalize).expand(x, torch.tensor([0, 0]))
    embeddings.sum().backward()
    assert embeddings.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_expand_keeps_the_dtypes(dtype: torch.dtype) -> None:
    """Embeddings and labels keep their dtype."""
    x = torch.tensor(rows(0, len(MIXED)), dtype=dtype)
    embeddings, labels = EmbeddingExpansion().expand(x, torch.tensor(MIXED, dtype=torch.int32))
    assert (embeddings.dtype, labels.dtype) == (dtype, torch.int32)


def test_expand_feeds_any_loss() -> None:
    """The paper's plain augmentation: more rows for a loss that knows nothing of pairs."""
    x = torch.tensor(rows(0, len(MIXED)), requires_grad=True)
    value = losses.TripletMarginLoss()(*EmbeddingExpansion(2).expand(x, torch.tensor(MIXED)))
    value.backward()
    assert x.grad.abs().sum() > 0


# --- the hardest pair --------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32 - 1),
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=8).map(np.array),
    n=st.integers(0, 3),
    num_negatives=st.sampled_from([1, 2, None]),
    normalize=st.booleans(),
)
def test_chooses_the_nearest_sampled_curves(
    seed: int, labels: np.ndarray, n: int, num_negatives: int | None, normalize: bool
) -> None:
    """Each ordered pair meets its nearest curves, originals and inner points of both included."""
    x = rows(seed, len(labels))
    expansion = EmbeddingExpansion(n, normalize=normalize, num_negatives=num_negatives)
    batch = expansion(torch.tensor(x), torch.tensor(labels))
    assert isinstance(batch, SyntheticBatch)
    a, p, k = batch.indices_tuple
    d = LpDistance()(batch.embeddings, batch.ref_emb)[a, k].tolist()
    actual = sorted(zip(a.tolist(), p.tolist(), d, batch.ref_labels[k].tolist(), strict=True))
    seen, others = papers.unit(x), papers.curves(labels)
    wanted = []
    for pair in papers.ordered_pairs(labels):
        # what the distance sees is of unit length, so the points are, whatever `normalize` says
        scored = sorted(
            (papers.sampled_distance(*seen[[*pair, *other]], n, True), labels[other[0]])
            for other in others
            if labels[other[0]] != labels[pair[0]]
        )
        wanted += [(*pair, *score) for score in scored[:num_negatives]]
    assert len(actual) == len(wanted)
    for row, other in zip(actual, wanted, strict=True):
        assert row[:2] == other[:2]
        # the batch's distance is measured after a rotation of a unit vector, by torch.cdist
        assert row[2] == pytest.approx(other[2], abs=1e-7)


def test_consecutive_pairs() -> None:
    """Curves are rows (0, 1), (2, 3), ... only; another pair of the same class is no negative."""
    x = rows(4, len(PAIRED))
    batch = EmbeddingExpansion(2, pairing="consecutive")(torch.tensor(x), torch.tensor(PAIRED))
    a, p, k = batch.indices_tuple
    assert sorted(zip(a.tolist(), p.tolist(), strict=True)) == [(i, i ^ 1) for i in range(8)]
    d = LpDistance()(batch.embeddings, batch.ref_emb)[a, k].tolist()
    seen, others = papers.unit(x), papers.curves(PAIRED, "consecutive")
    for anchor, positive, distance in zip(a.tolist(), p.tolist(), d, strict=True):
        wanted = min(
            papers.sampled_distance(*seen[[anchor, positive, *other]], 2, True)
            for other in others
            if PAIRED[other[0]] != PAIRED[anchor]
        )
        assert distance == pytest.approx(wanted, abs=1e-9)


def test_points_come_nearer_than_rows() -> None:
    """The inner points are used: two crossing pairs are nearer in their middles."""
    x = torch.tensor([[3.0, 1, 0], [3, -1, 0], [3, 0, 1], [3, 0, -1]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    # nearest: the rows, (3, 1/3, 0) and (3, 0, 1/3), and (3, 0, 0) of both pairs
    for n, wanted in ((0, 0.9), (2, 9 / (9 + 1 / 9)), (1, 1.0)):
        batch = EmbeddingExpansion(n)(x, labels)
        a, _, k = batch.indices_tuple
        cosine = CosineSimilarity()(batch.embeddings, batch.ref_emb)[a, k]
        torch.testing.assert_close(cosine, torch.full_like(cosine, wanted), **TOL)


def test_default_options() -> None:
    """Two points, normalised, bounded pairs, one negative; only the first is positional."""
    parameters = inspect.signature(EmbeddingExpansion).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert defaults == {"n_points": 2, "normalize": True, "pairing": "auto", "num_negatives": 1}
    assert isinstance(EmbeddingExpansion(), torch.nn.Module)
    assert not list(chain(EmbeddingExpansion().parameters(), EmbeddingExpansion().buffers()))


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 0, 1, 2], [0, 1, 1, 0]], ids=str)
def test_consecutive_pairing_needs_pairs(labels: list[int]) -> None:
    """An odd batch or a pair with two labels is an error that names the option."""
    expansion = EmbeddingExpansion(pairing="consecutive")
    for call in (expansion, expansion.expand):
        with pytest.raises(ValueError, match="consecutive"):
            call(torch.tensor(rows(0, len(labels))), torch.tensor(labels))
