"""The double of pytorch-metric-learning 3: its values are those of release 2, its contract holds.

Each variant of the double is loaded under a name of its own, beside the installed package.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
from pytorch_metric_learning import distances, losses, reducers, regularizers
from torch import Tensor, nn

HOME = Path(__file__).parent / "pml3" / "pytorch_metric_learning"
FILES = sorted(HOME.rglob("*.py"))
SENTENCE = "A double of pytorch-metric-learning 3: its documented contract only; not the library."
PARTS = ("_guesses", "_tuples", "_wrappers", "distances", "losses", "miners", "reducers")
PARTS += ("regularizers", "samplers", "types", "utils.indexing")

# Every row has a positive and a negative: where one has neither, the releases differ.
LABELS = torch.tensor([1, 0, 2, 1, 0, 1, 2, 0, 2])
REF_LABELS = torch.tensor([2, 0, 1, 1, 0, 2, 0])
# Releases add the same numbers in another order. The largest difference seen is 2e-14.
TOL = {"rtol": 1e-12, "atol": 1e-13}


def load(variant: str) -> ModuleType:
    """The double with the answers of one variant, under a name of its own."""
    name = f"pml3_double_{variant}"
    spec = importlib.util.spec_from_file_location(
        name, HOME / "__init__.py", submodule_search_locations=[str(HOME)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = sys.modules[name] = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ, LOOPML_PML3_GUESS=variant):
        spec.loader.exec_module(package)
        for part in PARTS:
            importlib.import_module(f"{name}.{part}")
    return package


DOUBLES = {variant: load(variant) for variant in ("a", "b")}


@pytest.fixture(params=DOUBLES)
def double(request: pytest.FixtureRequest) -> Any:
    return DOUBLES[request.param]


def rows(seed: int, count: int = len(LABELS)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return x.requires_grad_()


def all_pairs(ref_labels: Tensor | None) -> tuple[Tensor, ...]:
    same = LABELS[:, None] == (LABELS if ref_labels is None else ref_labels)
    positive = same & ~torch.eye(len(LABELS), dtype=torch.bool) if ref_labels is None else same
    return (*torch.where(positive), *torch.where(~same))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOME)))
def test_says_that_it_is_a_double(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert (ast.get_docstring(tree) or "").startswith(SENTENCE)
    assert "DOUBLE = True" in [ast.unparse(node) for node in tree.body]


def test_variants_answer_every_guess_differently() -> None:
    a, b = (DOUBLES[variant]._guesses for variant in ("a", "b"))
    assert (a.VARIANT, b.VARIANT) == ("a", "b")
    assert all(a.guess(name) != b.guess(name) for name in a.GUESSES)


def test_every_guess_is_used() -> None:
    source = "".join(path.read_text() for path in FILES if path.name != "_guesses.py")
    assert all(f'guess("{name}")' in source for name in DOUBLES["a"]._guesses.GUESSES)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a or b"):
        load("c")


def test_absent_on_purpose(double: Any) -> None:
    for name in ("trainers", "testers", "evaluation", "distributed", "__version__"):
        assert not hasattr(double, name)
        assert importlib.util.find_spec(f"{double.__name__}.{name}") is None
    assert not hasattr(double.reducers, "DoNothingReducer")
    assert [path.stem for path in (HOME / "utils").glob("*.py") if path.stem != "__init__"] == [
        "indexing"
    ]
    with pytest.raises(TypeError, match="collect_stats"):
        double.losses.ContrastiveLoss(collect_stats=True)


# The options go by name: of both lifted losses release 3 swaps the margins.
SAME: dict[str, tuple[str, dict[str, Any]]] = {
    "triplet": ("TripletMarginLoss", {"margin": 0.4}),
    "triplet smooth": ("TripletMarginLoss", {"margin": 0.1, "smooth_loss": True}),
    "contrastive": ("ContrastiveLoss", {"pos_margin": 0.3, "neg_margin": 1.2}),
    "ntxent": ("NTXentLoss", {"temperature": 0.5}),
    "multi-similarity": ("MultiSimilarityLoss", {"alpha": 3, "beta": 20, "base": 0.4}),
    "lifted": ("LiftedStructureLoss", {"pos_margin": 0.1, "neg_margin": 1.5}),
    "generalized lifted": (
        "GeneralizedLiftedStructureLoss",
        {"pos_margin": 0.1, "neg_margin": 1.5},
    ),
    "margin": ("MarginLoss", {"margin": 0.3, "beta": 1.1}),
    "margin learned": ("MarginLoss", {"beta": 1.1, "nu": 0.1, "learn_beta": True}),
    "margin of classes": (
        "MarginLoss",
        {"beta": 1.1, "nu": 0.1, "learn_beta": True, "num_classes": 3},
    ),
}
DISTANCES: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("", {}),
    "lp": ("LpDistance", {"normalize_embeddings": False}),
    "squared": ("LpDistance", {"power": 2}),
    "l1": ("LpDistance", {"p": 1}),
    "cosine": ("CosineSimilarity", {}),
    "dot": ("DotProductSimilarity", {"normalize_embeddings": False}),
}


def value_and_gradients(
    package: Any, name: str, distance: str, *, references: bool, given: str
) -> list[Tensor]:
    """A loss of either package on the same batch: its value and what it sends back."""
    kind, options = SAME[name]
    if DISTANCES[distance][0]:
        of, how = DISTANCES[distance]
        options = {**options, "distance": getattr(package.distances, of)(**how)}
    loss = getattr(package.losses, kind)(**options).double()
    x, ref = rows(0), rows(1, len(REF_LABELS)) if references else None
    ref_labels = REF_LABELS if references else None
    indices: Any = None
    if given != "labels":
        indices = all_pairs(ref_labels)
    if given == "triplets":
        a1, p, a2, n = indices
        i, j = torch.where(a1[:, None] == a2)
        indices = (a1[i][::2], p[i][::2], n[j][::2])
    value = loss(x, LABELS, indices, ref, ref_labels)
    leaves = [x, *([] if ref is None else [ref]), *loss.parameters()]
    return [value.reshape(()), *torch.autograd.grad(value, leaves)]


INSTALLED: Any = sys.modules["pytorch_metric_learning"]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("references", [False, True], ids=["batch", "references"])
def test_values_are_those_of_release_2(
    double: Any, name: str, distance: str, references: bool
) -> None:
    for given in ("labels", "pairs", "triplets"):
        how: dict[str, Any] = {"references": references, "given": given}
        if name == "lifted" and references:
            with pytest.raises(ValueError, match="ref_emb"):
                value_and_gradients(double, name, distance, **how)
            continue
        expected = value_and_gradients(INSTALLED, name, distance, **how)
        found = value_and_gradients(double, name, distance, **how)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, **TOL)
        assert any(gradient.abs().max() > 1e-6 for gradient in found[1:])


def test_lifted_margins_are_swapped(double: Any) -> None:
    for kind in ("LiftedStructureLoss", "GeneralizedLiftedStructureLoss"):
        new, old = getattr(double.losses, kind)(0.2, 1.3), getattr(losses, kind)(1.3, 0.2)
        torch.testing.assert_close(new(rows(0), LABELS), old(rows(0), LABELS), **TOL)


def test_defaults_that_changed(double: Any) -> None:
    x = rows(0)
    default = double.losses.TripletMarginLoss()(x, LABELS)
    assert torch.equal(default, double.losses.TripletMarginLoss(margin=0.2)(x, LABELS))
    raw = double.distances.DotProductSimilarity()(x)
    torch.testing.assert_close(raw, x @ x.T, **TOL)


def test_swap(double: Any) -> None:
    """On a batch as release 2; with references between reference rows."""
    options = {"margin": 0.4, "swap": True}
    loss = double.losses.TripletMarginLoss(**options)
    torch.testing.assert_close(
        loss(rows(0), LABELS), losses.TripletMarginLoss(**options)(rows(0), LABELS), **TOL
    )
    anchor, ref = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, -1.0], [-1.0, -0.1]])
    one = [torch.tensor([0]), torch.tensor([0]), torch.tensor([1])]
    raw = double.distances.LpDistance(normalize_embeddings=False)
    loss = double.losses.TripletMarginLoss(margin=0.4, swap=True, distance=raw)
    far = 2 - (1 + 0.9**2) ** 0.5 + 0.4
    torch.testing.assert_close(loss(anchor, None, one, ref), torch.tensor(far))


REDUCERS: dict[str, Any] = {
    "mean": lambda package: package.reducers.MeanReducer(),
    "sum": lambda package: package.reducers.SumReducer(),
    "positive": lambda package: package.reducers.AvgNonZeroReducer(),
    "threshold": lambda package: package.reducers.ThresholdReducer(low=0.1, high=0.9),
    "classes": lambda package: package.reducers.ClassWeightedReducer(torch.tensor([1.0, 2, 3])),
    "per anchor": lambda package: package.reducers.PerAnchorReducer(),
    "several": lambda package: package.reducers.MultipleReducers(
        {"pos_loss": package.reducers.SumReducer(), "neg_loss": package.reducers.MeanReducer()}
    ),
}


@pytest.mark.parametrize("reducer", REDUCERS)
def test_reducers_are_those_of_release_2(double: Any, reducer: str) -> None:
    """With a penalty, which release 3 adds after the reduction. Rows have one or two positives."""
    value, count = [], len(LABELS) - 1
    for package in (double, INSTALLED):
        options: dict[str, Any] = {"reducer": REDUCERS[reducer](package)}
        if reducer != "several":
            options["embedding_regularizer"] = package.regularizers.LpRegularizer(p=2, power=2)
            options["embedding_reg_weight"] = 0.3
        value.append(
            package.losses.ContrastiveLoss(0.4, 1.3, **options)(rows(0, count), LABELS[:count])
        )
    torch.testing.assert_close(*value, **TOL)


def test_the_comparison_is_with_release_2() -> None:
    assert not hasattr(losses.BaseMetricLossFunction, "objective_terms")
    for part in (distances, losses, reducers, regularizers):
        assert not hasattr(part, "DOUBLE")


LONE = torch.tensor([0, 0, 1, 2])


def test_anchors_without_pairs_have_no_term(double: Any) -> None:
    x = rows(0, 4)
    pairs = (torch.tensor([0]), torch.tensor([1]), torch.tensor([0, 2]), torch.tensor([2, 0]))
    terms = double.losses.MultiSimilarityLoss().loss_terms(x, indices_tuple=pairs)
    assert terms["loss"]["indices"].tolist() == [0, 2]
    terms = double.losses.GeneralizedLiftedStructureLoss().loss_terms(x, LONE)
    assert terms["loss"]["indices"].tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["NTXentLoss", "LiftedStructureLoss"])
def test_positives_without_negatives_are_zero(double: Any, kind: str) -> None:
    x = rows(0, 4)
    value = getattr(double.losses, kind)()(x, torch.zeros(4, dtype=torch.int64))
    assert value == 0
    assert torch.equal(torch.autograd.grad(value, x)[0], torch.zeros_like(x))


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in SAME.values()}))
def test_nothing_is_a_differentiable_zero(double: Any, kind: str) -> None:
    x = rows(0, 1)
    loss = getattr(double.losses, kind)().double()
    assert loss.loss_terms(x, torch.tensor([0])) == {}
    value = loss(x, torch.tensor([0]))
    assert value == 0
    assert torch.equal(torch.autograd.grad(value, x)[0], torch.zeros_like(x))


def test_penalty(double: Any) -> None:
    """It is added after the reduction; whether to nothing too is a guess."""
    x, lone = rows(0), torch.arange(len(LABELS))
    lp = double.regularizers.LpRegularizer(p=2, power=2)
    options = {"embedding_regularizer": lp, "embedding_reg_weight": 0.5}
    reducer = double.reducers.SumReducer()
    plain = double.losses.TripletMarginLoss(reducer=reducer)
    loss = double.losses.TripletMarginLoss(reducer=reducer, **options)
    penalty = 0.5 * (x**2).sum(1).mean()
    torch.testing.assert_close(loss(x, LABELS), plain(x, LABELS) + penalty, **TOL)
    added = double._guesses.guess("penalty_of_nothing")
    torch.testing.assert_close(loss(x, lone), added * penalty, **TOL)
    assert set(loss.loss_terms(x, LABELS)) == {"loss", double._guesses.guess("penalty_name")}


def bad_batches(x: Tensor) -> dict[str, tuple[Any, ...]]:
    """Batches that the base class refuses."""
    return {
        "labels are too few": (x, LABELS[1:]),
        "labels are a column": (x, LABELS[:, None]),
        "labels are elsewhere": (x, LABELS.to("meta")),
        "embeddings are a vector": (x[:, 0], LABELS),
        "references without labels": (x, LABELS, None, x),
        "labels without references": (x, LABELS, None, None, LABELS),
        "references without labels or tuple": (x, None, None, x),
        "reference labels are too few": (x, LABELS, None, x, LABELS[1:]),
        "references of another dimension": (x, LABELS, None, x[:, 1:], LABELS),
    }


@pytest.mark.parametrize("case", bad_batches(torch.zeros(1, 1)))
def test_batches_are_checked(double: Any, case: str) -> None:
    with pytest.raises(double._guesses.guess("bad_batch")):
        double.losses.ContrastiveLoss()(*bad_batches(rows(0))[case])


def test_labels_or_a_tuple_are_needed(double: Any) -> None:
    with pytest.raises(ValueError, match="labels or indices_tuple"):
        double.losses.ContrastiveLoss()(rows(0))


ONE = torch.tensor([0])
TUPLES: dict[str, tuple[Any, type[Exception]]] = {
    "no tuple": (ONE, TypeError),
    "no tensors": (([0], [1], [2]), TypeError),
    "another dtype": ((ONE.short(), ONE, ONE), TypeError),
    "another length": ((ONE, ONE), ValueError),
    "another dimension": ((ONE[None], ONE, ONE), ValueError),
    "unequal": ((ONE, ONE.repeat(2), ONE), ValueError),
    "unequal pairs": ((ONE, ONE.repeat(2), ONE, ONE), ValueError),
}


@pytest.mark.parametrize("case", TUPLES)
def test_tuples_are_checked(double: Any, case: str) -> None:
    indices, error = TUPLES[case]
    with pytest.raises(error, match="must"):
        double.losses.ContrastiveLoss()(rows(0), LABELS, indices)


def test_attributes_of_distances_are_a_guess(double: Any) -> None:
    for distance in (double.distances.LpDistance(), double.distances.CosineSimilarity()):
        for name in ("p", "power", "normalize_embeddings", "is_inverted"):
            assert hasattr(distance, name) is double._guesses.guess("distance_attributes")


def term(**more: Any) -> dict[str, Any]:
    return {"loss": {"losses": torch.ones(2), "indices": torch.arange(2), **more}}


def test_terms_are_checked(double: Any) -> None:
    mean, x = double.reducers.MeanReducer(), torch.zeros(2, 3)
    assert mean(term(), x) == 1
    assert mean(term(losses=torch.ones(0), indices=torch.arange(0)), x) == 0
    for losses_ in (torch.tensor(1.0), torch.ones(2, 1), torch.ones(3)):
        with pytest.raises(ValueError, match="with indices"):
            mean(term(losses=losses_), x)
    with pytest.raises(ValueError, match="divisor"):
        mean(term(divisor=4), x)
    assert double.reducers.DivisorReducer()(term(divisor=4), x) == 0.5
    if double._guesses.guess("extra_keys"):
        assert mean(term(reduction_type="element"), x) == 1
    else:
        with pytest.raises(ValueError, match="reduction_type"):
            mean(term(reduction_type="element"), x)


def test_margin_loss_moves_with_the_embeddings(double: Any) -> None:
    loss = double.losses.MarginLoss()
    assert list(loss.state_dict()) == ["beta"]
    with pytest.raises(double._guesses.guess("bad_batch"), match="dtype"):
        loss(rows(0), LABELS)
    with pytest.raises(ValueError, match="divisor"):
        double.losses.MarginLoss(reducer=double.reducers.MeanReducer()).double()(rows(0), LABELS)


class Spy(nn.Module):
    """A loss or a miner that notes what it is called with, in the order of a loss."""

    names = ("embeddings", "labels", "indices_tuple", "ref_emb", "ref_labels")

    def __init__(self, answer: Any = None) -> None:
        super().__init__()
        self.answer, self.calls = answer, list[dict[str, Any]]()
        self.by_name: list[set[str]] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """A value with a gradient, or the answer."""
        self.calls.append({**dict(zip(self.names, args, strict=False)), **kwargs})
        self.by_name.append(set(kwargs))
        return self.calls[-1]["embeddings"].sum() if self.answer is None else self.answer


def test_base_miner(double: Any) -> None:
    """``mine`` gets None for self, without a gradient; candidates are its own job or the base's."""
    seen: list[Any] = []
    a, p, n = double._tuples.triplets_of(None, LABELS, None)

    class Miner(double.miners.BaseMiner):  # type: ignore[misc]
        def mine(self, *args: Any) -> Any:
            assert not torch.is_grad_enabled()
            seen.append(args)
            return a, p, n

    result = Miner()(rows(0), LABELS)
    assert isinstance(result, double.types.TripletIndices)
    assert torch.equal(torch.stack(result), torch.stack([a, p, n]))
    own_job = double._guesses.guess("mine_gets_candidates")
    assert len(seen[0]) == (5 if own_job else 4)
    assert all(argument is None for argument in seen[0][2:])

    pairs = all_pairs(None)
    candidates = (pairs[0][1:], pairs[1][1:], pairs[2][1:], pairs[3][1:])
    no_candidate = ((a == pairs[0][0]) & (p == pairs[1][0])) | (
        (a == pairs[2][0]) & (n == pairs[3][0])
    )
    kept = no_candidate.new_ones(len(a)) if own_job else ~no_candidate
    assert no_candidate.any()
    result = Miner()(rows(0), LABELS, candidates)
    assert torch.equal(torch.stack(result), torch.stack([a, p, n])[:, kept])


