"""HPHNTripletLoss against the papers' code and a brute-force reading of its contract."""

import inspect
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
    SNRDistance,
)
from pytorch_metric_learning.reducers import MeanReducer
from pytorch_metric_learning.regularizers import LpRegularizer
from torch import Tensor

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, SyntheticLoss
from loopml import compiled as seam
from loopml.host import properties_of
from tests.oracles import papers
from tests.oracles.brute_force import brute_force
from tests.oracles.hosts import IS_3, in_double, unreduced

Synthesizer = EmbeddingExpansion | LoOpMiner | None
MARGIN = 0.35  # large enough for some hard-margin elements, small enough for some zeros

# Distances around 1 in float64: the oracle's zoom and PML's arithmetic each leave about 1e-15 of
# a distance, a hundred times that where two curves nearly touch.
TOL = {"rtol": 1e-9, "atol": 1e-11}

PAIRED = np.array([4, 4, 1, 1, 4, 4, 2, 2, 2, 2])  # consecutive pairs, two pairs of a class
TWO_EACH = np.array([2, 2, 0, 0, 5, 5, 1, 1])
MIXED = np.array([3, 1, 1, 0, 3, 1, 7, 0, 0, 9])  # uneven, in any order, two singletons

SYNTHESIZERS: dict[str, Callable[[], Synthesizer]] = {
    "none": lambda: None,
    "ee0": lambda: EmbeddingExpansion(0),
    "ee2": lambda: EmbeddingExpansion(2),
    "loop": lambda: LoOpMiner(),
}


def rows(seed: int, n: int, d: int = 4) -> np.ndarray:
    """Embeddings of length about 1.5, so that normalising them shows."""
    return np.random.default_rng(seed).normal(size=(n, d)) * 0.75


def per_anchor(x: np.ndarray, labels: np.ndarray, **options: object) -> dict[int, float]:
    """The loss of each anchor, by row."""
    ref = {k: torch.as_tensor(options.pop(k)) for k in ("ref_emb", "ref_labels") if k in options}
    loss = HPHNTripletLoss(MARGIN, **options)
    out = unreduced(loss, torch.tensor(x), torch.tensor(labels), **ref)
    if IS_3 and not out:
        return {}
    assert out.keys() == {"loss"}
    if not torch.is_tensor(out["loss"]["losses"]):
        assert out["loss"]["losses"] == 0  # PML's form of "no tuples"
        return {}
    assert IS_3 or out["loss"]["reduction_type"] == "element"
    indices = out["loss"]["indices"].tolist()
    assert len(set(indices)) == len(indices)
    return dict(zip(indices, out["loss"]["losses"].tolist(), strict=True))


def expected(
    hardest: dict[int, papers.Hardest], *, soft: bool = False, power: int = 1
) -> dict[int, float]:
    out = {}
    for anchor, (positive, negative) in hardest.items():
        gap = positive**power - negative**power
        out[anchor] = np.log(1 + np.exp(gap)) if soft else max(gap + MARGIN, 0.0)
    return out


def assert_same(actual: dict[int, float], wanted: dict[int, float]) -> None:
    assert actual.keys() == wanted.keys()
    np.testing.assert_allclose([actual[a] for a in wanted], list(wanted.values()), **TOL)


# --- the oracle itself -------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", ["arc", "segment"])
def test_two_brute_forces_agree(geometry: str) -> None:
    """The fast brute force of these tests equals the slow one of the geometry tests."""
    curves = np.random.default_rng(0).normal(size=(4, 20, 4))
    curves = papers.unit(curves) if geometry == "arc" else curves
    distance, _ = papers.nearest_on_curves(*curves, geometry)
    np.testing.assert_allclose(distance, brute_force(geometry, curves).distance, atol=1e-11)


