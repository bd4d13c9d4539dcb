"""Every PML loss on synthetic negatives equals the same loss on a matrix with entries overwritten.

The claim tested: any supported PML loss sees the distance of two curves at (a, n), and its gradient
reaches the real embeddings as if that distance stood in the matrix itself. So it is in a
SyntheticLoss, which hands over such a matrix, and with the rows of a SyntheticBatch. The oracle
lets PML compute its own matrix of real rows, writes the curve distances (chosen by brute force over
all other-class pairs) into new columns, one for each, and runs the loss of PML on it.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import (
    BaseDistance,
    CosineSimilarity,
    DotProductSimilarity,
    LpDistance,
)
from pytorch_metric_learning.reducers import MeanReducer, SumReducer
from pytorch_metric_learning.regularizers import LpRegularizer
from torch import Tensor

from loopml import (
    EmbeddingExpansion,
    LoOpMiner,
    SyntheticBatch,
    SyntheticLoss,
)
from loopml.geometry import arc_distance, segment_distance
from loopml.host import properties_of
from tests.oracles import papers
from tests.oracles.hosts import IS_3, in_double

Loss = losses.BaseMetricLossFunction

# Both sides are float64 sums of some dozens of terms; the transplant itself costs a few roundings.
TOL = {"rtol": 1e-9, "atol": 1e-9}

# Uneven classes in any order; the last two are singletons.
LABELS = torch.tensor([3, 1, 1, 0, 3, 1, 0, 7, 9])

DISTANCES: dict[str, Callable[[], BaseDistance]] = {
    "l2": LpDistance,
    "l2 squared": lambda: LpDistance(power=2),
    "raw l2": lambda: LpDistance(normalize_embeddings=False),
    "raw l2 squared": lambda: LpDistance(normalize_embeddings=False, power=2),
    "cosine": CosineSimilarity,
    "dot": lambda: DotProductSimilarity(normalize_embeddings=True),
    "raw dot": lambda: DotProductSimilarity(normalize_embeddings=False),
    "cosine cubed": lambda: CosineSimilarity(power=3),
    "raw dot squared": lambda: DotProductSimilarity(normalize_embeddings=False, power=2),
}


def is_similarity(distance: BaseDistance) -> bool:
    """Whether near is large."""
    return not isinstance(distance, LpDistance)


# Margins are such that the tuples are active: an inactive one would hide a wrong gradient.
SUPPORTED: dict[str, Callable[[BaseDistance], Loss]] = {
    "TripletMarginLoss": lambda d: losses.TripletMarginLoss(margin=20, distance=d),
    "MarginLoss": lambda d: losses.MarginLoss(margin=20, beta=0.5, distance=d).double(),
    "NTXentLoss": lambda d: losses.NTXentLoss(temperature=0.9, distance=d),
    "SupConLoss": lambda d: losses.SupConLoss(temperature=0.9, distance=d),
    "CircleLoss": lambda d: losses.CircleLoss(gamma=2, distance=d),
    "TupletMarginLoss": lambda d: losses.TupletMarginLoss(scale=3, distance=d),
    "LiftedStructureLoss": lambda d: losses.LiftedStructureLoss(
        neg_margin=-20 if is_similarity(d) else 20, distance=d
    ),
    "GeneralizedLiftedStructureLoss": lambda d: losses.GeneralizedLiftedStructureLoss(
        neg_margin=-20 if is_similarity(d) else 20, distance=d
    ),
    "MultiSimilarityLoss": lambda d: losses.MultiSimilarityLoss(beta=3, distance=d),
    "ContrastiveLoss": lambda d: losses.ContrastiveLoss(
        pos_margin=20 if is_similarity(d) else 0,
        neg_margin=-20 if is_similarity(d) else 20,
        distance=d,
    ),
    "DynamicSoftMarginLoss": lambda d: losses.DynamicSoftMarginLoss(distance=d),
    "IntraPairVarianceLoss": lambda d: losses.IntraPairVarianceLoss(distance=d),
}
SUPPORTED = {name: build for name, build in SUPPORTED.items() if in_double(build, LpDistance())}
WITH_REFERENCES = [name for name in SUPPORTED if not (IS_3 and name == "LiftedStructureLoss")]
ONLY = {
    "CircleLoss": ["cosine"],
    "TupletMarginLoss": ["cosine"],
    "DynamicSoftMarginLoss": ["l2"],
}


@dataclass(frozen=True)
class Setting:
    """A synthesizer to build, and what the oracle must know of it."""

    kind: str
    n: int = 0
    normalize: bool = True
    num_negatives: int | None = 1
    geometry: str = "auto"

    def build(self, distance: BaseDistance | None = None) -> LoOpMiner | EmbeddingExpansion:
        """The synthesizer; an expansion has no distance of its own."""
        if self.kind == "loop":
            options = {"num_negatives": self.num_negatives, "geometry": self.geometry}
            return LoOpMiner(distance=distance, **options)
        return EmbeddingExpansion(
            self.n, normalize=self.normalize, num_negatives=self.num_negatives
        )

    def arcs(self, normalizes: bool) -> bool:
        """Whether a miner joins points by arcs."""
        return normalizes if self.geometry == "auto" else self.geometry == "arc"


SETTINGS: dict[str, Setting] = {
    "loop": Setting("loop"),
    "loop of 3": Setting("loop", num_negatives=3),
    "loop of all": Setting("loop", num_negatives=None),
    "ee1": Setting("ee", 1),
    "ee2 raw": Setting("ee", 2, normalize=False),
    "ee2 of 3": Setting("ee", 2, num_negatives=3),
}


class Choice(NamedTuple):
    """One synthetic negative: its ordered positive pair and the curve it comes from."""

    anchor: int
    positive: int
    first: int
    second: int


def batch(seed: int = 0, labels: Tensor = LABELS, d: int = 4) -> Tensor:
    rows = np.random.default_rng(seed).normal(size=(len(labels), d))
    return torch.tensor(rows, requires_grad=True)


References = tuple[Tensor, Tensor]


def choose(
    x: Tensor,
    labels: Tensor,
    setting: Setting,
    distance: BaseDistance,
    references: References | None = None,
) -> list[Choice]:
    """The nearest curves of other classes for each ordered positive pair, by brute force.

    With references, none of which is a row of the batch, their rows count from len(x) on.
    """
    rows, ref_labels = x, None
    if references is not None:
        rows, ref_labels = torch.cat([x, references[0]]), tuple(references[1].tolist())
    rows = tuple(map(tuple, rows.tolist()))
    return list(_choose(rows, tuple(labels.tolist()), ref_labels, setting, *see(distance)))


def see(distance: BaseDistance) -> tuple[bool, bool]:
    return properties_of(distance).normalizes, is_similarity(distance)


@cache  # the same batch serves many losses
def _choose(
    rows: tuple,
    labels: tuple,
    ref_labels: tuple | None,
    setting: Setting,
    normalizes: bool,
    inverted: bool,
) -> tuple[Choice, ...]:
    x, labels = np.array(rows), np.array(labels)
    arcs = setting.arcs(normalizes)
    x = papers.unit(x) if normalizes or arcs else x
    if ref_labels is None:
        pairs, others = papers.ordered_pairs(labels), papers.curves(labels)
    else:
        n, refs = len(labels), np.array(ref_labels)
        pairs = [(a, p + n) for a, p in papers.ordered_pairs(labels, ref_labels=refs)]
        others = [(i + n, j + n) for i, j in papers.curves(refs)]
        labels = np.concatenate([labels, refs])
    if setting.kind == "loop":
        near, _ = papers.curve_distances(x, pairs, x, others, "arc" if arcs else "segment")
    n, unit = setting.n, setting.normalize or normalizes
    chosen = []
    for k, pair in enumerate(pairs):
        scored = []
        for m, other in enumerate(others):
            if labels[other[0]] == labels[pair[0]]:
                continue
            choice = Choice(*pair, *other)
            if inverted and not normalizes:
                ours, theirs = (
                    papers.sampled(*x[list(choice[i : i + 2])], n, unit) for i in (0, 2)
                )
                score = -(ours @ theirs.T).max()
            elif setting.kind == "loop":
                score = near[k, m]
            else:
                score = papers.sampled_distance(*x[list(choice)], n, unit)
            scored.append((score, choice))
        # Well separated: near 0 PML's cdist would be the inaccurate side of the comparison.
        assert min(scored)[0] > 0.02 or inverted
        chosen += [choice for _, choice in sorted(scored)[: setting.num_negatives]]
    return tuple(chosen)


def samples(x0: Tensor, x1: Tensor, n: int, normalize: bool) -> Tensor:
    """Both ends and the n inner points: (triplets, n + 2, d)."""
    inner = [((n + 1 - k) * x0 + k * x1) / (n + 1) for k in range(1, n + 1)]
    if normalize:
        inner = [z / z.norm(dim=1, keepdim=True) for z in inner]
    return torch.stack([x0, *inner, x1], dim=1)


def curve_values(
    x: Tensor, choices: list[Choice], setting: Setting, distance: BaseDistance
) -> Tensor:
    """Differentiable matrix entries: what the distance object would say of the two curves."""
    normalizes, inverted = see(distance)
    arcs = setting.arcs(normalizes)
    x = torch.nn.functional.normalize(x) if normalizes or arcs else x
    a, p, q0, q1 = (x[list(index)] for index in zip(*choices, strict=True))
    # LoOp has n = 0: between straight segments the largest product is at a corner
    ours = samples(a, p, setting.n, setting.normalize or normalizes)
    theirs = samples(q0, q1, setting.n, setting.normalize or normalizes)
    power = properties_of(distance).power
    if inverted and not normalizes:
        return (ours @ theirs.mT).flatten(1).max(dim=1).values ** power
    if setting.kind == "loop":
        d = (arc_distance if arcs else segment_distance)(a, p, q0, q1)
    else:
        d = (ours[:, :, None] - theirs[:, None]).norm(dim=-1).flatten(1).min(dim=1).values
    return (1 - d**2 / 2 if inverted else d) ** power


def overwritten(
    loss: Loss,
    x: Tensor,
    labels: Tensor,
    choices: list[Choice],
    values: Tensor,
    references: References | None = None,
) -> Tensor:
    """PML's loss on PML's matrix of real rows with `values` written at (anchor, new column).

    Without references the positive has a row of the matrix as well: there it is the same distance.
    """
    n = len(x)
    anchors, positives = (torch.tensor([c[i] for c in choices]) for i in (0, 1))
    real = loss.distance(x, x if references is None else references[0])
    columns = real.shape[1] + torch.arange(len(choices))
    matrix = torch.cat([real, torch.zeros(n, len(choices), dtype=x.dtype)], dim=1)
    matrix = matrix.index_put((anchors, columns), values)
    if references is None:
        matrix = matrix.index_put((positives, columns), values)
    else:
        positives = positives - n
    loss.distance.forward = lambda query, ref=None: matrix
    return loss(x, labels, (anchors, positives, columns), *(references or ()))


def assert_equals_overwriting(
    value: Callable[[Tensor], Tensor],
    loss: Loss,
    setting: Setting,
    x: Tensor,
    labels: Tensor = LABELS,
    references: References | None = None,
) -> Loss:
    """Value and total gradient of `value` are those of the overwritten matrix.

    It returns the loss that read it.
    """
    choices = choose(x, labels, setting, loss.distance, references)
    points = x if references is None else torch.cat([x, references[0]])
    values = curve_values(points, choices, setting, loss.distance)
    reader = copy.deepcopy(loss)
    wanted = overwritten(reader, x, labels, choices, values, references)
    (pull,) = torch.autograd.grad(wanted, values, retain_graph=True)
    assert pull.abs().max() > 1e-6  # else the test would say nothing about the synthetics
    leaves = [x] if references is None else [x, references[0]]
    wanted_gradients = torch.autograd.grad(wanted, leaves)
    actual = value(x)
    torch.testing.assert_close(actual, wanted, **TOL)
    torch.testing.assert_close(torch.autograd.grad(actual, leaves), wanted_gradients, **TOL)
    return reader


def maker(setting: Setting, distance: BaseDistance) -> Callable[..., SyntheticBatch]:
    """What turns a batch into a SyntheticBatch."""
    synthesizer = setting.build(distance)
    return synthesizer.synthesize if isinstance(synthesizer, LoOpMiner) else synthesizer


def standalone(setting: str, distance: str) -> bool:
    """On its own an expansion normalises, as PML's default distance does."""
    return SETTINGS[setting].kind == "loop" or not distance.startswith("raw")