def test_multiple_losses(double: Any) -> None:
    """Miners get the loss's arguments; losses get what is mined or the tuple itself; it nests."""
    mined = (ONE, ONE + 3, ONE + 1)
    plain, with_miner, miner = Spy(), Spy(), Spy(mined)
    inner = double.losses.MultipleLosses(
        {"plain": plain, "mined": with_miner}, miners={"mined": miner}, weights={"mined": 0.5}
    )
    outer = double.losses.MultipleLosses({"inner": inner}, weights={"inner": 2.0})
    x, ref, given = rows(0), rows(1, len(REF_LABELS)), all_pairs(REF_LABELS)
    assert outer(x, LABELS, given, ref, REF_LABELS) == 3 * x.sum()
    for spy, indices in ((plain, given), (with_miner, mined), (miner, given)):
        (call,), names = spy.calls, spy.by_name[0]
        expected = dict(zip(Spy.names, (x, LABELS, indices, ref, REF_LABELS), strict=True))
        assert all(call[name] is expected[name] for name in Spy.names)
        assert len(names) == (5 if double._guesses.guess("calls_by_name") else 0)
    if double._guesses.guess("lists_of_losses"):
        assert double.losses.MultipleLosses([Spy(), Spy()])(x) == 2 * x.sum()
    else:
        with pytest.raises(TypeError, match="dicts"):
            double.losses.MultipleLosses([Spy(), Spy()])