# --- the papers' code --------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("n", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("normalized", "l2_norm"),
    [(True, True), (True, False), (False, True), (False, False)],
)
def test_equals_the_embedding_expansion_code(
    normalized: bool, l2_norm: bool, n: int, soft: bool
) -> None:
    """Consecutive pairs give the paper's loss; where the distance normalises, so do the points."""
    x = rows(n, len(PAIRED))
    actual = per_anchor(
        x,
        PAIRED,
        soft_margin=soft,
        distance=LpDistance(normalize_embeddings=normalized),
        synthesizer=EmbeddingExpansion(n, normalize=l2_norm, pairing="consecutive"),
    )
    seen = papers.unit(x) if normalized else x
    hardest = papers.ee_hphn_paper(seen, PAIRED, n, l2_norm or normalized)
    assert_same(actual, expected(hardest, soft=soft))


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("normalized", [False, True])
def test_no_synthesizer_is_the_code_without_points(normalized: bool, soft: bool) -> None:
    """Without a synthesizer: hardest real positive against hardest real negative."""
    x = rows(5, len(PAIRED))
    distance = LpDistance(normalize_embeddings=normalized)
    seen = papers.unit(x) if normalized else x
    assert_same(
        per_anchor(x, PAIRED, distance=distance, soft_margin=soft),
        expected(papers.ee_hphn_paper(seen, PAIRED, 0, False), soft=soft),
    )


@pytest.mark.parametrize("pairing", ["all", "consecutive"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("normalized", [True, False])
def test_equals_the_loop_code(normalized: bool, soft: bool, pairing: str) -> None:
    """Two per class give the paper's loss, on arcs or, unnormalised, on straight segments."""
    for seed in range(3):
        x = rows(seed, len(TWO_EACH))
        actual = per_anchor(
            x,
            TWO_EACH,
            soft_margin=soft,
            distance=LpDistance(normalize_embeddings=normalized),
            synthesizer=LoOpMiner(pairing=pairing),
        )
        seen, geometry = (papers.unit(x), "arc") if normalized else (x, "segment")
        assert_same(actual, expected(papers.loop_hphn_paper(seen, TWO_EACH, geometry), soft=soft))


# --- the contract, for any labels --------------------------------------------------------------

any_labels = st.lists(st.integers(0, 4), min_size=1, max_size=9).map(np.array)
seeds = st.integers(0, 2**32 - 1)


@given(
    seed=seeds,
    labels=any_labels,
    kind=st.sampled_from([None, "ee", "loop"]),
    n=st.integers(0, 3),
    l2_norm=st.booleans(),
    normalized=st.booleans(),
    power=st.sampled_from([1, 2]),
    soft=st.booleans(),
    d=st.sampled_from([2, 3, 5]),
)
def test_any_labels(
    seed: int,
    labels: np.ndarray,
    kind: str | None,
    n: int,
    l2_norm: bool,
    normalized: bool,
    power: int,
    soft: bool,
    d: int,
) -> None:
    """One element per anchor that has a positive and a negative, each as the contract words it."""
    x = rows(seed, len(labels), d)
    synthesizer = {None: None, "ee": EmbeddingExpansion(n, normalize=l2_norm), "loop": LoOpMiner()}
    actual = per_anchor(
        x,
        labels,
        soft_margin=soft,
        distance=LpDistance(normalize_embeddings=normalized, power=power),
        synthesizer=synthesizer[kind],
    )
    hardest = papers.hphn_contract(
        papers.unit(x) if normalized else x,
        labels,
        kind,
        n=n,
        l2_norm=l2_norm or normalized,
        geometry="arc" if normalized else "segment",
    )
    assert_same(actual, expected(hardest, soft=soft, power=power))


@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_singletons_are_negatives_but_no_anchors(name: str) -> None:
    """A sample alone in its class gives no element, yet it can be the hardest negative."""
    x = rows(3, len(MIXED))
    x[6] = 1.7 * x[1] + 1e-6  # the singleton 7 sits on the direction of an anchor of class 1
    actual = per_anchor(x, MIXED, synthesizer=SYNTHESIZERS[name]())
    assert sorted(actual) == [0, 1, 2, 3, 4, 5, 7, 8]
    nearer = np.delete(np.arange(len(x)), 6)
    without = per_anchor(x[nearer], MIXED[nearer], synthesizer=SYNTHESIZERS[name]())
    assert actual[1] > without[1]


@pytest.mark.parametrize("labels", [MIXED, np.repeat([2, 0, 1], 3)], ids=["mixed", "three each"])
@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_row_order_does_not_matter(name: str, labels: np.ndarray) -> None:
    """Shuffling the batch shuffles the elements and changes none."""
    x = rows(8, len(labels))
    order = np.random.default_rng(0).permutation(len(labels))
    before = per_anchor(x, labels, synthesizer=SYNTHESIZERS[name]())
    after = per_anchor(x[order], labels[order], synthesizer=SYNTHESIZERS[name]())
    assert_same({int(order[a]): value for a, value in after.items()}, before)


def test_consecutive_pairing_keeps_every_positive() -> None:
    """Pairs name the curves only: the farthest positive is looked for in the whole class."""
    labels = np.array([0, 0, 0, 0, 1, 1])
    x = np.array([[0, 0], [1, 0], [0, 5], [1, 5], [20, 0], [20, 1]], dtype=float)
    for synthesizer in (LoOpMiner(pairing="consecutive"), EmbeddingExpansion(1, normalize=False)):
        actual = per_anchor(
            x,
            labels,
            soft_margin=True,
            distance=LpDistance(normalize_embeddings=False),
            synthesizer=synthesizer,
        )
        # rows 0 and 1 end at the class's far corner; the nearest negative is 19 away
        np.testing.assert_allclose(actual[1], np.log1p(np.exp(np.sqrt(26) - 19)), rtol=1e-9)


@pytest.mark.parametrize("kind", [None, "ee", "loop"])
@pytest.mark.parametrize("normalized", [True, False])
def test_reference_set(kind: str | None, normalized: bool) -> None:
    """With ref_emb the anchors are the batch's rows, positives and negatives the reference's."""
    x, ref = rows(1, 5), rows(2, 8)
    labels, ref_labels = np.array([0, 0, 1, 5, 2]), np.array([0, 1, 1, 2, 0, 2, 2, 8])
    actual = per_anchor(
        x,
        labels,
        synthesizer={None: None, "ee": EmbeddingExpansion(2), "loop": LoOpMiner()}[kind],
        distance=LpDistance(normalize_embeddings=normalized),
        ref_emb=ref,
        ref_labels=ref_labels,
    )
    see = papers.unit if normalized else lambda rows: rows
    geometry = "arc" if normalized else "segment"
    hardest = papers.hphn_contract(
        see(x), labels, kind, n=2, geometry=geometry, ref=see(ref), ref_labels=ref_labels
    )
    assert hardest.keys() == {0, 1, 2, 4}
    assert_same(actual, expected(hardest))


@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_gradient_reaches_the_reference(name: str) -> None:
    """Positives and negatives are rows of ref_emb: they are pulled as well."""
    loss = HPHNTripletLoss(soft_margin=True, synthesizer=SYNTHESIZERS[name]())
    labels, ref_labels = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1, 2, 0])
    inputs = [torch.tensor(rows(seed, n), requires_grad=True) for seed, n in ((1, 3), (2, 5))]
    assert torch.autograd.gradcheck(
        lambda x, ref: loss(x, labels, ref_emb=ref, ref_labels=ref_labels), inputs
    )