CASES = [(name, distance) for name in SUPPORTED for distance in ONLY.get(name, list(DISTANCES))]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("name", "distance"), CASES)
def test_wrapped_loss_equals_overwriting_the_matrix(name: str, distance: str, setting: str) -> None:
    """SyntheticLoss gives the value and gradient of a matrix holding the curve distances."""
    loss = SUPPORTED[name](DISTANCES[distance]())
    wrapped = SyntheticLoss(copy.deepcopy(loss), SETTINGS[setting].build())
    assert_equals_overwriting(lambda x: wrapped(x, LABELS), loss, SETTINGS[setting], batch())


def assert_references_equal_overwriting(
    wrapped: SyntheticLoss, loss: torch.nn.Module, setting: str, labels: Tensor
) -> None:
    """The same against references, for a batch of these labels."""
    references = batch(2), LABELS
    assert_equals_overwriting(
        lambda x: wrapped(x, labels, None, *references),
        loss,
        SETTINGS[setting],
        batch(1, labels),
        labels,
        references,
    )


REF_CASES = [(name, distance) for name, distance in CASES if name in WITH_REFERENCES]


@pytest.mark.parametrize("setting", ["loop of 3", "ee2 raw"])
@pytest.mark.parametrize(("name", "distance"), REF_CASES)
def test_references_equal_overwriting_the_matrix(name: str, distance: str, setting: str) -> None:
    """So it does against references, of which uneven classes and one has no row in the batch."""
    loss = SUPPORTED[name](DISTANCES[distance]())
    wrapped = SyntheticLoss(copy.deepcopy(loss), SETTINGS[setting].build())
    assert_references_equal_overwriting(wrapped, loss, setting, torch.tensor([1, 3, 0, 1, 8]))


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("setting", ["loop", "loop of all", "ee2 of 3"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_swap_equals_overwriting_the_matrix(distance: str, setting: str, smooth: bool) -> None:
    """The positive is on the curve whose distance it is, and as far from the negative."""
    loss = losses.TripletMarginLoss(
        20, swap=True, smooth_loss=smooth, distance=DISTANCES[distance]()
    )
    wrapped = SyntheticLoss(copy.deepcopy(loss), SETTINGS[setting].build())
    x = batch()
    assert_equals_overwriting(lambda x: wrapped(x, LABELS), loss, SETTINGS[setting], x)
    assert wrapped.loss.swap
    # References have no row of the matrix, and the distance is that of the curve just the same.
    loss.swap = False
    assert_references_equal_overwriting(wrapped, loss, setting, LABELS[:5])


@pytest.mark.parametrize(
    ("name", "distance", "setting"),
    [
        (name, distance, setting)
        for name, distance in REF_CASES
        for setting in SETTINGS
        if standalone(setting, distance) and not distance.endswith("dot squared")
    ],
)
def test_batch_into_the_loss_equals_overwriting_the_matrix(
    name: str, distance: str, setting: str
) -> None:
    """loss(*synthesizer(emb, labels)) does too, the synthesizer seeing what the loss sees."""
    loss = SUPPORTED[name](DISTANCES[distance]())
    make = maker(SETTINGS[setting], DISTANCES[distance]())
    direct = copy.deepcopy(loss)
    assert_equals_overwriting(lambda x: direct(*make(x, LABELS)), loss, SETTINGS[setting], batch())


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [2, 2, 2, 5, 5, 5], [1, 1, 4]], ids=str)
@pytest.mark.parametrize("d", [2, 16])
@pytest.mark.parametrize("setting", ["loop", "ee1"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_other_batches(distance: str, setting: str, d: int, labels: list[int]) -> None:
    """Tied curves that share an endpoint, singletons, planes and more dimensions than rows."""
    loss = SUPPORTED["TripletMarginLoss"](DISTANCES[distance]())
    labels = torch.tensor(labels)
    x = batch(3, labels, d)
    if d == 2:  # random curves of a plane cross: give each class a sector of its own
        angle = 2 * labels.unique(return_inverse=True)[1] + torch.tanh(x[:, 0])
        length = 1 + x[:, 1].abs()
        x = torch.stack([length * angle.cos(), length * angle.sin()], dim=1)
        x = x.detach().requires_grad_()
    wrapped = SyntheticLoss(copy.deepcopy(loss), SETTINGS[setting].build())
    assert_equals_overwriting(lambda x: wrapped(x, labels), loss, SETTINGS[setting], x, labels)


@pytest.mark.parametrize("num_negatives", [1, None])
@pytest.mark.parametrize(
    ("geometry", "distance"),
    [
        ("segment", "l2"),
        ("segment", "l2 squared"),
        ("segment", "cosine"),
        ("segment", "cosine cubed"),
        ("arc", "raw l2"),
        ("arc", "raw l2 squared"),
    ],
)
def test_forced_geometry(geometry: str, distance: str, num_negatives: int | None) -> None:
    """Chords between unit vectors, arcs between directions: the distance is theirs."""
    setting = Setting("loop", num_negatives=num_negatives, geometry=geometry)
    loss = SUPPORTED["TripletMarginLoss"](DISTANCES[distance]())
    wrapped = SyntheticLoss(copy.deepcopy(loss), setting.build())
    assert_equals_overwriting(lambda x: wrapped(x, LABELS), loss, setting, batch())


def test_the_wrapped_loss_decides_what_is_seen() -> None:
    """Inside a loss the miner's own distance is not used."""
    loss = SUPPORTED["TripletMarginLoss"](LpDistance(normalize_embeddings=False))
    wrapped = SyntheticLoss(copy.deepcopy(loss), LoOpMiner(distance=CosineSimilarity()))
    assert_equals_overwriting(lambda x: wrapped(x, LABELS), loss, SETTINGS["loop"], batch())


# --- the batch ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distance", "setting"),
    [
        (distance, setting)
        for distance in ("l2", "cosine", "raw l2", "raw dot")
        for setting in SETTINGS
        if standalone(setting, distance)
    ],
)
def test_layout_of_the_batch(distance: str, setting: str) -> None:
    """Queries are the real rows, references real then synthetic, triplets every ordered pair."""
    setting, seen = SETTINGS[setting], DISTANCES[distance]()
    x = batch()
    out = maker(setting, seen)(x, LABELS)
    assert isinstance(out, SyntheticBatch)
    assert out._fields == ("embeddings", "labels", "indices_tuple", "ref_emb", "ref_labels")
    choices = choose(x, LABELS, setting, seen)
    n, a, p, k = len(x), *out.indices_tuple
    assert torch.equal(out.embeddings, x)
    assert torch.equal(out.labels, LABELS)
    assert torch.equal(out.ref_emb[:n], x)
    assert torch.equal(out.ref_labels[:n], LABELS)
    assert len(out.ref_emb) == len(out.ref_labels) == n + len(choices)
    assert sorted(k.tolist()) == list(range(n, n + len(choices)))  # one column per triplet
    assert sorted(zip(a.tolist(), p.tolist(), strict=True)) == [choice[:2] for choice in choices]
    assert all(index.dtype == torch.int64 for index in out.indices_tuple)
    assert out.ref_emb.dtype == x.dtype
    assert out.ref_labels.dtype == LABELS.dtype
    if properties_of(seen).normalizes:
        lengths = out.ref_emb[n:].norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=1e-12)
    # Per ordered pair the same values, and the label of the class each comes from.
    ours, labels = seen(x, out.ref_emb)[a, k].tolist(), out.ref_labels[k].tolist()
    theirs = curve_values(x, choices, setting, seen).tolist()
    actual = sorted(zip(a.tolist(), p.tolist(), np.round(ours, 9), labels, strict=True))
    wanted = [
        (c.anchor, c.positive, round(v, 9), LABELS[c.first].item())
        for c, v in zip(choices, theirs, strict=True)
    ]
    for row, other in zip(actual, sorted(wanted), strict=True):
        assert row[:2] == other[:2]
        assert row[2] == pytest.approx(other[2], abs=1e-8)
        assert row[3] == other[3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_keeps_the_dtype(dtype: torch.dtype) -> None:
    """float32 in, float32 out, with distances right to single precision."""
    x = batch()
    for make in (LoOpMiner().synthesize, EmbeddingExpansion(2)):
        (a, p, k), exact = make(x, LABELS)[2:4]
        out = make(x.detach().to(dtype), LABELS)
        assert out.ref_emb.dtype == dtype
        assert all(map(torch.equal, out.indices_tuple, (a, p, k)))
        # Unit vectors: some roundings of 6e-8 in each component.
        torch.testing.assert_close(out.ref_emb[k].double(), exact[k], rtol=0, atol=5e-6)


def test_the_negative_turns_with_its_positive() -> None:
    """On the sphere it is carried by the rotation from z_p to the anchor, in the plane moved."""
    labels = torch.tensor([0, 0, 1])
    x = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=torch.float64)
    a, _, k = (out := LoOpMiner().synthesize(x, labels)).indices_tuple
    # z_p is halfway between the rows 0 and 1, an eighth of a turn from both
    wanted = torch.tensor([[2**0.5, 0, 1], [0, 2**0.5, 1]], dtype=torch.float64) / 3**0.5
    torch.testing.assert_close(out.ref_emb[k], wanted[a], **TOL)
    plane = LoOpMiner(distance=LpDistance(normalize_embeddings=False))
    a, _, k = (out := plane.synthesize(x, labels)).indices_tuple
    # from (1/2, 1/2, 0) to (1, 1, 1)
    torch.testing.assert_close(out.ref_emb[k], x[a] + torch.tensor([0.5, 0.5, 1]).double(), **TOL)