def test_memory(double: Any) -> None:
    """Own copies are in the memory, are no positives, and are where the variant says."""
    size = 12
    spy = Spy()
    memory = double.losses.CrossBatchMemory(spy, 4, size)
    kept: list[tuple[list[float], int]] = []
    for step in range(4):
        x, labels = rows(step, 5), LABELS[step : step + 5]
        memory(x, labels)
        kept = [*kept, *zip(x.tolist(), labels.tolist(), strict=True)][-size:]
        call = spy.calls[-1]
        assert spy.by_name[-1] == {"ref_emb", "ref_labels"}
        snapshot = list(zip(call["ref_emb"].tolist(), call["ref_labels"].tolist(), strict=True))
        assert sorted(snapshot) == sorted(kept)
        if double._guesses.guess("new_rows_last"):
            own = [len(snapshot) - 5 + row for row in range(5)]
        else:
            own = [(5 * step + row) % size for row in range(5)]
        assert [snapshot[at][0] for at in own] == x.tolist()
        pairs = double.types.PairIndices(*(index.tolist() for index in call["indices_tuple"]))
        same = labels[:, None] == call["ref_labels"]
        positives = {(i, j) for i, j in torch.nonzero(same).tolist() if j != own[i]}
        assert set(zip(pairs.pos_anchors, pairs.positives, strict=True)) == positives
        negatives = set(zip(pairs.neg_anchors, pairs.negatives, strict=True))
        assert negatives == {(i, j) for i, j in torch.nonzero(~same).tolist()}
        assert not call["ref_emb"].requires_grad