@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_a_shard_of_the_batch_sees_the_whole_batch(name: str) -> None:
    """Distributed training gives ref_emb that starts with the own rows and an all-pairs tuple."""
    x = rows(4, len(MIXED))
    whole = per_anchor(x, MIXED, synthesizer=SYNTHESIZERS[name]())
    shard = per_anchor(
        x[:5], MIXED[:5], synthesizer=SYNTHESIZERS[name](), ref_emb=x, ref_labels=MIXED
    )
    assert_same(shard, {a: whole[a] for a in range(5)})


def test_forced_segments_between_normalised_rows() -> None:
    """geometry="segment" measures between the chords of what the distance sees."""
    x = rows(6, len(MIXED))
    actual = per_anchor(x, MIXED, synthesizer=LoOpMiner(geometry="segment"))
    hardest = papers.hphn_contract(papers.unit(x), MIXED, "loop", geometry="segment")
    assert_same(actual, expected(hardest))


# --- real negatives until classes are apart ----------------------------------------------------


def half_apart(labels: np.ndarray, noise: int = 0) -> np.ndarray:
    """Some anchors have their positives nearer than any negative, others do not."""
    seed = 1 if labels is PAIRED else 11
    centres = np.random.default_rng(seed).normal(size=(labels.max() + 1, 4))
    return centres[labels] + 0.6 * rows(seed + 1 + noise, len(labels))


