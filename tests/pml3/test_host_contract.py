"""What loopml relies on of pytorch-metric-learning 3: sentences of its documentation, as tests.

They were written from that documentation and have met a double of it alone. What it leaves open is
in ``test_host_probes.py``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers, samplers

if not hasattr(losses.BaseMetricLossFunction, "objective_terms"):
    pytest.skip("pytorch-metric-learning 3 is not installed", allow_module_level=True)

from pytorch_metric_learning import types

ARGUMENTS = ["embeddings", "labels", "indices_tuple", "ref_emb", "ref_labels"]
TOL = {"rtol": 1e-9, "atol": 1e-12}

SUPPORTED = [
    "CircleLoss",
    "ContrastiveLoss",
    "DynamicSoftMarginLoss",
    "GeneralizedLiftedStructureLoss",
    "IntraPairVarianceLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "NTXentLoss",
    "SupConLoss",
    "TripletMarginLoss",
    "TupletMarginLoss",
]


def made(kind: str, **options: Any) -> Any:
    """A loss in float64; a test ends here where the double has its name alone."""
    try:
        return getattr(losses, kind)(**options).double()
    except NotImplementedError:
        pytest.skip("the double does not answer this")


def parameters(function: Any) -> list[str]:
    """The names of the positional parameters."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    found = inspect.signature(function).parameters
    return [name for name, one in found.items() if one.kind is kind and name != "self"]


# The package.


def test_what_is_gone() -> None:
    package = importlib.import_module("pytorch_metric_learning")
    assert not hasattr(package, "__version__")
    for name in ("trainers", "testers"):
        assert importlib.util.find_spec(f"pytorch_metric_learning.{name}") is None
    for kind in (losses.ContrastiveLoss, distances.LpDistance):
        assert not hasattr(kind(), "add_to_recordable_attributes")
        assert not hasattr(kind(), "collect_stats")


