"""Scores against references that are written from the definitions, in NumPy and plain loops."""

from __future__ import annotations

import itertools
import logging
import math
import pickle
import re
import sys
from collections import Counter
from typing import Any

import faiss
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from pytorch_metric_learning.distances import CosineSimilarity

from loopml.evaluation import RetrievalAccuracy, blocks, neighbours
from loopml.evaluation.clustering import pairwise_f1
from tests.oracles.hosts import IS_3

if not IS_3:
    from pytorch_metric_learning.testers import (
        GlobalEmbeddingSpaceTester,
        GlobalTwoStreamEmbeddingSpaceTester,
        WithSameParentLabelTester,
    )
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN, FaissKNN

of_release_2 = pytest.mark.skipif(IS_3, reason="release 3 has no such calculator, tester, search")

faiss.omp_set_num_threads(1)

RANKS = (1, 2, 4, 8)
RETRIEVAL = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
RANKED = (*RETRIEVAL, "mean_average_precision", "mean_reciprocal_rank")
CLUSTERING = ("AMI", "NMI", "clustering_f1")
# Means of float64, taken in another order; pytorch-metric-learning's reciprocal rank is float32.
SUMMED = dict.fromkeys(RANKED, 1e-12) | {"mean_reciprocal_rank": 1e-6}


@pytest.fixture(params=[1, 3, 2048], ids=lambda size: f"block{size}")
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Queries per block: alone, with a short last block, all at once."""
    monkeypatch.setattr(blocks, "_QUERIES", request.param)
    return int(request.param)


def recalls(scores: dict[str, Any]) -> dict[int, float]:
    prefix = "recall_at_"
    return {int(k[len(prefix) :]): v for k, v in scores.items() if k.startswith(prefix)}


def euclidean(**options: Any) -> RetrievalAccuracy:
    return RetrievalAccuracy(distance="euclidean", **options)


def only_recall(
    ranks: tuple[int, ...] = RANKS, distance: str = "euclidean", **options: Any
) -> RetrievalAccuracy:
    include = tuple(f"recall_at_{rank}" for rank in ranks)
    return RetrievalAccuracy(recall_at=ranks, distance=distance, include=include, **options)


def exact_knn(
    query: torch.Tensor, k: int, reference: torch.Tensor, includes: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """A ``knn_func`` with the neighbours of the default; nobody looks at the distances."""
    search = neighbours.searcher(query, k, reference, includes)
    indices = search(torch.arange(len(query)))
    return torch.zeros(indices.shape), indices


# --- references --------------------------------------------------------------------------------


def brute_recall(
    query: np.ndarray,
    labels: np.ndarray,
    reference: np.ndarray,
    reference_labels: np.ndarray,
    rank: int,
    *,
    own: bool,
    cosine: bool = False,
    tie: float,
) -> tuple[float, float]:
    """The least and the greatest recall that some order of equally far references gives.

    A query is a hit in every order if its nearest reference of its class, together with the others
    that are as near or nearer, fits into ``rank``; in some order if those strictly nearer leave it
    a place. References whose distances differ by at most ``tie`` count as equally far.
    """
    x, y = query.astype(np.float64), reference.astype(np.float64)
    if cosine:
        x, y = (z / np.maximum(np.sqrt((z * z).sum(1, keepdims=True)), 1e-12) for z in (x, y))
    always = sometimes = answerable = 0
    for i in range(len(x)):
        distances, same = [], []
        for j in range(len(y)):
            if not (own and i == j):
                distances.append(math.sqrt(((x[i] - y[j]) ** 2).sum()))
                same.append(labels[i] == reference_labels[j])
        if not any(same):
            continue
        answerable += 1
        nearest = min(d for d, s in zip(distances, same, strict=True) if s)
        others = [d for d, s in zip(distances, same, strict=True) if not s]
        always += sum(d <= nearest + tie for d in others) < rank
        sometimes += sum(d < nearest - tie for d in others) < rank
    if not answerable:
        return math.nan, math.nan
    return always / answerable, sometimes / answerable


def brute_f1(classes: list[int], clusters: list[int]) -> float:
    """2 P R / (P + R) over all pairs, one at a time."""
    tp = fp = fn = 0
    for i, j in itertools.combinations(range(len(classes)), 2):
        same_class, same_cluster = classes[i] == classes[j], clusters[i] == clusters[j]
        tp += same_class and same_cluster
        fp += same_cluster and not same_class
        fn += same_class and not same_cluster
    if tp == 0:
        return 0.0 if fp + fn else math.nan
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    return 2 * precision * recall / (precision + recall)


def brute_nmi(classes: list[int], clusters: list[int]) -> float:
    """2 I / (H + H) from the counts; 1 where both have one group only."""
    n = len(classes)

    def entropy(groups: list[Any]) -> float:
        return -sum(count / n * math.log(count / n) for count in Counter(groups).values())

    apart = entropy(classes) + entropy(clusters)
    together = entropy(list(zip(classes, clusters, strict=True)))
    return 2 * (apart - together) / apart if apart else 1.0


# --- recall ------------------------------------------------------------------------------------


@st.composite
def grids(draw: st.DrawFn, rows: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Points of a small grid, so full of duplicates and ties, with classes from lone to large."""
    n = draw(st.integers(2, rows))
    point = st.tuples(st.integers(-2, 2), st.integers(-2, 2))
    points = draw(st.lists(point, min_size=n, max_size=n))
    labels = draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))
    return np.array(points, dtype=np.float32), np.array(labels)