@pytest.mark.parametrize("pairing", ["auto", "consecutive", "references"])
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("kind", ["ee", "loop"])
def test_real_until_apart(kind: str, normalized: bool, pairing: str) -> None:
    """An anchor takes its real negative where its synthetic one is nearer than its positive."""
    labels = PAIRED if pairing == "consecutive" else MIXED
    x, ref = half_apart(labels), half_apart(labels, noise=1)
    see = papers.unit if normalized else lambda rows: rows
    rule = "consecutive" if pairing == "consecutive" else "all"
    options = {"n": 2, "geometry": "arc" if normalized else "segment", "pairing": rule}
    references = {}
    if pairing == "references":
        references = {"ref_emb": ref, "ref_labels": labels}
        options |= {"ref": see(ref), "ref_labels": labels}
    wanted, real = (
        papers.hphn_contract(see(x), labels, which, **options) for which in (kind, None)
    )
    near = [a for a, found in wanted.items() if found.negative < found.positive]
    assert 0 < len(near) < len(wanted)
    wanted |= {a: real[a] for a in near}
    for soft, power in ((False, 1), (True, 1), (False, 2)):
        actual = per_anchor(
            x,
            labels,
            soft_margin=soft,
            distance=LpDistance(normalize_embeddings=normalized, power=power),
            synthesizer={"ee": EmbeddingExpansion, "loop": LoOpMiner}[kind](pairing=rule),
            real_until_apart=True,
            **references,
        )
        assert_same(actual, expected(wanted, soft=soft, power=power))


@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_the_slopes_of_real_until_apart(name: str) -> None:
    """Of the distances that were chosen. Without points between nothing changes."""
    labels = torch.tensor(MIXED)
    x = torch.tensor(half_apart(MIXED), requires_grad=True)
    loss = HPHNTripletLoss(5.0, synthesizer=SYNTHESIZERS[name](), real_until_apart=True)
    assert "real_until_apart=True" in repr(loss)
    usual = HPHNTripletLoss(5.0, synthesizer=SYNTHESIZERS[name]())
    assert (loss(x, labels) == usual(x, labels)) == (name in ("none", "ee0"))
    (slope,) = torch.autograd.grad(loss(x, labels), x, create_graph=True)
    along = torch.tensor(rows(3, len(MIXED)))
    with torch.no_grad():
        ahead, back = (loss(x + step * along, labels) for step in (1e-6, -1e-6))
    # Differences of 1e-6 of values around 5 carry 1e-9 of rounding.
    torch.testing.assert_close((slope * along).sum(), (ahead - back) / 2e-6, atol=1e-7, rtol=1e-6)
    (again,) = torch.autograd.grad(slope.square().sum(), x)
    assert again.isfinite().all()
    assert again.norm() > 0