def test_a_negative_straight_below_its_anchor() -> None:
    """A chord seen from a coincident pair right above its middle: any direction will do."""
    x = torch.tensor([[1.0, 0], [1, 0], [0.8, 0.6], [0.8, -0.6]], requires_grad=True)
    out = LoOpMiner(geometry="segment").synthesize(x, torch.tensor([0, 0, 1, 1]))
    a, _, k = out.indices_tuple
    d = LpDistance()(x, out.ref_emb)[a, k]
    d.sum().backward()
    torch.testing.assert_close(d, torch.full_like(d, 0.2), rtol=0, atol=1e-6)  # float32
    assert x.grad.isfinite().all()


def test_reference_set() -> None:
    """With ref_emb, positives and negatives are its rows and the synthetic rows follow them."""
    x, ref = batch(1)[:5].detach(), batch(2).detach()
    labels, ref_labels = torch.tensor([1, 3, 0, 1, 8]), LABELS
    out = LoOpMiner().synthesize(x, labels, ref, ref_labels)
    a, p, k = out.indices_tuple
    assert torch.equal(out.embeddings, x)
    assert torch.equal(out.ref_emb[: len(ref)], ref)
    assert torch.equal(out.ref_labels[: len(ref)], ref_labels)
    pairs = papers.ordered_pairs(labels.numpy(force=True), ref_labels=ref_labels.numpy(force=True))
    assert sorted(zip(a.tolist(), p.tolist(), strict=True)) == pairs
    others = papers.curves(ref_labels.numpy(force=True))
    seen, seen_ref = papers.unit(x.numpy(force=True)), papers.unit(ref.numpy(force=True))
    d, _ = papers.curve_distances(seen, pairs, seen_ref, others, "arc")
    ours = LpDistance()(x, out.ref_emb)[a, k]
    for i, (anchor, positive) in enumerate(zip(a.tolist(), p.tolist(), strict=True)):
        row = d[pairs.index((anchor, positive))]
        negative = [ref_labels[q] != labels[anchor] for q, _ in others]
        assert ours[i].item() == pytest.approx(row[negative].min(), abs=1e-9)
    loss = losses.TripletMarginLoss(margin=20)
    wrapped = SyntheticLoss(loss, LoOpMiner())(x, labels, ref_emb=ref, ref_labels=ref_labels)
    torch.testing.assert_close(wrapped, loss(*out), **TOL)