def between(bounds: tuple[float, float], value: float) -> bool:
    if math.isnan(bounds[0]):
        return math.isnan(value)
    return bounds[0] - 1e-12 <= value <= bounds[1] + 1e-12  # means of a few float64


# Squared distances on the grid are integers up to 32, so distances that differ do so by 0.08;
# directions can come closer than float32 tells apart, and then count as tied.
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@given(data=grids())
def test_recall_of_a_set_within_itself(distance: str, data: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = data
    got = recalls(only_recall(distance=distance).get_accuracy(x, y))
    for rank in RANKS:
        cosine = distance == "cosine"
        bounds = brute_recall(x, y, x, y, rank, own=True, cosine=cosine, tie=1e-3)
        assert between(bounds, got[rank]), (rank, bounds, got)


@pytest.mark.parametrize("includes", [False, True])
@given(data=grids(12), others=grids(12))
def test_recall_among_references(
    includes: bool,
    data: tuple[np.ndarray, np.ndarray],
    others: tuple[np.ndarray, np.ndarray],
) -> None:
    x, y = data
    ref, ref_y = others
    if includes:
        ref, ref_y = np.concatenate([x, ref]), np.concatenate([y, ref_y])
    got = recalls(only_recall().get_accuracy(x, y, ref, ref_y, ref_includes_query=includes))
    for rank in RANKS:
        bounds = brute_recall(x, y, ref, ref_y, rank, own=includes, tie=1e-3)
        assert between(bounds, got[rank]), (rank, bounds, got)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.usefixtures("block")
def test_recall_without_ties_is_exact(distance: str) -> None:
    """Also across the borders of blocks."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(70, 5)).astype(np.float32)
    y = rng.integers(0, 25, size=70)
    got = recalls(only_recall((1, 3, 10), distance=distance).get_accuracy(x, y))
    for rank, value in got.items():
        cosine = distance == "cosine"
        # The closest two of the 70 * 69 distances per row are further apart than float32 rounds.
        low, high = brute_recall(x, y, x, y, rank, own=True, cosine=cosine, tie=1e-6)
        assert low == high
        assert value == pytest.approx(low, abs=1e-12)
    assert 0 < got[1] < got[3] < got[10] < 1


def test_duplicates_are_other_rows() -> None:
    """A query does not find itself, but finds its copy; K copies of another class crowd it out."""
    x = torch.tensor([[0.0], [0.0], [5.0], [9.0]])
    assert only_recall((1,)).get_accuracy(x, torch.tensor([0, 0, 1, 1])) == {"recall_at_1": 1.0}
    x = torch.tensor([[0.0]] * 6 + [[1.0]])
    labels = torch.tensor([1, 2, 3, 4, 5, 0, 0])
    got = recalls(only_recall((1, 2, 5, 6)).get_accuracy(x, labels))
    # Row 5 has five copies before its classmate. Row 6 has six rows equally far, the last of its
    # class.
    assert got == {1: 0.0, 2: 0.0, 5: 0.0, 6: 1.0}


def test_copies_that_hide_a_row_from_its_own_list() -> None:
    """With more copies than K + 1 only the first are searched, and a row may not be of them."""
    x = torch.zeros(40, 3)
    got = recalls(only_recall((1, 4, 38, 39, 50)).get_accuracy(x, torch.zeros(40).long()))
    assert set(got.values()) == {1.0}
    labels = torch.tensor([0] + [1] * 39)  # row 0 is lone; nobody else can miss within 2
    assert recalls(only_recall((2,)).get_accuracy(x, labels)) == {2: 1.0}


def test_lone_classes_are_left_out_but_can_be_retrieved() -> None:
    x = torch.tensor([[0.0], [1.0], [1.1], [50.0]])
    labels = torch.tensor([0, 0, 7, 8])
    got = recalls(only_recall((1, 2)).get_accuracy(x, labels))
    assert got == {1: 0.5, 2: 1.0}  # 0 -> 1; 1 -> the lone 2 first; 2 and 3 are no queries
    got = recalls(only_recall((1,)).get_accuracy(x, labels, x[:2], labels[:2]))
    assert got == {1: 1.0}  # references apart: each finds itself


@pytest.mark.parametrize("per_class", [False, True])
def test_only_lone_classes_score_nan(per_class: bool) -> None:
    exclude = ("NMI", "AMI")
    calculator = RetrievalAccuracy(return_per_class=per_class, exclude=exclude)
    scores = calculator.get_accuracy(torch.eye(3), torch.arange(3))
    assert set(scores) == {*RANKED, *(f"recall_at_{rank}" for rank in RANKS), "clustering_f1"}
    for name, value in scores.items():
        values = value if isinstance(value, list) else [value]
        assert len(values) == (3 if per_class and name != "clustering_f1" else 1)
        assert all(math.isnan(entry) for entry in values), name


def test_one_row() -> None:
    scores = only_recall().get_accuracy(torch.ones(1, 2), torch.zeros(1).long())
    assert all(math.isnan(value) for value in scores.values())


def test_ranks_beyond_the_references_take_all() -> None:
    x, labels = torch.arange(5.0)[:, None], torch.tensor([0, 0, 1, 1, 2])
    got = recalls(only_recall((4, 5, 1000)).get_accuracy(x, labels))
    assert got == {4: 1.0, 5: 1.0, 1000: 1.0}
    got = recalls(only_recall((1, 1000)).get_accuracy(x, labels, x[2:], labels[2:]))
    assert got == {1: 1.0, 1000: 1.0}


def test_ranks_in_any_order_and_number() -> None:
    ranks = RetrievalAccuracy(recall_at=[8, 1, 8, 3, np.int64(1)])
    assert ranks.recall_at == (1, 3, 8)
    names = [name for name in ranks.get_curr_metrics() if name.startswith("recall")]
    assert sorted(names) == ["recall_at_1", "recall_at_3", "recall_at_8"]
    none = RetrievalAccuracy(recall_at=())
    assert not [name for name in none.get_curr_metrics() if name.startswith("recall")]


@of_release_2
def test_recall_reaches_beyond_k() -> None:
    """``k`` is of the other scores: recall neither changes with it nor changes them."""
    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.randint(0, 20, (60,))
    wide = euclidean(recall_at=(1, 30), k=3, include=(*RANKED[3:], "recall_at_30"))
    plain = AccuracyCalculator(k=3, include=RANKED[3:])
    got, expected = wide.get_accuracy(x, y), plain.get_accuracy(x, y)
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=SUMMED[name])
    assert got["recall_at_30"] == only_recall((30,)).get_accuracy(x, y)["recall_at_30"]


def test_far_from_the_origin_and_collapsed() -> None:
    """Squares of rows at 1000 leave a float32 no digit for distances of 0.01; the mean is gone."""
    rng = np.random.default_rng(0)
    # Multiples of 2^-10 below 1024 are floats, so the shift itself rounds nothing.
    near = (rng.integers(-200, 200, size=(60, 8)) / 1024).astype(np.float32)
    y = rng.integers(0, 15, size=60)
    expected = only_recall().get_accuracy(near, y)
    assert 0 < expected["recall_at_1"] < expected["recall_at_8"] < 1
    assert only_recall().get_accuracy(near + np.float32(1000), y) == expected


def test_labels_beyond_float32() -> None:
    labels = torch.tensor([0, 0, 1, 1]) + 2**24
    x = torch.tensor([[0.0], [2.0], [1.0], [3.0]])
    assert recalls(only_recall((1,)).get_accuracy(x, labels)) == {1: 0.0}


# --- exact ranks -------------------------------------------------------------------------------


def brute_neighbours(query: np.ndarray, reference: np.ndarray, k: int, *, own: bool) -> np.ndarray:
    """By squared distance, then index, from differences in float64."""
    x, y = query.astype(np.float64), reference.astype(np.float64)
    found = []
    for i in range(len(x)):
        distances = ((y - x[i]) ** 2).sum(axis=1)
        if own:
            distances[i] = np.inf
        found.append(np.argsort(distances, kind="stable")[:k])
    return np.array(found)


def hard_rows(name: str, n: int = 200, d: int = 12) -> torch.Tensor:
    """Rows whose distances products in float32, or around one mean, do not hold."""
    g = torch.Generator(torch.get_default_device()).manual_seed(1)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    far = torch.nn.functional.normalize(torch.randn(2, d, generator=g, dtype=torch.float64))
    far = far[torch.arange(n) % 2]
    exploded = x.float()
    return {
        "plain": exploded,
        "two groups": (far + 1e-5 * x).float(),
        "two groups, float64": 1e9 * far + x,
        "one row at 1e5": exploded.index_fill(0, torch.tensor(7), 1e5),
        "one row at 1e15": exploded.index_fill(0, torch.tensor(7), 1e15),
        "offset 1e8": x + 1e8,
        "collapsed": (1 + 1e-6 * x).float(),
        "squares overflow": exploded * 1e30,
        "squares vanish": exploded * 1e-30,
        "one point": torch.zeros(n, d),
        "duplicates": exploded[torch.randint(0, 9, (n,), generator=g)],
        "half of them zero": exploded * (torch.arange(n) % 2)[:, None],
        "grid": torch.randint(0, 3, (n, 3), generator=g).float(),
        "codes": exploded.sign(),
    }[name]


HARD = (
    "plain",
    "two groups",
    "two groups, float64",
    "one row at 1e5",
    "one row at 1e15",
    "offset 1e8",
    "collapsed",
    "squares overflow",
    "squares vanish",
    "one point",
    "duplicates",
    "half of them zero",
    "grid",
    "codes",
)


@pytest.mark.parametrize("k", [1, 8, 60, 199])
@pytest.mark.parametrize("name", HARD)
def test_neighbours_are_exact_and_ties_go_to_the_lowest_index(name: str, k: int) -> None:
    x = hard_rows(name)
    # From a row at 1e15 the others are equally far, up to roundings of the sum.
    asked = [i for i in range(len(x)) if not (name == "one row at 1e15" and i == 7)]
    _, indices = exact_knn(x, k, x, True)
    expected = brute_neighbours(x.numpy(force=True), x.numpy(force=True), k, own=True)
    assert np.array_equal(indices.numpy(force=True)[asked], expected[asked])
    apart = min(k, 150)
    _, indices = exact_knn(x[150:], apart, x[:150], False)
    expected = brute_neighbours(
        x[150:].numpy(force=True), x[:150].numpy(force=True), apart, own=False
    )
    assert np.array_equal(indices.numpy(force=True), expected)


@pytest.mark.parametrize("limit", [1, 1000])
def test_blocks_of_the_search_change_nothing(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = hard_rows("duplicates")
    expected = exact_knn(x, 8, x, True)[1]
    monkeypatch.setattr(neighbours, "_SCORES", limit)
    monkeypatch.setattr(neighbours, "_COORDINATES", limit)
    assert torch.equal(exact_knn(x, 8, x, True)[1], expected)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("n", [300, 2000])
def test_two_tight_groups_have_the_recall_of_their_rows(n: int, distance: str) -> None:
    """Whatever the number of rows: classes of four, split over two poles of the sphere."""
    g = torch.Generator(torch.get_default_device()).manual_seed(0)
    y = torch.arange(n // 4).repeat(4)
    x = torch.randn(n // 4, 32, generator=g)[y] + 0.3 * torch.randn(n, 32, generator=g)
    poles = torch.nn.functional.normalize(torch.randn(2, 32, generator=g))
    x = torch.nn.functional.normalize(poles[y % 2] + 3e-5 * x)
    assert only_recall((1,), distance=distance).get_accuracy(x, y) == {"recall_at_1": 1.0}


def test_cosine_takes_rows_of_any_length() -> None:
    """Directions count, from 1e-30 to 1e30; multiples of a row are its duplicates."""
    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.randint(0, 20, (60,))
    expected = only_recall(distance="cosine").get_accuracy(x, y)
    lengths = 10.0 ** torch.linspace(-30, 30, 60)[:, None]
    assert only_recall(distance="cosine").get_accuracy(x * lengths, y) == expected
    rows = torch.tensor([[1.0, 2.0, 3.0]]) * torch.tensor([[1.0], [3.0], [7.0], [11.0]])
    got = only_recall((1,), distance="cosine").get_accuracy(rows, torch.tensor([0, 1, 1, 0]))
    assert got == {"recall_at_1": 0.25}  # row 0 sees 1; the others see 0


@pytest.mark.parametrize(
    ("scores", "searched"),
    [
        (("recall_at_1",), 1),
        (("recall_at_1", "recall_at_4"), 4),
        (("precision_at_1",), 1),
        (("r_precision", "recall_at_1"), 19),
        (("mean_reciprocal_rank",), 19),
    ],
)
def test_searches_what_the_asked_scores_need(scores: tuple[str, ...], searched: int) -> None:
    """Two classes of 20 rows: the largest has 19 others."""
    torch.manual_seed(0)
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    asked = []

    def knn(query: torch.Tensor, k: int, reference: torch.Tensor, includes: bool) -> Any:
        asked.append((len(query), k))
        return exact_knn(query, k, reference, includes)

    options: dict[str, Any] = {"recall_at": (1, 4)}
    got = euclidean(knn_func=knn, **options).get_accuracy(x, y, include=scores)
    assert asked == [(40, searched)]
    everything = euclidean(**options).get_accuracy(x, y)
    assert got == pytest.approx({name: everything[name] for name in scores}, abs=1e-12)


# --- clustering --------------------------------------------------------------------------------


@given(
    pairs=st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4)), min_size=2, max_size=30),
)
def test_f1_and_nmi_of_any_clusters(pairs: list[tuple[int, int]]) -> None:
    classes, clusters = (list(column) for column in zip(*pairs, strict=True))
    calculator = RetrievalAccuracy(
        include=("clustering_f1", "NMI"), kmeans_func=lambda x, k: torch.tensor(clusters)
    )
    got = calculator.get_accuracy(torch.zeros(len(classes), 2), torch.tensor(classes))
    # Both are a handful of float64 operations; NMI cancels entropies of about 1.
    assert got["clustering_f1"] == pytest.approx(
        brute_f1(classes, clusters), abs=1e-12, nan_ok=True
    )
    assert got["NMI"] == pytest.approx(brute_nmi(classes, clusters), abs=1e-9)


def test_f1_counts_large_classes_exactly() -> None:
    """More pairs than an int32 holds: one cluster, two classes."""
    n = 100_000
    classes = torch.arange(n) % 2
    got = pairwise_f1(classes, torch.zeros(n))
    half, all_pairs = math.comb(n // 2, 2), math.comb(n, 2)
    assert got == 2 * (2 * half) / (all_pairs + 2 * half)


def test_separate_blobs_are_clustered_perfectly() -> None:
    """As many clusters as classes of the queries, lone ones and references aside or not."""
    labels = torch.tensor([3, 3, 3, 9, 9, 5])
    x = 100.0 * torch.nn.functional.one_hot(labels, 10)[:, [3, 9, 5]]
    calculator = euclidean(include=CLUSTERING)
    for references in [(), (x[:1], labels[:1])]:
        # 1 up to the rounding of logarithms.
        assert calculator.get_accuracy(x, labels, *references) == pytest.approx(
            {"AMI": 1.0, "NMI": 1.0, "clustering_f1": 1.0}, abs=1e-9
        )


def test_seed() -> None:
    torch.manual_seed(1)
    x, y = torch.randn(300, 4), torch.randint(0, 30, (300,))

    def scores(seed: int) -> dict[str, Any]:
        return euclidean(include=CLUSTERING, seed=seed).get_accuracy(x, y)

    assert scores(3) == scores(3)
    assert scores(3) != scores(4)


@pytest.mark.parametrize("missing", [None, "sklearn"])
def test_only_information_needs_scikit_learn(
    missing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so before it clusters, and the other scores do without."""
    x, y = sample()
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    clustered = []

    def kmeans(rows: torch.Tensor, n_clusters: int) -> torch.Tensor:
        clustered.append(n_clusters)
        return torch.arange(len(rows)) % n_clusters

    calculator = RetrievalAccuracy(kmeans_func=kmeans)
    assert set(calculator.get_accuracy(x, y, exclude=("NMI", "AMI"))) == {
        "clustering_f1",
        *RANKED,
        *(f"recall_at_{rank}" for rank in RANKS),
    }
    information = () if missing else ("NMI", "AMI")
    assert set(calculator.get_accuracy(x, y)) == {
        "clustering_f1",
        *RANKED,
        *(f"recall_at_{rank}" for rank in RANKS),
        *information,
    }
    clustered.clear()
    for name in ("NMI", "AMI"):
        if missing:
            with pytest.raises(ImportError, match=rf"^{name} needs .*pip install scikit-learn"):
                calculator.get_accuracy(x, y, include=(name,))
            assert not clustered
        else:
            assert set(calculator.get_accuracy(x, y, include=(name,))) == {name}


@pytest.mark.parametrize("case", ["offset", "large", "small"])
def test_clusters_change_neither_with_an_offset_nor_with_the_scale(case: str) -> None:
    torch.manual_seed(1)
    # Multiples of 2^-10 stay as they are beside an offset of 2^30.
    x, y = torch.randint(-999, 999, (60, 3)).double() / 1024, torch.randint(0, 6, (60,))
    calculator = euclidean(include=CLUSTERING)
    moved = {"offset": x + 2**30, "large": x * 2.0**400, "small": x * 2.0**-400}[case]
    assert calculator.get_accuracy(moved, y) == calculator.get_accuracy(x, y)


def test_cosine_clusters_directions() -> None:
    """Two rays with points near and far: directions cluster by ray, positions by size."""
    x = torch.tensor([[1.0, 0.0], [99.0, 0.0], [101.0, 0.0], [0.0, 1.0], [0.0, 1.5], [0.0, 2.0]])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    f1 = {
        distance: RetrievalAccuracy(distance=distance, include=("clustering_f1",)).get_accuracy(
            x, labels
        )["clustering_f1"]
        for distance in ("cosine", "euclidean")
    }
    assert f1["cosine"] == 1.0
    assert f1["euclidean"] < 1.0


# --- beside pytorch-metric-learning -------------------------------------------------------------


def sample(n: int = 80, classes: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes of one to several samples, overlapping, without ties."""
    torch.manual_seed(0)
    labels = torch.randint(0, classes, (n,))
    return torch.randn(classes, 6)[labels] + 0.8 * torch.randn(n, 6), labels - 3


AVERAGES: tuple[dict[str, bool], ...] = ({}, {"avg_of_avgs": True}, {"return_per_class": True})


def compared(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and labels on which both calculators are run."""
    x, y = sample()
    g = torch.Generator(torch.get_default_device()).manual_seed(2)
    return {
        "random": (x, y),  # with lone classes among them
        "tied": (torch.randint(-1, 2, (80, 2), generator=g).float(), y),
        "duplicates": (torch.zeros(80, 3), y),
        "two classes": (x, y % 2),
        "lone": (x, torch.arange(80)),
    }[name]


COMPARED = ("random", "tied", "duplicates", "two classes", "lone")


def split_up(x: torch.Tensor, y: torch.Tensor, split: str) -> tuple[Any, ...]:
    """The arguments of a call."""
    return {
        "itself": (x, y),
        "apart": (x[:50], y[:50], x[50:], y[50:]),
        "included": (x[:50], y[:50], x, y, True),
    }[split]


def assert_same_scores(got: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, abs=SUMMED[name], nan_ok=True), name
    # Recall@1 is precision at 1, in each kind of average.
    assert got["recall_at_1"] == pytest.approx(got["precision_at_1"], abs=0, nan_ok=True)


@of_release_2
@pytest.mark.parametrize("k", ["max_bin_count", None, 40])
@pytest.mark.parametrize("average", AVERAGES, ids=str)
@pytest.mark.parametrize("split", ["itself", "apart", "included"])
@pytest.mark.parametrize("name", COMPARED)
def test_retrieval_scores_are_those_of_pml(
    name: str, k: int | str | None, average: dict[str, bool], split: str
) -> None:
    """Given the same neighbours, for faiss leaves open which of the equally far come first."""
    arguments = split_up(*compared(name), split)
    if split == "apart":
        k = 30 if k == 40 else k  # beyond the references pml reads the labels of row -1
    plain = AccuracyCalculator(k=k, include=RANKED, knn_func=exact_knn, **average)
    if name == "lone":
        plain.k = 1  # pml asks for no neighbours at all, which the search refuses
    got = euclidean(k=k, exclude=CLUSTERING, **average).get_accuracy(*arguments)
    assert_same_scores(got, plain.get_accuracy(*arguments))


@of_release_2
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("split", ["itself", "apart", "included"])
def test_retrieval_scores_are_those_of_pml_as_it_comes(distance: str, split: str) -> None:
    x, y = sample()
    x = torch.nn.functional.normalize(x)
    arguments = split_up(x, y, split)
    got = RetrievalAccuracy(distance=distance, exclude=CLUSTERING).get_accuracy(*arguments)
    plain = AccuracyCalculator(k="max_bin_count", include=RANKED)
    assert_same_scores(got, plain.get_accuracy(*arguments))


@of_release_2
@pytest.mark.parametrize("average", AVERAGES, ids=str)
@pytest.mark.parametrize("split", ["itself", "apart", "included"])
@pytest.mark.parametrize("name", COMPARED)
def test_clusters_are_those_of_pml(name: str, average: dict[str, bool], split: str) -> None:
    arguments = split_up(*compared(name), split)
    names = ("NMI", "AMI")
    got = euclidean(include=names, **average).get_accuracy(*arguments)
    assert got == AccuracyCalculator(include=names, **average).get_accuracy(*arguments)


@of_release_2
@pytest.mark.parametrize("average", AVERAGES, ids=str)
@pytest.mark.parametrize("split", ["itself", "apart", "included"])
@pytest.mark.parametrize("columns", [1, 2])
def test_own_label_comparison_is_that_of_pml(
    columns: int, average: dict[str, bool], split: str
) -> None:
    """Neighbouring numbers match; of two columns one is enough."""
    x, y = sample()
    labels = y if columns == 1 else torch.stack([y, y.roll(1)], dim=1)

    def match(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).abs() <= 1 if columns == 1 else (a == b).any(dim=-1)

    arguments = split_up(x, labels, split)
    options: dict[str, Any] = {"label_comparison_fn": match, "k": "max_bin_count", **average}
    got = euclidean(exclude=CLUSTERING, **options).get_accuracy(*arguments)
    plain = AccuracyCalculator(include=RANKED, knn_func=exact_knn, **options)
    assert_same_scores(got, plain.get_accuracy(*arguments))


def test_comparison_that_a_label_fails_with_itself() -> None:
    """Then the row that is left out is none of the relevant ones: they stay three of three."""
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    calculator = euclidean(label_comparison_fn=torch.ne, exclude=CLUSTERING)
    scores = calculator.get_accuracy(x, torch.arange(4))
    assert set(scores.values()) == {1.0}


@pytest.mark.parametrize("average", AVERAGES, ids=str)
def test_blocks_change_nothing(average: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sample()
    calculator = RetrievalAccuracy(exclude=CLUSTERING, **average)
    expected = calculator.get_accuracy(x, y)
    for limit in ("_QUERIES", "_NEIGHBOURS"):
        monkeypatch.setattr(blocks, limit, 13)
        assert calculator.get_accuracy(x, y) == expected


def test_cosine_is_the_default() -> None:
    """Positions and directions rank differently here."""
    x = torch.tensor([[1.0, 0.0], [9.0, 1.0], [0.5, 1.0], [1.0, 9.0]])
    y = torch.tensor([0, 0, 1, 1])
    got = RetrievalAccuracy().get_accuracy(x, y)
    assert got == RetrievalAccuracy(distance="cosine").get_accuracy(x, y)
    assert got["recall_at_1"] == 1.0
    assert euclidean().get_accuracy(x, y)["recall_at_1"] == 0.5


@pytest.mark.parametrize(("k", "warns"), [(1, True), (2, False), (None, False)])
def test_warns_if_k_is_too_small(
    k: int | None, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Each row of three has two others; average precision is of the first k by its meaning."""
    x, y = torch.eye(6), torch.arange(6) // 3
    with caplog.at_level(logging.WARNING):
        calculator = RetrievalAccuracy(k=k)
        calculator.get_accuracy(x, y, include=("mean_average_precision", "recall_at_1"))
        assert not caplog.records
        calculator.get_accuracy(x, y, include=("r_precision",))
    assert bool(caplog.records) == warns
    assert all("r_precision looked at 1" in message for message in caplog.messages)


def test_averages_per_class() -> None:
    """Class 0: one of two is a hit; class 1: three of three; class 2 is lone."""
    x = torch.tensor([[0.0], [5.5], [5.0], [5.2], [4.9], [-9.0]])
    labels = torch.tensor([0, 0, 1, 1, 1, 2])

    def score(**options: bool) -> Any:
        return only_recall((2,), **options).get_accuracy(x, labels)["recall_at_2"]

    # Row 0 sees 4.9 and 5.0, row 1 sees 5.2 and 5.0: no hit in class 0.
    assert score() == pytest.approx(3 / 5, abs=1e-12)
    assert score(avg_of_avgs=True) == pytest.approx(1 / 2, abs=1e-12)
    assert score(return_per_class=True) == [0.0, 1.0]


def test_include_and_exclude() -> None:
    x, y = sample()
    calculator = RetrievalAccuracy(include=("recall_at_1", "recall_at_4", "NMI"))
    assert set(calculator.get_accuracy(x, y)) == {"recall_at_1", "recall_at_4", "NMI"}
    assert set(calculator.get_accuracy(x, y, include=["recall_at_4"])) == {"recall_at_4"}
    assert set(calculator.get_accuracy(x, y, exclude=("NMI",))) == {"recall_at_1", "recall_at_4"}
    assert set(calculator.get_accuracy(x, y)) == {"recall_at_1", "recall_at_4", "NMI"}
    assert set(RetrievalAccuracy(exclude=("AMI",)).get_curr_metrics()) == {
        "NMI",
        "clustering_f1",
        *RANKED,
        *(f"recall_at_{rank}" for rank in RANKS),
    }


def test_every_kind_of_array() -> None:
    x, y = sample()
    x = x.half().float()  # so that every dtype below holds the same numbers
    expected = only_recall().get_accuracy(x, y)
    for rows in (
        x.double(),
        x.half(),
        x.numpy(force=True),
        x.double().numpy(force=True),
        x.clone().requires_grad_(),
    ):
        for labels in (
            y,
            y.int(),
            y.numpy(force=True),
            y.numpy(force=True).astype(np.int16),
            (y + 3).numpy(force=True).astype("u4"),
        ):
            assert only_recall().get_accuracy(rows, labels) == expected
    assert only_recall().get_accuracy(x.t().contiguous().t(), y) == expected


def test_inputs_stay_as_they_are() -> None:
    x, y = sample()
    copies = x.clone(), y.clone()
    RetrievalAccuracy(distance="cosine").get_accuracy(x, y)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])


@of_release_2
@pytest.mark.parametrize("search", ["faiss", "custom"])
@pytest.mark.usefixtures("block")
def test_own_knn_function(search: str) -> None:
    knn_func = FaissKNN() if search == "faiss" else CustomKNN(CosineSimilarity(), batch_size=16)
    x, y = sample()
    x = torch.nn.functional.normalize(x)
    got = only_recall(knn_func=knn_func).get_accuracy(x, y)
    # The same hits; blocks of other sizes are added up in another order.
    assert got == pytest.approx(only_recall().get_accuracy(x, y), abs=1e-12)


def test_own_label_comparison() -> None:
    """Labels that match if they differ by at most one, and labels of two columns."""
    x = torch.tensor([[0.0], [1.0], [10.0], [11.5]])
    close = only_recall((1, 3), label_comparison_fn=lambda a, b: (a - b).abs() <= 1, exclude=())
    labels = torch.tensor([0, 1, 2, 9])
    # 0 -> 1 hit; 1 -> 0 hit; 2 -> 9 miss, then 1 hit; 9 matches none: left out.
    assert recalls(close.get_accuracy(x, labels)) == pytest.approx({1: 2 / 3, 3: 1.0}, abs=1e-12)
    either = only_recall((1, 3), label_comparison_fn=lambda a, b: (a == b).any(-1))
    two = torch.tensor([[0, 0], [1, 1], [2, 2], [3, 1]])
    assert recalls(either.get_accuracy(x, two)) == {1: 0.0, 3: 1.0}
    with pytest.raises(NotImplementedError):
        RetrievalAccuracy(include=("clustering_f1",), label_comparison_fn=torch.eq)


def test_reciprocal_rank_alone() -> None:
    x, y = sample()
    assert set(RetrievalAccuracy(include=("mean_reciprocal_rank",)).get_accuracy(x, y))


@of_release_2
def test_in_a_tester() -> None:
    """It is no ``AccuracyCalculator``, and does all that testers ask of one."""
    x, y = sample()
    calculator = RetrievalAccuracy(include=("recall_at_1", "recall_at_8"), avg_of_avgs=True)
    assert not isinstance(calculator, AccuracyCalculator)
    tester = GlobalEmbeddingSpaceTester(
        dataloader_num_workers=0, accuracy_calculator=calculator, label_hierarchy_level="all"
    )
    labels = torch.stack([y, y % 3], dim=1)
    dataset = torch.utils.data.TensorDataset(x, labels)
    accuracies = tester.test({"val": dataset}, 0, torch.nn.Identity())["val"]
    levels = [calculator.get_accuracy(x, column) for column in labels.T]
    for name in ("recall_at_1", "recall_at_8"):
        values = [level[name] for level in levels]
        got = [accuracies[f"{name}_level{i}"] for i in range(2)]
        assert got == pytest.approx(values, abs=1e-12)
        assert accuracies[f"AVERAGE_{name}"] == pytest.approx(sum(values) / 2, abs=1e-12)
    assert tester.description_suffixes("x").endswith("_avg_of_avgs")


@of_release_2
def test_in_a_tester_of_classes_with_one_parent() -> None:
    x, y = sample()
    tester = WithSameParentLabelTester(
        dataloader_num_workers=0, accuracy_calculator=RetrievalAccuracy(include=("recall_at_1",))
    )
    dataset = torch.utils.data.TensorDataset(x, torch.stack([y, y % 2], dim=1))
    accuracies = tester.test({"val": dataset}, 0, torch.nn.Identity())["val"]
    parts = [
        only_recall((1,), "cosine").get_accuracy(x[y % 2 == parent], y[y % 2 == parent])
        for parent in range(2)
    ]
    expected = sum(part["recall_at_1"] for part in parts) / 2
    assert accuracies["recall_at_1_level0"] == pytest.approx(expected, abs=1e-12)


def test_pickle() -> None:
    x, y = sample()
    calculator = only_recall((1, 5))
    copy = pickle.loads(pickle.dumps(calculator))
    assert copy.get_accuracy(x, y) == calculator.get_accuracy(x, y)


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("recall_at", 1, TypeError),
        ("recall_at", "12", TypeError),
        ("recall_at", (1, 2.0), TypeError),
        ("recall_at", (True,), TypeError),
        ("recall_at", (0, 1), ValueError),
        ("recall_at", (-1,), ValueError),
        ("distance", "l2", ValueError),
        ("distance", None, ValueError),
        ("seed", -1, ValueError),
        ("seed", 0.5, TypeError),
        ("k", 0, ValueError),
        ("include", "NMI", TypeError),
        ("include", ("recall_at_3",), ValueError),
        ("exclude", ("nmi",), ValueError),
        ("k", "all", ValueError),
        ("k", 1.5, ValueError),
        ("avg_of_avgs", 1, TypeError),
        ("return_per_class", None, TypeError),
    ],
)
def test_bad_options(option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^{option} must"):
        RetrievalAccuracy(**{option: value})


def test_averages_over_classes_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"^avg_of_avgs must be False with return_per_class"):
        RetrievalAccuracy(avg_of_avgs=True, return_per_class=True)


X, Y = torch.eye(4), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("query", ([[1.0]], Y), TypeError),
        ("query", (X.long(), Y), TypeError),
        ("query", (X.long().numpy(force=True), Y), TypeError),
        ("query", (X[0], Y), ValueError),
        ("query", (X[:0], Y[:0]), ValueError),
        ("query", (X * math.nan, Y), ValueError),
        ("query", (X * math.inf, Y), ValueError),
        ("query", (X.double() * 1e300, Y), ValueError),
        ("query_labels", (X, [0, 0, 1, 1]), TypeError),
        ("query_labels", (X, Y + 0.5), TypeError),
        ("query_labels", (X, (Y + 0.5).numpy(force=True)), TypeError),
        ("query_labels", (X, Y.float() + 2**24), TypeError),
        ("query_labels", (X, Y.half() + 2**11), TypeError),
        ("query_labels", (X, Y * math.nan), ValueError),
        ("query_labels", (X, Y.bool().numpy(force=True)), TypeError),
        ("query_labels", (X, None), TypeError),
        ("query_labels", (X, np.array(["a", "a", "b", "b"])), TypeError),
        ("query_labels", (X, Y[:3]), ValueError),
        ("query_labels", (X, Y[:, None]), ValueError),
        ("reference", (X, Y, X), ValueError),
        ("reference_labels", (X, Y, None, Y), ValueError),
        ("reference", (X, Y, X[:, :3], Y), ValueError),
        ("reference", (X, Y, X[:0], Y[:0]), ValueError),
        ("reference_labels", (X, Y, X, Y[:3]), ValueError),
        ("reference", (X, Y, X[:3], Y[:3], True), ValueError),
        ("reference", (X, Y, X.flip(0), Y, True), ValueError),
        ("reference", (X, Y, X, Y + 1, True), ValueError),
        ("reference", (X, Y + 10**6, X, Y.flip(0) + 10**6, True), ValueError),
        ("ref_includes_query", (X, Y, X, Y, 1), TypeError),
        ("include", (X, Y, None, None, False, ("recall_at_3",)), ValueError),
        ("exclude", (X, Y, None, None, False, (), "NMI"), TypeError),
    ],
)
def test_bad_input(name: str, arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^{name} (must|was)"):
        RetrievalAccuracy().get_accuracy(*arguments)


def test_whole_floating_labels() -> None:
    """As PML's two-stream tester hands them."""
    x, y = sample()
    expected = only_recall().get_accuracy(x, y)
    for labels in (
        y.float(),
        y.double(),
        y.half(),
        y.float().numpy(force=True),
        y.double().numpy(force=True),
    ):
        assert only_recall().get_accuracy(x, labels) == expected


class Views(torch.utils.data.Dataset[Any]):
    """Two views of each sample and its label."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        row = torch.nn.functional.one_hot(torch.tensor(i), 32).float()
        return row, 2 * row, i % 16


@of_release_2
def test_in_a_two_stream_tester() -> None:
    tester = GlobalTwoStreamEmbeddingSpaceTester(
        dataloader_num_workers=0, accuracy_calculator=only_recall((1,))
    )
    scores = tester.test({"val": Views()}, 0, torch.nn.Identity())["val"]
    assert scores["recall_at_1_level0"] == 1.0


@pytest.mark.parametrize("kind", [torch.as_tensor, lambda x: x.numpy(force=True)])
def test_arguments_in_the_order_before_pml_2(kind: Any) -> None:
    message = r"^query_labels must have shape \(4,\).*got \(4, 5\).*query, query_labels, reference"
    x = kind(torch.ones(4, 5))
    with pytest.raises(ValueError, match=message):
        RetrievalAccuracy().get_accuracy(x, x, kind(Y), kind(Y), True)
    compares = RetrievalAccuracy(
        include=("precision_at_1",), label_comparison_fn=lambda a, b: a == b
    )
    with pytest.raises(ValueError, match=r"^reference must have shape.*query, query_labels"):
        compares.get_accuracy(x, x, kind(Y), kind(Y), True)


@pytest.mark.parametrize(
    "labels",
    [
        ["a", "a", "b", "b"],
        ("a", "a", "b", "b"),
        np.array(["a", "a", "b", None], dtype=object),
        np.array([5, 5, 7, 7], dtype=object),
        [0, 0, 1, 1],
        Y + 0.5,
        (Y + 0.5).numpy(force=True),
        Y.bool(),
        Y.bool().numpy(force=True),
        Y[:, None],
        Y.numpy(force=True)[None],
    ],
    ids=repr,
)
@pytest.mark.parametrize("alone", [True, False])
def test_advice_on_labels_works(labels: Any, alone: bool) -> None:
    """The code at the end of the message, run as it stands, gives labels that are taken."""
    x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    calculator = only_recall((2,))
    others = () if alone else (x + 0.1, labels)
    with pytest.raises((TypeError, ValueError)) as error:
        calculator.get_accuracy(x, labels, *others)
    advice = re.split(r": |; use ", str(error.value))[-1]
    names = {"query_labels": labels, "reference_labels": labels, "np": np, "torch": torch}
    codes = eval(advice, names)
    if alone:
        assert 0 < calculator.get_accuracy(x, codes)["recall_at_2"] <= 1
    else:
        got = calculator.get_accuracy(x, codes[:4], others[0], codes[-4:])
        assert got["recall_at_2"] == 1.0


def test_values_that_nobody_looked_at() -> None:
    """On CUDA values are not read beforehand; the search says so."""
    with pytest.raises(ValueError, match="finite"):
        neighbours.searcher(X * math.nan, 1, X, False)


def test_what_a_function_of_the_user_cannot_take() -> None:
    """Rows beyond float32 for its search, and labels of another length for its comparison."""
    x, y = sample()
    search = only_recall(knn_func=lambda query, k, reference, own: (None, None))
    with pytest.raises(ValueError, match=r"query must fit into float32.*scale the embeddings"):
        search.get_accuracy(x.double() * 1e60, y)
    compare = only_recall(label_comparison_fn=lambda a, b: (a == b).any(-1))
    with pytest.raises(ValueError, match="query_labels must have one entry per row of query"):
        compare.get_accuracy(x, y[:-1, None].repeat(1, 2))