@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_real_until_apart_without_compiled_functions(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pure PyTorch has the same value and slope, up to rounding of float32."""
    x = torch.tensor(half_apart(MIXED), dtype=torch.float32, requires_grad=True)
    loss = HPHNTripletLoss(synthesizer=SYNTHESIZERS[name](), real_until_apart=True)

    def found() -> tuple[Tensor, Tensor]:
        value = loss(x, torch.tensor(MIXED))
        return value, torch.autograd.grad(value, x)[0]

    compiled = found()
    monkeypatch.setattr(seam, "kernels", lambda: None)
    torch.testing.assert_close(found(), compiled)


# --- a batch in one point ----------------------------------------------------------------------


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_the_share_of_anchors_in_one_point(name: str, soft: bool, power: int) -> None:
    """Both distances below 0.1: none of a healthy batch, all of a collapsed one, or a half."""
    labels = torch.arange(6).repeat_interleave(2)
    healthy = torch.eye(12, dtype=torch.float64)[labels * 2]  # classes apart, positives together
    spread = torch.eye(12, dtype=torch.float64)  # positives apart too
    point = torch.ones(12, 12, dtype=torch.float64) + 0.01 * torch.randn(12, 12)
    half = torch.where(labels.unsqueeze(1) < 3, point * torch.eye(12)[0], spread)
    for rows, share in ((healthy, 0), (spread, 0), (point, 1), (half, 0.5)):
        loss = HPHNTripletLoss(
            soft_margin=soft,
            distance=LpDistance(power=power),
            synthesizer=SYNTHESIZERS[name](),
            collect_stats=True,
        )
        value = loss(rows, labels)
        assert loss.collapsed_share == share
        if share == 1:
            assert abs(value - (np.log(2) if soft else 0.2)) < (0.05 if soft else 0.1)
        loss(rows, labels * 0)
        assert loss.collapsed_share == 0


def test_the_share_of_a_miners_tuples_in_one_point() -> None:
    """The same of a miner, whether it mines, or serves a loss of the host."""
    labels = torch.arange(6).repeat_interleave(2)
    spread = torch.eye(12)
    half = torch.where(labels.unsqueeze(1) < 3, spread[0], spread)
    miner = LoOpMiner(collect_stats=True)
    for x, share in ((spread, 0), (torch.ones(12, 12), 1), (half, 0.5)):
        for use in (miner, miner.synthesize, SyntheticLoss(losses.NTXentLoss(), miner)):
            use(x, labels)
            assert miner.collapsed_share == share


# --- Embedding Expansion tends to LoOp ---------------------------------------------------------


def negative_distance(x: np.ndarray, labels: np.ndarray, **options: object) -> np.ndarray:
    """d_an of each anchor, read from an always active hard margin."""
    loss = HPHNTripletLoss(100.0, **options)
    out = unreduced(loss, torch.tensor(x), torch.tensor(labels))["loss"]
    assert out["indices"].tolist() == list(range(len(x)))
    distance = options.get("distance") or LpDistance()
    seen = papers.unit(x) if properties_of(distance).normalizes else x
    same = labels[:, None] == labels
    positive = np.where(same, papers.pair_distances(seen, seen), 0).max(1)
    return positive + 100.0 - out["losses"].numpy(force=True)


@given(seed=seeds, normalized=st.booleans(), d=st.sampled_from([2, 3, 6]))
def test_embedding_expansion_falls_to_loop(seed: int, normalized: bool, d: int) -> None:
    """d_an falls with nested points, never below LoOp, and by the spacing of the points at most."""
    labels = np.repeat([0, 1, 2], 3)
    x = rows(seed, len(labels), d)
    distance = LpDistance(normalize_embeddings=normalized)
    limit = negative_distance(x, labels, distance=distance, synthesizer=LoOpMiner())
    seen = papers.unit(x) if normalized else x
    previous = np.full(len(x), np.inf)
    for n in (0, 1, 3, 7, 15):  # n + 1 doubles: every set of points holds the one before
        synthesizer = EmbeddingExpansion(n, normalize=normalized)
        now = negative_distance(x, labels, distance=distance, synthesizer=synthesizer)
        assert (now <= previous + 1e-12).all()  # rounding of distances below 10
        assert (now >= limit - 1e-12).all()
        previous = now
    steps = []
    for p, q in papers.positive_pairs(labels):
        steps += [np.diff(papers.sampled(seen[p], seen[q], 15, normalized), axis=0)]
    # Every point of a curve is within one step of a sample, on both curves. An anchor owns no
    # sample at the far end of its curves, but the last inner point is one step from it.
    assert (previous <= limit + 2 * np.linalg.norm(steps, axis=-1).max() + 1e-12).all()


def test_many_points_reach_loop() -> None:
    """What is left above LoOp shrinks with the spacing of the points."""
    labels = np.repeat([0, 1, 2], 2)
    x = rows(11, len(labels))
    limit = negative_distance(x, labels, synthesizer=LoOpMiner())
    gaps = [
        (negative_distance(x, labels, synthesizer=EmbeddingExpansion(n)) - limit).max()
        for n in (1, 15, 255)
    ]
    assert gaps[0] > gaps[1] > gaps[2] > -1e-12
    # The far end of a curve is one step, up to 2/256 of a sphere's width, from an own point.
    assert gaps[2] < 0.01


# --- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_gradient_is_the_slope_of_the_loss(
    name: str, normalized: bool, soft: bool, power: int
) -> None:
    """Autograd equals finite differences of the loss value where the minimisers are unique."""
    # A margin no element can miss: a kink of the hinge has no slope.
    loss = HPHNTripletLoss(
        50.0,
        soft_margin=soft,
        distance=LpDistance(normalize_embeddings=normalized, power=power),
        synthesizer=SYNTHESIZERS[name](),
    )
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])
    x = torch.tensor(rows(17, len(labels)), requires_grad=True)
    # Differences of 1e-6 of values around 50 carry 1e-8 of rounding.
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), x, eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_gradient_is_the_slope_of_the_oracle(name: str) -> None:
    """Autograd equals finite differences of the brute-force loss, which knows no envelope."""
    labels = np.array([0, 0, 1, 1, 1, 2])
    x = rows(23, len(labels))
    kind = {"none": None, "ee0": "ee", "ee2": "ee", "loop": "loop"}[name]

    def oracle(x: np.ndarray) -> float:
        hardest = papers.hphn_contract(papers.unit(x), labels, kind, n=int(name == "ee2") * 2)
        return float(np.mean(list(expected(hardest, soft=True).values())))

    embeddings = torch.tensor(x, requires_grad=True)
    loss = HPHNTripletLoss(soft_margin=True, synthesizer=SYNTHESIZERS[name]())
    loss(embeddings, torch.tensor(labels)).backward()
    slope = np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[at] = 1e-5
        slope[at] = (oracle(x + step) - oracle(x - step)) / 2e-5
    # Central differences with 1e-5: 1e-10 of truncation, 1e-10 of the oracle's rounding.
    np.testing.assert_allclose(embeddings.grad.numpy(force=True), slope, atol=1e-8)


# --- PML's conventions -------------------------------------------------------------------------


def test_mean_over_all_anchors_is_the_default() -> None:
    """Zeros count: the mean is over anchors, not over active ones."""
    x = rows(0, len(MIXED))
    x[4] = x[0] + 0.01  # a class so tight that the hinge lets it go
    elements = per_anchor(x, MIXED)
    assert 0 < np.count_nonzero(list(elements.values())) < len(elements)
    loss = HPHNTripletLoss(MARGIN)
    assert isinstance(loss, losses.BaseMetricLossFunction)
    assert type(loss.reducer) is MeanReducer
    value = loss(torch.tensor(x), torch.tensor(MIXED))
    assert value.item() == pytest.approx(np.mean(list(elements.values())), rel=1e-12)


def test_default_options() -> None:
    """margin=0.2, a hard hinge, no synthesizer, and PML's normalised distance."""
    parameters = inspect.signature(HPHNTripletLoss).parameters
    defaults = {name: parameters[name].default for name in ("margin", "soft_margin", "synthesizer")}
    assert defaults == {"margin": 0.2, "soft_margin": False, "synthesizer": None}
    x = rows(0, len(MIXED))
    elements = papers.hphn_contract(papers.unit(x), MIXED, None).values()
    wanted = np.mean([max(d.positive - d.negative + 0.2, 0) for d in elements])
    value = HPHNTripletLoss()(torch.tensor(x), torch.tensor(MIXED))
    assert value.item() == pytest.approx(wanted, rel=1e-9)


def test_embedding_regularizer_is_added_once() -> None:
    """Base options reach PML: the regulariser sees the batch's rows and nothing synthetic."""
    x, labels = torch.tensor(rows(0, len(MIXED))), torch.tensor(MIXED)
    options = {"synthesizer": EmbeddingExpansion(2)}
    regularized = HPHNTripletLoss(
        **options, embedding_regularizer=LpRegularizer(), embedding_reg_weight=0.5
    )
    plain = HPHNTripletLoss(**options)(x, labels)
    added = regularized(x, labels) - plain
    torch.testing.assert_close(added, 0.5 * x.norm(dim=1).mean())


@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_given_indices_are_ignored(name: str) -> None:
    """The loss mines for itself: a tuple, as efficient DDP injects, changes nothing."""
    x, labels = torch.tensor(rows(0, len(MIXED))), torch.tensor(MIXED)
    loss = HPHNTripletLoss(synthesizer=SYNTHESIZERS[name]())
    for length in (3, 4):
        indices = tuple(torch.tensor([i]) for i in range(length))
        assert torch.equal(loss(x, labels, indices), loss(x, labels))


@pytest.mark.parametrize("name", SYNTHESIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_the_dtype(dtype: torch.dtype, name: str) -> None:
    """float32 stays float32 and gives the float64 value to single precision; int32 labels do."""
    x = torch.tensor(rows(0, len(MIXED)))
    loss = HPHNTripletLoss(synthesizer=SYNTHESIZERS[name]())
    value = loss(x.to(dtype), torch.tensor(MIXED, dtype=torch.int32))
    assert value.dtype == dtype
    # Distances around 1 of float32 rows: a few roundings of 6e-8 each.
    torch.testing.assert_close(value.double(), loss(x, torch.tensor(MIXED)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("labels", [[0, 1, 2], [5, 5, 5], [4], [1, 1]], ids=str)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_no_anchor_gives_a_zero_that_backpropagates(
    name: str, soft: bool, labels: list[int]
) -> None:
    """No positive or no negative: loss 0 and a zero gradient, never NaN."""
    x = torch.tensor(rows(0, len(labels)), requires_grad=True)
    loss = HPHNTripletLoss(soft_margin=soft, synthesizer=SYNTHESIZERS[name]())
    value = loss(x, torch.tensor(labels))
    value.backward()
    assert value.item() == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


def degenerate(case: str) -> Tensor:
    """Rows of classes 0, 0, 1, 1, 2 that touch the edges of the formulas."""
    x = torch.tensor(rows(2, 5))
    if case == "coincident positives":
        x[1] = x[0]
    elif case == "coincident classes":
        x[2] = x[0]
    elif case == "antipodal positives":
        x[1] = -x[0]
    elif case == "all equal":
        x[:] = x[0]
    elif case == "zero row":
        x[0] = 0
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "case",
    ["coincident positives", "coincident classes", "antipodal positives", "all equal", "zero row"],
)
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_degenerate_rows_give_finite_values(
    name: str, normalized: bool, case: str, dtype: torch.dtype
) -> None:
    """Coincident, antipodal and zero rows: a finite loss with a finite gradient."""
    x = degenerate(case).to(dtype).requires_grad_()
    loss = HPHNTripletLoss(
        5.0,
        distance=LpDistance(normalize_embeddings=normalized),
        synthesizer=SYNTHESIZERS[name](),
    )
    value = loss(x, torch.tensor([0, 0, 1, 1, 2]))
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()


def test_coincident_positives_are_a_point() -> None:
    """A curve of length zero is measured from its point, not dropped."""
    x = rows(2, 5)
    x[1] = x[0]
    labels = np.array([0, 0, 1, 1, 2])
    actual = per_anchor(x, labels, synthesizer=LoOpMiner())
    x[0] += 1e-9  # the oracle at a curve too short to matter
    hardest = papers.hphn_contract(papers.unit(x), labels, "loop")
    wanted = expected(hardest)
    for anchor, value in actual.items():
        assert value == pytest.approx(wanted[anchor], abs=1e-7)


@pytest.mark.parametrize("name", SYNTHESIZERS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [(CosineSimilarity, {}), (DotProductSimilarity, {}), (SNRDistance, {}), (LpDistance, {"p": 1})],
)
def test_other_distances_are_rejected(kind: Any, options: dict[str, int], name: str) -> None:
    """The formulas are Euclidean: anything else is refused by name when it is built."""
    if not in_double(kind):
        pytest.skip(f"the double has the name of {kind.__name__} alone")
    with pytest.raises((ValueError, TypeError), match=kind.__name__):
        HPHNTripletLoss(distance=kind(**options), synthesizer=SYNTHESIZERS[name]())