@pytest.mark.real
def test_public_modules() -> None:
    """Ten, each with its public names; they have types; evaluation loads nothing optional."""
    names = ["distances", "losses", "miners", "reducers", "regularizers", "samplers", "evaluation"]
    for name in (*names, "distributed", "types", "utils.indexing"):
        assert importlib.import_module(f"pytorch_metric_learning.{name}").__all__
    package = importlib.import_module("pytorch_metric_learning")
    assert Path(package.__path__[0], "py.typed").exists()
    code = (
        "import sys, pytorch_metric_learning.evaluation; "
        "assert not {'faiss', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_types() -> None:
    assert types.PairIndices._fields == ("pos_anchors", "positives", "neg_anchors", "negatives")
    assert types.TripletIndices._fields == ("anchors", "positives", "negatives")
    assert hasattr(types, "IndicesTuple")
    assert hasattr(types, "LossDict")


# The base of losses.


def test_options_are_keyword_only() -> None:
    options = {"distance", "reducer", "embedding_regularizer", "embedding_reg_weight"}
    found = inspect.signature(losses.BaseMetricLossFunction).parameters
    kinds = {found[name].kind for name in options}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
    with pytest.raises(TypeError):
        losses.BaseMetricLossFunction(distances.LpDistance())


@pytest.mark.parametrize("method", ["forward", "loss_terms", "objective_terms", "compute_loss"])
def test_five_arguments(method: str) -> None:
    assert parameters(getattr(losses.BaseMetricLossFunction, method)) == ARGUMENTS


def test_compute_loss_gets_none_for_self_and_a_tuple_of_its_type(given: Any, spy_loss: Any) -> None:
    loss = spy_loss()
    loss(given.x, given.labels)
    assert loss.computed[0]["ref_emb"] is None
    assert loss.computed[0]["indices_tuple"] is None
    a, p, n = (index.int() for index in given.triplets)
    loss(given.x, given.labels, [a, p, n], given.ref, given.ref_labels)
    assert isinstance(loss.computed[1]["indices_tuple"], types.TripletIndices)
    assert torch.equal(loss.computed[1]["ref_emb"], given.ref)
    loss(given.x, None, (a, p, a, n), given.ref)
    assert isinstance(loss.computed[2]["indices_tuple"], types.PairIndices)
    assert loss.computed[2]["labels"] is None


@pytest.mark.parametrize("count", [1, 2, 3], ids=["elements", "pairs", "triplets"])
def test_a_term_is_losses_and_indices(given: Any, spy_loss: Any, count: int) -> None:
    """Indices: a tensor for elements, a tuple of two for pairs, of three for triplets."""
    rows = torch.arange(len(given.x))
    indices = rows if count == 1 else (rows,) * count
    terms = {"loss": {"losses": given.x.sum(1), "indices": indices}}
    loss = spy_loss(terms, reducer=reducers.MeanReducer())
    value = loss(given.x, given.labels)
    assert value.shape == ()
    torch.testing.assert_close(value, given.x.sum(1).mean(), **TOL)
    unreduced = loss.loss_terms(given.x, given.labels)
    assert [*unreduced] == ["loss"]
    torch.testing.assert_close(unreduced["loss"]["losses"], given.x.sum(1), **TOL)


def test_several_terms_are_added(given: Any, spy_loss: Any) -> None:
    """MultipleReducers routes them by name; a divisor is for DivisorReducer alone."""
    rows = torch.arange(len(given.x))
    part = {"losses": given.x.sum(1), "indices": rows}
    mean, total = part["losses"].mean(), part["losses"].sum()
    value = spy_loss({"one": part, "two": part}, reducer=reducers.MeanReducer())(given.x)
    torch.testing.assert_close(value, 2 * mean, **TOL)
    routed = reducers.MultipleReducers(
        {"one": reducers.SumReducer(), "two": reducers.MeanReducer()}
    )
    value = spy_loss({"one": part, "two": part}, reducer=routed)(given.x)
    torch.testing.assert_close(value, total + mean, **TOL)
    terms = {"loss": {**part, "divisor": 2}}
    with pytest.raises(ValueError, match=r"[Dd]ivisor"):
        spy_loss(terms, reducer=reducers.MeanReducer())(given.x)
    value = spy_loss(terms, reducer=reducers.DivisorReducer())(given.x)
    torch.testing.assert_close(value, total / 2, **TOL)


def test_defaults_are_methods(given: Any, spy_loss: Any) -> None:
    class Own(spy_loss):  # type: ignore[misc]
        def default_distance(self) -> Any:
            return distances.DotProductSimilarity(normalize_embeddings=False)

        def default_reducer(self) -> Any:
            return reducers.SumReducer()

    loss = Own()
    assert isinstance(loss.distance, distances.DotProductSimilarity)
    torch.testing.assert_close(loss(given.x), given.x.sum(), **TOL)
    given_distance = distances.LpDistance()
    assert isinstance(Own(distance=given_distance).distance, distances.LpDistance)


def test_the_penalty_is_added_after_the_reduction(given: Any, spy_loss: Any) -> None:
    """It sees the batch alone. That of LpRegularizer(p=2, power=2) is a mean of squared lengths."""
    loss = spy_loss(
        reducer=reducers.SumReducer(),
        embedding_regularizer=regularizers.LpRegularizer(p=2, power=2),
        embedding_reg_weight=0.5,
    )
    expected = given.x.sum() + 0.5 * (given.x**2).sum(1).mean()
    value = loss(given.x, given.labels, None, given.ref, given.ref_labels)
    torch.testing.assert_close(value, expected, **TOL)
    terms = loss.loss_terms(given.x, given.labels)
    assert set(terms) == {"loss", *loss.regularization_terms(given.x)}
    assert len(terms) == 2


def test_collect_stats_is_no_option(spy_loss: Any) -> None:
    with pytest.raises(TypeError):
        spy_loss(collect_stats=True)


# Losses.


@pytest.mark.parametrize("kind", SUPPORTED)
def test_supported_losses_exist(kind: str) -> None:
    assert kind in losses.__all__
    assert issubclass(getattr(losses, kind), losses.BaseMetricLossFunction)


@pytest.mark.parametrize("kind", [kind for kind in SUPPORTED if kind != "LiftedStructureLoss"])
def test_tuples_are_entries_of_anchors_and_references(given: Any, kind: str) -> None:
    """So a synthetic row is read at its own index, and has a gradient."""
    loss = made(kind)
    synthetic = torch.cat([given.ref, (given.ref[:1] + given.x[:1]) / 2])
    a, p = (index[given.triplets[1] < 3] for index in given.triplets[:2])
    n = torch.full_like(a, len(given.ref))
    ref_labels = torch.cat([given.ref_labels, torch.tensor([9])])
    value = loss(given.x, given.labels, (a, p, n), synthetic, ref_labels)
    (gradient,) = torch.autograd.grad(value, synthetic)
    assert gradient[-1].abs().max() > 0
    assert torch.equal(gradient[3:6], torch.zeros_like(gradient[3:6]))


def test_lifted_takes_no_references(given: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is not documented
        losses.LiftedStructureLoss()(given.x, given.labels, None, given.ref, given.ref_labels)


@pytest.mark.parametrize("kind", ["LiftedStructureLoss", "GeneralizedLiftedStructureLoss"])
def test_margins_of_the_lifted_losses(given: Any, kind: str) -> None:
    """The positive one comes first."""
    value = getattr(losses, kind)(0.1, 1.4)(given.x, given.labels)
    named = getattr(losses, kind)(pos_margin=0.1, neg_margin=1.4)(given.x, given.labels)
    assert torch.equal(value, named)


def test_default_margin_of_triplets(given: Any) -> None:
    a, b = losses.TripletMarginLoss(), losses.TripletMarginLoss(margin=0.2, swap=False)
    assert torch.equal(a(given.x, given.labels), b(given.x, given.labels))


@pytest.mark.parametrize(
    ("kind", "rows"),
    [("CircleLoss", 2), ("GeneralizedLiftedStructureLoss", 2), ("MultiSimilarityLoss", 3)],
)
def test_anchors_without_pairs_have_no_term(given: Any, kind: str, rows: int) -> None:
    """Row 2 has a negative alone, row 3 nothing."""
    one = torch.tensor([0, 1])
    pairs = (one, one.flip(0), torch.tensor([0, 1, 2]), torch.tensor([2, 2, 0]))
    terms = made(kind).loss_terms(given.x[:4], indices_tuple=pairs)
    assert sum(len(term["losses"]) for term in terms.values()) == rows


def test_margin_loss_keeps_beta(given: Any) -> None:
    """As a buffer, or a parameter that is learned; its elements are for DivisorReducer alone."""
    for learn_beta in (False, True):
        loss = losses.MarginLoss(learn_beta=learn_beta)
        assert "beta" in loss.state_dict()
        assert ("beta" in dict(loss.named_parameters())) is learn_beta
    with pytest.raises(ValueError, match=r"[Dd]ivisor"):
        made("MarginLoss", reducer=reducers.MeanReducer())(given.x, given.labels)


def test_pair_losses_need_labels_or_a_tuple(given: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is not documented
        losses.ContrastiveLoss()(given.x)


def test_tuples_are_checked(given: Any) -> None:
    a, p, n = given.triplets
    with pytest.raises(TypeError):
        losses.ContrastiveLoss()(given.x, given.labels, (a.short(), p, n))
    with pytest.raises(TypeError):
        losses.ContrastiveLoss()(given.x, given.labels, ([0], [3], [1]))


def test_no_pair_is_excluded_from_references(given: Any) -> None:
    """Not a row's own copy either: given the batch, each row is its own positive."""
    loss = losses.ContrastiveLoss(reducer=reducers.MeanReducer())
    terms = loss.loss_terms(given.x, given.labels, None, given.x, given.labels)
    anchors, positives = terms["pos_loss"]["indices"]
    assert set(range(len(given.x))) <= set(anchors[anchors == positives].tolist())


# Distances and miners.


def test_distances(given: Any) -> None:
    """A call gives all distances; the margin is positive where the first is farther."""
    for kind in (distances.LpDistance, distances.CosineSimilarity, distances.DotProductSimilarity):
        distance = kind()
        assert isinstance(distance, distances.BaseDistance)
        assert distance(given.x).shape == (len(given.x),) * 2
        assert distance(given.x, given.ref).shape == (len(given.x), len(given.ref))
        near, far = distance(torch.tensor([[1.0, 0]]), torch.tensor([[1.0, 0.1], [0, 1]]))[0]
        assert distance.margin(far, near) > 0
    torch.testing.assert_close(distance(given.x), given.x @ given.x.T, **TOL)
    raw = distances.LpDistance(normalize_embeddings=False, p=1, power=2)
    expected = torch.cdist(given.x, given.ref, p=1) ** 2
    torch.testing.assert_close(raw(given.x, given.ref), expected, **TOL)


def test_miners_take_a_distance() -> None:
    distance = distances.CosineSimilarity()
    assert isinstance(miners.BaseMiner(distance=distance).distance, distances.CosineSimilarity)


# Wrappers.


def test_multiple_losses(given: Any, spy_loss: Any, spy_miner: Any) -> None:
    """All get the five arguments; a loss with a miner gets what that mines of them. It nests."""
    plain, mined, miner = spy_loss(), spy_loss(), spy_miner()
    inner = losses.MultipleLosses(
        {"plain": plain, "mined": mined}, miners={"mined": miner}, weights={"plain": 1, "mined": 2}
    )
    outer = losses.MultipleLosses({"inner": inner}, weights={"inner": 3})
    value = outer(given.x, given.labels, given.triplets, given.ref, given.ref_labels)
    torch.testing.assert_close(value, 9 * given.x.sum(1).mean(), **TOL)
    for call in (plain.calls[0], mined.calls[0], miner.calls[0]):
        assert torch.equal(call["ref_emb"], given.ref)
        assert torch.equal(call["ref_labels"], given.ref_labels)
    for call in (plain.calls[0], miner.calls[0]):
        assert len(call["indices_tuple"][0]) == len(given.triplets[0])
    assert len(mined.calls[0]["indices_tuple"][0]) == 1


def test_memory(given: Any, spy_loss: Any) -> None:
    """The filled part with the batch in it; own copies are no positives; references by name."""
    found = parameters(losses.CrossBatchMemory.__init__)
    assert found == ["loss", "embedding_size", "memory_size", "miner"]
    loss = spy_loss()
    memory = losses.CrossBatchMemory(loss, 4, 12).double()
    kept: list[list[float]] = []
    for step in range(3):
        x = (given.x + step).detach()
        memory(x, given.labels)
        kept = [*kept, *x.tolist()][-12:]
        call = loss.calls[-1]
        assert set(call.kwargs) == {"ref_emb", "ref_labels"}
        rows = call["ref_emb"].tolist()
        assert sorted(rows) == sorted(kept)
        pairs = types.PairIndices(*call["indices_tuple"])
        same = given.labels[:, None] == call["ref_labels"]
        same[range(len(x)), [rows.index(row) for row in x.tolist()]] = False
        assert set(zip(*(i.tolist() for i in pairs[:2]), strict=True)) == {
            (i, j) for i, j in torch.nonzero(same).tolist()
        }


def test_memory_refuses_more_rows_than_it_has(given: Any, spy_loss: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is not documented
        losses.CrossBatchMemory(spy_loss(), 4, 7).double()(given.x, given.labels)


def test_memory_survives_a_loss_that_raises(given: Any, spy_loss: Any) -> None:
    class Failing(spy_loss):  # type: ignore[misc]
        def compute_loss(self, *batch: Any) -> Any:
            if len(self.computed) == 1:
                raise ArithmeticError
            return super().compute_loss(*batch)

    loss = Failing()
    memory = losses.CrossBatchMemory(loss, 4, 32).double()
    memory(given.x, given.labels)
    with pytest.raises(ArithmeticError):
        memory(given.x + 1, given.labels)
    loss.computed.clear()
    memory(given.x + 2, given.labels)
    assert len(loss.calls[-1]["ref_emb"]) == 2 * len(given.x)


def test_self_supervised(given: Any, spy_loss: Any) -> None:
    x, y = given.x, given.x + 1
    loss = spy_loss()
    losses.SelfSupervisedLoss(loss)(x, y)
    assert torch.equal(loss.calls[0]["embeddings"], torch.cat([x, y]))
    labels = loss.calls[0]["labels"]
    assert torch.equal(labels[: len(x)], labels[len(x) :])
    assert len(labels.unique()) == len(x)
    losses.SelfSupervisedLoss(loss, symmetric=False)(x, y)
    assert set(loss.calls[1].kwargs) == {"ref_emb", "ref_labels"}
    assert torch.equal(loss.calls[1]["ref_emb"], y)
    assert torch.equal(loss.calls[1]["labels"], loss.calls[1]["ref_labels"])
    with pytest.raises(ValueError):  # noqa: PT011 - the message is not documented
        losses.SelfSupervisedLoss(losses.LiftedStructureLoss(), symmetric=False)(x, y)


# The sampler.


def test_sampler() -> None:
    """Whole batches; by default each example once or more; classes about equally often."""
    labels = [0] * 7 + [1] * 3 + [2] * 5 + [3] * 4
    batches = [list(batch) for batch in samplers.MPerClassSampler(labels, m=2, batch_size=4)]
    assert {row for batch in batches for row in batch} == set(range(len(labels)))
    visits = [0] * 4
    for batch in batches:
        classes = sorted(labels[row] for row in batch)
        assert classes[0] == classes[1] != classes[2] == classes[3]
        visits[classes[0]] += 1
        visits[classes[2]] += 1
    assert max(visits) - min(visits) <= 1
    three = samplers.MPerClassSampler(labels, m=2, batch_size=4, num_batches=3)
    data = torch.utils.data.TensorDataset(torch.tensor(labels))
    loader = torch.utils.data.DataLoader(data, batch_sampler=three)
    assert [len(batch) for (batch,) in loader] == [4, 4, 4]
    with pytest.raises(TypeError):
        samplers.MPerClassSampler(labels, m=2)