def test_memory_mines_among_the_candidates(double: Any) -> None:
    mined = (ONE, ONE + 3, ONE + 1)
    spy, miner = Spy(), Spy(mined)
    memory = double.losses.CrossBatchMemory(spy, 4, 20, miner=miner)
    memory(rows(0), LABELS)
    assert spy.calls[0]["indices_tuple"] is mined
    candidates = miner.calls[0]["indices_tuple"]
    assert [index.tolist() for index in candidates] == [list(i) for i in all_pairs(None)]
    assert miner.calls[0]["ref_emb"] is spy.calls[0]["ref_emb"]


def test_memory_with_a_mask(double: Any) -> None:
    """The chosen rows are references, the others anchors, and no pair is excluded."""
    spy = Spy()
    x, mask = rows(0), LABELS == 1
    memory = double.losses.CrossBatchMemory(spy, 4, 20)
    memory(x, LABELS, enqueue_mask=mask)
    call = spy.calls[0]
    assert torch.equal(call["embeddings"], x[~mask])
    assert torch.equal(call["ref_emb"], x[mask])
    nothing = torch.zeros(len(x), dtype=torch.bool)
    value = double.losses.CrossBatchMemory(spy, 4)(x, LABELS, enqueue_mask=nothing)
    assert value == 0
    assert torch.equal(torch.autograd.grad(value, x)[0], torch.zeros_like(x))