@pytest.mark.parametrize("setting", ["loop", "ee1"])
@pytest.mark.parametrize("distance", ["l2", "raw l2"])
def test_gradient_reaches_the_reference(distance: str, setting: str) -> None:
    """Positives and both curves of a negative are rows of ref_emb: they are pulled as well."""
    loss = losses.TripletMarginLoss(margin=20, distance=DISTANCES[distance]())
    wrapped = SyntheticLoss(loss, SETTINGS[setting].build())
    x, ref = batch(1, LABELS[:4]), batch(2)

    def value(x: Tensor, ref: Tensor) -> Tensor:
        return wrapped(x, LABELS[:4], ref_emb=ref, ref_labels=LABELS)

    # Differences of 1e-6 of values around 20 carry 1e-8 of rounding.
    assert torch.autograd.gradcheck(value, (x, ref), eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("distance", ["l2", "raw l2", "raw dot"])
def test_shards_add_up_to_the_batch(distance: str, setting: str) -> None:
    """Distributed training: own rows against the whole batch, rank by rank, give the sum."""
    loss = losses.TripletMarginLoss(margin=20, distance=DISTANCES[distance](), reducer=SumReducer())
    wrapped = SyntheticLoss(loss, SETTINGS[setting].build())
    x = batch().detach()
    rank0 = wrapped(x[:4], LABELS[:4], ref_emb=x, ref_labels=LABELS)
    order = torch.tensor([4, 5, 6, 7, 8, 0, 1, 2, 3])  # PML puts a rank's own rows first
    rank1 = wrapped(x[4:], LABELS[4:], ref_emb=x[order], ref_labels=LABELS[order])
    torch.testing.assert_close(rank0 + rank1, wrapped(x, LABELS), **TOL)


@pytest.mark.parametrize("setting", ["loop", "ee0", "ee1"])
@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_antipodal_positive(distance: str, setting: str) -> None:
    """A positive opposite the anchor: no rotation is unique, the distance still is what it was."""
    setting = {**SETTINGS, "ee0": Setting("ee", 0)}[setting]
    x = batch().detach()
    x[4] = -x[0]  # rows 0 and 4 are the class 3
    x[7] = x[4] + 0.1 * batch(5).detach()[7]  # the nearest negative is at the far end
    x.requires_grad_()
    seen = DISTANCES[distance]()
    out = maker(setting, seen)(x, LABELS)
    a, p, k = out.indices_tuple
    value = seen(x, out.ref_emb)[a, k]
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert gradient.isfinite().all()
    at = ((a == 0) & (p == 4)).nonzero().item()
    unit = papers.unit(x.numpy(force=True))
    at_the_end = seen(torch.tensor(unit[[4]]), torch.tensor(unit[[7]])).item()
    if setting.n == 0 and setting.kind == "ee":
        assert value[at].item() == pytest.approx(at_the_end, abs=1e-9)
    else:  # at least as hard as the end, by whichever arc was taken
        assert seen.margin(value[at].item(), at_the_end) <= 1e-9


TOUCHING = {
    **DISTANCES,
    "root of raw l2": lambda: LpDistance(normalize_embeddings=False, power=0.5),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("setting", [Setting("loop"), Setting("loop", geometry="segment")], ids=str)
@pytest.mark.parametrize("distance", [name for name in TOUCHING if not name.startswith("raw dot")])
def test_curves_that_touch(distance: str, setting: Setting, dtype: torch.dtype) -> None:
    """Their distance is 0, or their similarity 1, and has no gradient."""
    seen = TOUCHING[distance]()
    # Two rows of each class; the curves cross between them, in each sense of a curve.
    x = torch.tensor([[1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1]], dtype=dtype)
    x, labels = x.requires_grad_(), torch.tensor([0, 0, 1, 1])
    loss = losses.TripletMarginLoss(margin=20, distance=seen, reducer=SumReducer())
    value = SyntheticLoss(loss, setting.build())(x, labels)
    to_positive = seen.margin(seen(x[[0, 2]], x[[1, 3]]).diagonal().repeat_interleave(2), 0)
    wanted = (to_positive + (1 if is_similarity(seen) else 0) + 20).sum()
    torch.testing.assert_close(value, wanted)
    (gradient,) = torch.autograd.grad(value, x)
    (wanted_gradient,) = torch.autograd.grad(wanted, x)
    torch.testing.assert_close(gradient, wanted_gradient)
    # In any position not even that of rounding. No positive is as near as its margin asks.
    turned = (x.detach() @ torch.linalg.qr(torch.randn(3, 3, dtype=dtype))[0]).requires_grad_()
    inactive, active = (-50, -20) if is_similarity(seen) else (50, 20)
    alone = losses.ContrastiveLoss(inactive, active, distance=seen)
    value = SyntheticLoss(alone, setting.build())(turned, labels)
    torch.testing.assert_close(value, torch.full_like(value, 21 if is_similarity(seen) else 20))
    assert not torch.autograd.grad(value, turned)[0].any()


@pytest.mark.parametrize("setting", ["loop", "ee1"])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(
    "case", ["coincident positives", "coincident classes", "all equal", "zero row"]
)
def test_degenerate_rows_give_finite_values(case: str, distance: str, setting: str) -> None:
    """Curves of length zero, touching classes, a row without direction: finite value, gradient."""
    x = batch().detach()
    if case == "all equal":
        x[:] = x[0]
    elif case == "zero row":
        x[0] = 0
    else:
        x[{"coincident positives": 4, "coincident classes": 3}[case]] = x[0]
    x.requires_grad_()
    loss = SUPPORTED["TripletMarginLoss"](DISTANCES[distance]())
    value = SyntheticLoss(loss, SETTINGS[setting].build())(x, LABELS)
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()


# --- what the inner loss is given, and what it keeps ---------------------------------------------

CLASSES_OF_MANY = torch.tensor([0] * 12 + [1] * 5 + [2] * 2 + [3])


@pytest.mark.parametrize("with_references", [False, True])
@pytest.mark.parametrize("num_negatives", [1, 3, None])
@pytest.mark.parametrize("pairing", ["auto", "all"])
def test_each_tuple_has_an_entry_of_its_own(
    pairing: str, num_negatives: int | None, with_references: bool
) -> None:
    """In the row of its anchor, in as many columns as one anchor has tuples."""
    given = []
    loss = losses.TripletMarginLoss()
    loss.register_forward_pre_hook(lambda read, batch: given.append((read.distance(), batch)))
    labels = CLASSES_OF_MANY[torch.randperm(20)]
    x, y, references = batch(labels=labels), labels, ()
    if with_references:
        x, y, references = x[:6], y[:6], (batch(1, labels), labels)
    miner = LoOpMiner(pairing=pairing, num_negatives=num_negatives)
    SyntheticLoss(loss, miner)(x, y, None, *references)
    ((matrix, (_, _, (a, p, column), *_)),) = given
    wanted = miner.synthesize(x, y, *references).indices_tuple
    pairs = sorted(zip(a.tolist(), p.tolist(), strict=True))
    assert pairs == sorted(zip(*(index.tolist() for index in wanted[:2]), strict=True))
    m = len(references[0]) if references else len(x)
    assert matrix.shape == (len(x), m + a.bincount().max())
    assert len(set(zip(a.tolist(), column.tolist(), strict=True))) == len(a)
    for row in a.unique():
        assert sorted(column[a == row].tolist()) == list(range(m, m + int((a == row).sum())))
    real = loss.distance(x, *references[:1])
    torch.testing.assert_close(matrix[:, :m], real, **TOL)


class Watching(SumReducer):
    """A reducer that runs something before it reduces."""

    def __init__(self, run: Callable[[], None]) -> None:
        super().__init__()
        self.run = run

    def __deepcopy__(self, memo: object) -> "Watching":
        return self

    def forward(self, *arguments: object) -> Tensor:
        """Run it, once."""
        self.run, run = lambda: None, self.run
        run()
        return super().forward(*arguments)


def test_the_loss_can_be_used_meanwhile() -> None:
    """As by another thread: during the call it is as it was, and reads its own distances."""
    x, found = batch(), []
    plain = losses.ContrastiveLoss(neg_margin=2, reducer=SumReducer())(x, LABELS)
    meanwhile = Watching(lambda: found.extend([{**vars(loss)}, loss.distance, loss(x, LABELS)]))
    loss = losses.ContrastiveLoss(neg_margin=2, reducer=meanwhile)
    before, distance = {**vars(loss)}, loss.distance
    value = SyntheticLoss(loss, LoOpMiner())(x, LABELS)
    assert found[:2] == [before, distance]
    assert torch.equal(found[2], plain)
    assert value != plain
    assert vars(loss) == before


def test_an_error_leaves_the_loss_as_it_was() -> None:
    def fail() -> None:
        raise ArithmeticError

    loss = losses.TripletMarginLoss(swap=True, reducer=Watching(fail))
    before, distance = {**vars(loss)}, loss.distance
    with pytest.raises(ArithmeticError):
        SyntheticLoss(loss, LoOpMiner())(batch(), LABELS)
    assert vars(loss) == before
    assert loss.distance is distance
    assert loss.distance(batch()).shape == (len(LABELS), len(LABELS))


@pytest.mark.skipif(IS_3, reason="release 3 records nothing")
def test_what_a_loss_records_is_on_it() -> None:
    """The stats of a loss, of its reducer and of its distance, as if it had been called itself."""
    loss = losses.TupletMarginLoss(
        scale=3,
        collect_stats=True,
        distance=CosineSimilarity(collect_stats=True),
        reducer=MeanReducer(collect_stats=True),
    )
    wrapped = SyntheticLoss(copy.deepcopy(loss), LoOpMiner())
    wrapped(batch(7), LABELS)  # the stats of this batch go
    reader = assert_equals_overwriting(
        lambda x: wrapped(x, LABELS), loss, SETTINGS["loop"], batch()
    )
    inner = wrapped.loss
    for name in ("avg_pos_angle", "avg_neg_angle"):
        assert getattr(inner, name) == pytest.approx(getattr(reader, name))
    assert inner.avg_neg_angle > 0
    assert inner.reducer.losses_size == reader.reducer.losses_size > 0
    norm = batch().norm(dim=1).mean().item()
    assert inner.distance.initial_avg_ref_norm == pytest.approx(norm)
    wrapped(batch(), torch.arange(len(LABELS)))
    assert inner.avg_neg_angle == 0  # no tuple, so as before the first batch


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch's own compiler
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # a graph break reads it
@pytest.mark.skipif(IS_3, reason="the double has this loss by name only")
@pytest.mark.parametrize("compiled", [False, True])
def test_what_a_loss_keeps_is_on_it(compiled: bool) -> None:
    """The histogram of the batches before, which the next batch is weighed by."""
    loss = losses.DynamicSoftMarginLoss(momentum=0.5)
    wrapped = SyntheticLoss(copy.deepcopy(loss), LoOpMiner())
    torch.compiler.reset()
    call = torch.compile(wrapped, backend="aot_eager") if compiled else wrapped
    for seed in (0, 7):
        x = batch(seed)
        loss = assert_equals_overwriting(lambda x: call(x, LABELS), loss, SETTINGS["loop"], x)
        torch.testing.assert_close(wrapped.loss.hist_, loss.hist_, **TOL)
        assert loss.hist_.sum().item() == pytest.approx(1)
        for histogram in (loss, wrapped.loss):
            histogram.hist_.detach_()
        del loss.distance.forward


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_an_inner_loss_that_is_compiled() -> None:
    """What compiled it would call the loss itself, with its own distances."""
    loss = losses.MultiSimilarityLoss(beta=3)
    wrapped = SyntheticLoss(copy.deepcopy(loss), LoOpMiner())
    torch.compiler.reset()
    wrapped.loss.compile(backend="aot_eager")
    assert_equals_overwriting(lambda x: wrapped(x, LABELS), loss, SETTINGS["loop"], batch())


@pytest.mark.skipif(not IS_3, reason="release 2 takes references there")
def test_lifted_structure_loss_takes_no_references() -> None:
    wrapped = SyntheticLoss(losses.LiftedStructureLoss(), LoOpMiner())
    with pytest.raises(ValueError, match="GeneralizedLiftedStructureLoss"):
        wrapped(batch(1), LABELS, ref_emb=batch(2), ref_labels=LABELS)


# --- PML's conventions -------------------------------------------------------------------------


def test_is_a_pml_loss_that_owns_the_inner_one() -> None:
    """DDP wrappers and optimisers see a PML loss with the inner loss's parameters."""
    loss = losses.MarginLoss(learn_beta=True, num_classes=10, beta=5, margin=0).double()
    wrapped = SyntheticLoss(loss, LoOpMiner())
    assert isinstance(wrapped, losses.BaseMetricLossFunction)
    assert [p.data_ptr() for p in wrapped.parameters()] == [loss.beta.data_ptr()]
    wrapped(batch(), LABELS).backward()
    assert loss.beta.grad[LABELS[:4]].abs().min() > 0
    assert loss.beta.grad[7] == 0  # a singleton is no anchor


def test_inner_reducer_and_regularizer_are_kept() -> None:
    """The inner loss reduces; its regulariser sees each real row once and no synthetic row."""
    x = batch()
    values = [
        SyntheticLoss(losses.TripletMarginLoss(margin=20, reducer=r), LoOpMiner())(x, LABELS)
        for r in (SumReducer(), MeanReducer())
    ]
    pairs = len(papers.ordered_pairs(LABELS.numpy(force=True)))
    torch.testing.assert_close(values[0], pairs * values[1])
    regularized = losses.TripletMarginLoss(margin=20, embedding_regularizer=LpRegularizer())
    added = SyntheticLoss(regularized, LoOpMiner())(x, LABELS) - values[1]
    torch.testing.assert_close(added, x.norm(dim=1).mean())


@pytest.mark.parametrize("setting", ["loop", "ee1"])
def test_given_indices_are_ignored(setting: str) -> None:
    """A tuple, as efficient DDP injects, changes nothing."""
    wrapped = SyntheticLoss(losses.TripletMarginLoss(), SETTINGS[setting].build())
    x = batch()
    for length in (3, 4):
        indices = tuple(torch.tensor([i]) for i in range(length))
        assert torch.equal(wrapped(x, LABELS, indices), wrapped(x, LABELS))


@pytest.mark.parametrize("labels", [[0, 1, 2], [5, 5, 5], [4]], ids=str)
@pytest.mark.parametrize("setting", ["loop", "loop of all", "ee1"])
@pytest.mark.parametrize("name", WITH_REFERENCES)
def test_no_triplet_gives_a_zero_that_backpropagates(
    name: str, setting: str, labels: list[int]
) -> None:
    """No positive or no negative: empty tuples, loss 0, zero gradient."""
    distance = DISTANCES[ONLY.get(name, ["l2"])[0]]
    labels = torch.tensor(labels)
    x = batch(labels=labels)
    out = maker(SETTINGS[setting], distance())(x, labels)
    assert [len(index) for index in out.indices_tuple] == [0, 0, 0]
    assert all(index.dtype == torch.int64 for index in out.indices_tuple)
    assert torch.equal(out.ref_emb, x)
    assert torch.equal(out.ref_labels, labels)
    loss = SUPPORTED[name](distance())
    for value in (SyntheticLoss(loss, SETTINGS[setting].build())(x, labels), loss(*out)):
        (gradient,) = torch.autograd.grad(value, x)
        assert value.item() == 0
        assert torch.equal(gradient, torch.zeros_like(x))