def test_memory_is_left_as_it_was_by_an_error(double: Any) -> None:
    class Failing(Spy):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            if kwargs["ref_emb"].shape[0] > 5:
                raise ArithmeticError
            return super().forward(*args, **kwargs)

    memory = double.losses.CrossBatchMemory(spy := Failing(), 4, 7)
    memory(rows(0, 5), LABELS[:5])
    before = {name: value.clone() for name, value in memory.state_dict().items()}
    with pytest.raises(ArithmeticError):
        memory(rows(1, 5), LABELS[:5])
    assert all(torch.equal(memory.state_dict()[name], value) for name, value in before.items())
    with pytest.raises(ValueError, match="do not fit"):
        memory(rows(1, 8), LABELS[:8])
    error = double._guesses.guess("bad_batch")
    for x, labels in ((rows(1, 5)[:, 1:], LABELS[:5]), (rows(1, 5), LABELS[:5].int())):
        with pytest.raises(error):
            memory(x, labels)
    assert len(spy.calls) == 1


def test_self_supervised(double: Any) -> None:
    one, two, three = rows(0), rows(1), rows(2)
    spy = Spy()
    double.losses.SelfSupervisedLoss(spy)(one, two, three)
    assert torch.equal(spy.calls[0]["embeddings"], torch.cat([one, two, three]))
    assert spy.calls[0]["labels"].tolist() == [*range(9)] * 3
    double.losses.SelfSupervisedLoss(spy, symmetric=False)(one, two, three)
    assert spy.by_name[1] == {"ref_emb", "ref_labels"}
    assert torch.equal(spy.calls[1]["ref_emb"], torch.cat([two, three]))
    assert spy.calls[1]["ref_labels"].tolist() == [*range(9)] * 2
    with pytest.raises(ValueError, match="views"):
        double.losses.SelfSupervisedLoss(spy)(one, two[1:])
    lifted = double.losses.LiftedStructureLoss()
    assert double.losses.SelfSupervisedLoss(lifted)(one, two) > 0
    with pytest.raises(ValueError, match="ref_emb"):
        double.losses.SelfSupervisedLoss(lifted, symmetric=False)(one, two)


def test_local_anchor(double: Any) -> None:
    """No row meets its own copy, so the loss is that of the rank's anchors on the joined batch."""
    x, y = rows(0, 5), rows(1, 4)
    wrapper = double._wrappers.LocalAnchor(spy := Spy(), y, LABELS[5:])
    wrapper(x, LABELS[:5])
    call = spy.calls[0]
    first = 0 if double._guesses.guess("own_rows_first") else 4
    assert torch.equal(call["ref_emb"][first : first + 5], x)
    loss = double.losses.ContrastiveLoss(reducer=double.reducers.SumReducer())
    a1, p, a2, n = all_pairs(None)
    positive, negative = a1 < 5, a2 < 5
    pairs = (a1[positive], p[positive], a2[negative], n[negative])
    expected = loss(torch.cat([x, y]), LABELS, pairs)
    found = double._wrappers.LocalAnchor(loss, y, LABELS[5:])(x, LABELS[:5])
    torch.testing.assert_close(found, expected, **TOL)


def test_sampler(double: Any) -> None:
    """Whole batches of m rows of a class; passes, so that all are seen about equally often."""
    labels = [0] * 7 + [1] * 3 + [2] * 5 + [3] * 4 + [4] * 2
    sampler = double.samplers.MPerClassSampler(labels, m=2, batch_size=6)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    visits = torch.zeros(5, dtype=torch.int64)
    for batch in batches:
        classes = [labels[row] for row in batch]
        assert sorted(classes.count(of) for of in set(classes)) == [2, 2, 2]
        assert len(set(batch)) == 6
        assert (classes[0] == classes[1]) is double._guesses.guess("classes_in_runs")
        visits[list(set(classes))] += 1
    assert visits.max() - visits.min() <= 1
    seen = [row for batch in batches for row in batch]
    assert set(seen) == set(range(len(labels)))
    of_class = [seen.count(row) for row in range(7)]
    assert max(of_class) - min(of_class) <= 1
    short = double.samplers.MPerClassSampler(labels, m=2, batch_size=6, num_batches=3)
    assert len(list(short)) == len(short) == 3
    data = torch.utils.data.TensorDataset(torch.tensor(labels))
    loader = torch.utils.data.DataLoader(data, batch_sampler=short)
    assert [len(batch) for (batch,) in loader] == [6, 6, 6]
    with pytest.raises(TypeError, match="batch_size"):
        double.samplers.MPerClassSampler(labels, m=2)
    with pytest.raises(ValueError, match="multiple of m"):
        double.samplers.MPerClassSampler(labels, m=2, batch_size=12)


def test_names_that_are_not_in_the_double(double: Any) -> None:
    kinds = ["CircleLoss", "DynamicSoftMarginLoss", "IntraPairVarianceLoss", "SupConLoss"]
    for kind in (*kinds, "TupletMarginLoss", "VICRegLoss"):
        with pytest.raises(NotImplementedError, match="not in the double"):
            getattr(double.losses, kind)()
    assert not issubclass(double.losses.VICRegLoss, double.losses.BaseMetricLossFunction)
