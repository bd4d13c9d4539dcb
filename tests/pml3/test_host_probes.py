"""What the documentation of pytorch-metric-learning 3 leaves open, asked of the package itself.

Each probe prints what it finds: run with ``-rP`` to see it. It fails only where loopml cannot live
with the answer.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import io
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers, samplers

if not hasattr(losses.BaseMetricLossFunction, "objective_terms"):
    pytest.skip("pytorch-metric-learning 3 is not installed", allow_module_level=True)

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, NPairLoss, SyntheticLoss

TOL = {"rtol": 1e-9, "atol": 1e-12}

OURS: dict[str, Any] = {
    "hphn": HPHNTripletLoss,
    "hphn ee": lambda **more: HPHNTripletLoss(synthesizer=EmbeddingExpansion(), **more),
    "hphn loop": lambda **more: HPHNTripletLoss(synthesizer=LoOpMiner(), **more),
    "n-pair": NPairLoss,
    "n-pair loop": lambda **more: NPairLoss(synthesizer=LoOpMiner(), **more),
    "triplet loop": lambda **more: SyntheticLoss(losses.TripletMarginLoss(**more), LoOpMiner()),
    "ntxent ee": lambda **more: SyntheticLoss(losses.NTXentLoss(**more), EmbeddingExpansion()),
}
ours = pytest.mark.parametrize("build", OURS.values(), ids=OURS.keys())


def answer(question: str, call: Any) -> Any:
    """Print what a call returns or raises, and return it."""
    try:
        found = call()
    except Exception as error:
        found = error
    shown = f"{type(found).__name__}: {found}" if isinstance(found, Exception) else repr(found)
    print(f"{question}: {shown.splitlines()[0]}")
    return found


def worked(found: Any) -> bool:
    """Whether an answer is a value, finite where it is a tensor."""
    if isinstance(found, Exception):
        return False
    return not isinstance(found, torch.Tensor) or bool(found.isfinite().all())


# 1, 12, 13: names and signatures.


def signature(kind: Any, method: str = "") -> None:
    """Print one."""
    name = f"{kind.__name__}.{method}" if method else kind.__name__
    answer(name, lambda: inspect.signature(getattr(kind, method) if method else kind))


def test_signatures() -> None:
    wrappers = (losses.MultipleLosses, losses.CrossBatchMemory, losses.SelfSupervisedLoss)
    for kind in (miners.BaseMiner, *wrappers):
        signature(kind)
        signature(kind, "forward")
    signature(miners.BaseMiner, "mine")
    signature(samplers.MPerClassSampler)
    for module in (distances, losses, miners, reducers, regularizers, samplers):
        print(module.__name__, sorted(module.__all__))


@pytest.mark.real
def test_signatures_of_evaluation_and_distributed() -> None:
    evaluation = importlib.import_module("pytorch_metric_learning.evaluation")
    distributed = importlib.import_module("pytorch_metric_learning.distributed")
    for module in (evaluation, distributed):
        print(module.__name__, sorted(module.__all__))
        for name in module.__all__:
            signature(getattr(module, name))
    answer("fields of RetrievalInputs", lambda: evaluation.RetrievalInputs.__annotations__)
    x, labels = torch.randn(12, 4), torch.arange(3).repeat(4)
    calculator = evaluation.AccuracyCalculator()
    answer("scores", lambda: sorted(calculator.get_accuracy(x, labels)))


def test_losses_that_loopml_does_not_know() -> None:
    """A new one is refused by SyntheticLoss, as any loss that it does not know."""
    support = importlib.import_module("loopml.losses.support")
    known = {kind if isinstance(kind, str) else kind.__name__ for kind in support.SUPPORTED}
    unknown = set(losses.__all__) - known - set(support.REJECTED)
    print("losses that loopml does not know:", sorted(unknown))
    assert known <= set(losses.__all__)


# 2: distances.


def test_attributes_of_distances() -> None:
    names = ("p", "power", "normalize_embeddings", "is_inverted")
    for distance in (
        distances.LpDistance(p=1, power=2),
        distances.CosineSimilarity(),
        distances.DotProductSimilarity(),
    ):
        kind = type(distance).__name__
        answer(f"vars({kind})", lambda it=distance: sorted(vars(it)))
        shown = {name: getattr(distance, name, "absent") for name in names}
        print(f"{kind}: {shown}")


def test_loopml_sees_what_a_distance_does(given: Any) -> None:
    """With or without attributes: p is refused, power and normalisation are taken over."""
    for p in (1, 3):
        with pytest.raises(ValueError, match="p=2"):
            LoOpMiner(distance=distances.LpDistance(p=p))
    for normalize in (False, True):
        for power in (1, 2):
            distance = distances.LpDistance(normalize_embeddings=normalize, power=power)
            mat = distance(given.x)
            same = given.labels[:, None] == given.labels
            hardest = mat.masked_fill(~same, 0).amax(1) - mat.masked_fill(same, torch.inf).amin(1)
            found = HPHNTripletLoss(margin=0.3, distance=distance)(given.x, given.labels)
            torch.testing.assert_close(found, torch.relu(hardest + 0.3).mean(), rtol=1e-6, atol=0)
    for distance in (distances.CosineSimilarity(), distances.DotProductSimilarity()):
        torch.testing.assert_close(
            NPairLoss(distance=distance)(given.x, given.labels),
            NPairLoss(distance=copy.deepcopy(distance))(given.x, given.labels),
        )
        with pytest.raises(ValueError, match="HPHNTripletLoss"):
            HPHNTripletLoss(distance=distance)


# 3, 4, 5: reducers, terms, penalties.


@ours
def test_reducers_of_our_losses(given: Any, build: Any) -> None:
    """The penalty is there, which an own path around the reducer could lose."""
    regularizer = regularizers.LpRegularizer(p=2, power=2)
    if build is OURS["hphn"]:
        print("default reducer:", type(losses.ContrastiveLoss().reducer), type(build().reducer))
        reducer = reducers.MeanReducer()
        print("it is the object given:", build(reducer=reducer).reducer is reducer)
        print("with a penalty:", type(build(embedding_regularizer=regularizer).reducer))
    plain = build()(given.x, given.labels)
    found = build(embedding_regularizer=regularizer, embedding_reg_weight=0.5)
    expected = plain + 0.5 * (given.x**2).sum(1).mean()
    torch.testing.assert_close(found(given.x, given.labels), expected, **TOL)


@ours
def test_reducers_that_our_losses_take(given: Any, build: Any) -> None:
    known = [reducers.MeanReducer(), reducers.SumReducer(), reducers.DivisorReducer()]
    for name in ("AvgNonZeroReducer", "PerAnchorReducer"):
        kind = getattr(reducers, name, None)
        known += [] if kind is None else [kind()]
    for reducer in known:
        loss = build(reducer=reducer)
        found = answer(type(reducer).__name__, lambda it=loss: it(given.x, given.labels))
        must = isinstance(reducer, (reducers.MeanReducer, reducers.SumReducer))
        assert worked(found) or not must


def test_forms_of_terms(given: Any, spy_loss: Any) -> None:
    """Nothing is a differentiable 0; that, and the two keys alone, is all that loopml needs."""
    rows = torch.arange(len(given.x))
    part = {"losses": given.x.sum(1), "indices": rows}
    forms: dict[str, dict[str, Any]] = {
        "nothing": {},
        "another key": {"loss": {**part, "reduction_type": "element"}},
        "0-d": {"loss": {"losses": given.x.sum(), "indices": None}},
        "a column": {"loss": {**part, "losses": given.x.sum(1, keepdim=True)}},
        "no elements": {"loss": {"losses": part["losses"][:0], "indices": rows[:0]}},
    }
    for reducer in (reducers.MeanReducer(), reducers.SumReducer()):
        for form, terms in forms.items():
            loss = spy_loss(terms, reducer=reducer)
            question = f"{form} under {type(reducer).__name__}"
            found = answer(question, lambda it=loss: it(given.x, given.labels))
            if form == "nothing":
                assert (found.shape, found.item()) == ((), 0)
                (gradient,) = torch.autograd.grad(found, given.x)
                assert torch.equal(gradient, torch.zeros_like(gradient))


@ours
def test_nothing_to_learn_from(given: Any, build: Any) -> None:
    lone = torch.arange(len(given.x))
    loss = build(reducer=reducers.SumReducer())
    value = loss(given.x, lone)
    assert value == 0
    (gradient,) = torch.autograd.grad(value, given.x)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    penalised = build(embedding_regularizer=regularizers.LpRegularizer(), embedding_reg_weight=2)
    answer("a penalty of 2 on nothing", lambda: penalised(given.x, lone))


def test_penalty_in_the_terms(given: Any, spy_loss: Any) -> None:
    loss = spy_loss(
        embedding_regularizer=regularizers.LpRegularizer(p=2, power=2), embedding_reg_weight=0.5
    )
    terms = loss.loss_terms(given.x, given.labels)
    expected = (given.x**2).sum(1)
    for name in set(terms) - {"loss"}:
        found = terms[name]["losses"]
        print("key:", name, "shape:", tuple(found.shape), "keys:", sorted(terms[name]))
        print("weight in it:", (found.mean() / expected.mean()).item(), "of 0.5")


# 6: errors.


def test_types_of_errors(given: Any) -> None:
    loss = losses.ContrastiveLoss()
    a, p, n = given.triplets
    cases: dict[str, tuple[Any, ...]] = {
        "labels elsewhere": (given.x, given.labels.to("meta")),
        "labels too few": (given.x, given.labels[1:]),
        "labels of booleans": (given.x, given.labels == 0),
        "references without labels": (given.x, given.labels, None, given.ref),
        "labels without references": (given.x, given.labels, None, None, given.ref_labels),
        "int16 indices": (given.x, given.labels, (a.short(), p, n)),
        "two tensors": (given.x, given.labels, (a, p)),
        "indices unequal": (given.x, given.labels, (a[1:], p, n)),
    }
    for case, batch in cases.items():
        answer(case, lambda args=batch: loss(*args))


# 7, 8: who calls our miner and our losses, and how.


def test_who_calls_a_miner_how(given: Any, spy_loss: Any, spy_miner: Any) -> None:
    for home in ("MultipleLosses", "CrossBatchMemory"):
        miner = spy_miner()
        if home == "MultipleLosses":
            wrapper = losses.MultipleLosses({"loss": spy_loss()}, miners={"loss": miner})
        else:
            wrapper = losses.CrossBatchMemory(spy_loss(), 4, 20, miner=miner).double()
        answer(home, lambda it=wrapper: it(given.x, given.labels))
        (call,) = miner.calls
        print("  positional:", [type(one).__name__ for one in call.args])
        print("  by name:", {name: type(one).__name__ for name, one in call.kwargs.items()})
        print("  with gradients enabled:", miner.with_grad)


def test_where_own_copies_lie(given: Any, spy_loss: Any) -> None:
    loss = spy_loss()
    memory = losses.CrossBatchMemory(loss, 4, 20).double()
    for step in range(4):
        memory(given.x + step, given.labels)
        rows = loss.calls[-1]["ref_emb"].tolist()
        print(
            "batch",
            step,
            "of 8 rows lies at",
            [rows.index(row) for row in (given.x + step).tolist()],
        )


def test_our_miner_in_a_memory(given: Any) -> None:
    """The first memory is the batch: what is mined in it is what is mined in the batch."""
    for loss in (losses.TripletMarginLoss(), losses.ContrastiveLoss()):
        memory = losses.CrossBatchMemory(loss, 4, 20, miner=LoOpMiner()).double()
        expected = loss(given.x, given.labels, LoOpMiner()(given.x, given.labels))
        torch.testing.assert_close(memory(given.x, given.labels), expected, **TOL)
        for step in range(1, 4):
            assert worked(memory(given.x + step, given.labels))


@ours
def test_our_losses_in_a_memory(given: Any, build: Any) -> None:
    """The first memory is the batch, so no row may meet its own copy as a positive."""
    memory = losses.CrossBatchMemory(build(), 4, 20).double()
    found = answer("in a memory", lambda: memory(given.x, given.labels))
    expected = build()(given.x, given.labels)
    if build is not OURS["n-pair"]:  # with references each end of a pair is an anchor in turn
        torch.testing.assert_close(found, expected, **TOL)
    for step in range(1, 4):
        found = memory(given.x + step, given.labels)
        assert worked(found)
        assert torch.autograd.grad(found, given.x)[0].isfinite().all()


@ours
def test_our_losses_on_views_and_with_others(given: Any, build: Any) -> None:
    x, y = given.x, given.x * 0.9 + 0.1
    index = torch.arange(len(x))
    found = losses.SelfSupervisedLoss(build())(x, y)
    torch.testing.assert_close(found, build()(torch.cat([x, y]), index.repeat(2)), **TOL)
    found = losses.SelfSupervisedLoss(build(), symmetric=False)(x, y)
    torch.testing.assert_close(found, build()(x, index, None, y, index.clone()), **TOL)
    both = losses.MultipleLosses({"one": build(), "two": build()}, weights={"one": 1, "two": 2})
    found = both(x, given.labels, None, given.ref, given.ref_labels)
    expected = 3 * build()(x, given.labels, None, given.ref, given.ref_labels)
    torch.testing.assert_close(found, expected, **TOL)
    answer("a list of losses", lambda: losses.MultipleLosses([build()])(x, given.labels))


@ours
def test_our_losses_against_gathered_rows(given: Any, build: Any) -> None:
    """The losses of two ranks, each of its own anchors, add up to that of the joined batch.

    Those of pairs do not, which have no one anchor: they need only work.
    """
    reason = "only the double has a stand-in for two ranks in one process"
    wrappers = pytest.importorskip("pytorch_metric_learning._wrappers", reason=reason)
    loss = build(reducer=reducers.SumReducer())
    halves = (given.x[:4], given.labels[:4]), (given.x[4:], given.labels[4:])
    found = sum(wrappers.LocalAnchor(loss, *b)(*a) for a, b in (halves, halves[::-1]))
    assert worked(found)
    if not isinstance(loss, NPairLoss):
        torch.testing.assert_close(found, loss(given.x, given.labels), **TOL)


def test_lifted_structure_loss_on_synthetic_negatives(given: Any) -> None:
    """It takes no references, so the negatives are rows of one batch with the real ones."""
    loss = losses.LiftedStructureLoss(pos_margin=0.1, neg_margin=1.5)
    for synthesizer in (LoOpMiner(), EmbeddingExpansion()):
        make = getattr(synthesizer, "synthesize", synthesizer)
        batch = make(given.x, given.labels)
        expected = loss(batch.ref_emb, batch.ref_labels, batch.indices_tuple)
        found = SyntheticLoss(loss, synthesizer)(given.x, given.labels)
        torch.testing.assert_close(found, expected, **TOL)
        (gradient,) = torch.autograd.grad(found, given.x)
        assert gradient.abs().max() > 0


RANK = """
import sys
import torch, torch.distributed as dist
from pytorch_metric_learning import losses
from pytorch_metric_learning.distributed import DistributedLossWrapper
from loopml import HPHNTripletLoss, LoOpMiner

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)

class Spy(losses.BaseMetricLossFunction):
    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        kinds = type(indices_tuple).__name__, None if ref_emb is None else ref_emb[:, 0].tolist()
        print("  rank", rank, "gets", embeddings[:, 0].tolist(), *kinds)
        rows = torch.arange(len(embeddings))
        return {"loss": {"losses": embeddings.sum(1), "indices": rows}}

labels = torch.tensor([0, 0, 1, 1])
for options in ({}, {"objective": "local_anchor"}, {"objective": "global"}, {"efficient": True}):
    x = (torch.arange(8.0).reshape(4, 2) + 10 * rank).requires_grad_()
    for loss in (Spy(), HPHNTripletLoss(synthesizer=LoOpMiner())):
        try:
            value = DistributedLossWrapper(loss, **options)(x, labels)
            (gradient,) = torch.autograd.grad(value, x)
            print(options, type(loss).__name__, value.item(), "gradient", gradient[0].tolist())
        except Exception as error:
            print(options, type(loss).__name__, "raises", repr(error))
    dist.barrier()
"""


@pytest.mark.real
def test_our_losses_on_two_ranks(tmp_path: Path) -> None:
    """The order of the gathered rows, the factor, the objectives: printed by each rank."""
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]
    for process in ranks:
        print(process.communicate(timeout=120)[0])
        assert process.returncode == 0


# 9: a matrix in place of distances.


@pytest.mark.parametrize("kind", losses.__all__)
def test_mat(given: Any, kind: str) -> None:
    mat = distances.LpDistance()(given.x)
    make = getattr(losses, kind)
    answer(kind, lambda: make().double()(given.x, given.labels, mat=mat))


@ours
def test_mat_for_our_losses(given: Any, build: Any) -> None:
    """It cannot be had from a matrix of real rows, so it must not pass unseen."""
    mat = distances.LpDistance()(given.x)
    found = answer("mat", lambda: build()(given.x, given.labels, mat=mat))
    assert isinstance(found, Exception)


# 10, 11: single questions.


@pytest.mark.real
def test_dynamic_soft_margin_twice(given: Any) -> None:
    """Release 2 keeps the graph of its histogram, so that the second step fails (issue 731)."""
    loss = losses.DynamicSoftMarginLoss().double()
    for step in ("first", "second"):
        answer(step, lambda: loss(given.x, given.labels).backward())
    print("state:", {name: tuple(value.shape) for name, value in loss.state_dict().items()})


def test_order_of_the_sampler() -> None:
    labels = [0, 1, 2, 3] * 6
    batches = []
    for _ in range(2):
        torch.manual_seed(0)
        sampler = samplers.MPerClassSampler(labels, m=2, batch_size=6, num_batches=4)
        batches.append([list(batch) for batch in sampler])
    print("torch.manual_seed decides:", batches[0] == batches[1])
    classes = [[labels[row] for row in batch] for batch in batches[0]]
    runs = all(one[::2] == one[1::2] for one in classes)
    print('runs of a class, as pairing="consecutive" wants:', runs, classes)


# 14: what users do with modules.


@ours
def test_our_losses_are_modules(given: Any, build: Any) -> None:
    loss = build()
    value = loss(given.x, given.labels)
    for copied in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(copied(given.x, given.labels), value)
    buffer = io.BytesIO()
    torch.save(loss.state_dict(), buffer)
    buffer.seek(0)
    build().load_state_dict(torch.load(buffer))
    assert repr(loss)


def test_our_losses_compile(given: Any) -> None:
    """In one graph on release 2, which an attribute that is not there may break."""
    loss = HPHNTripletLoss(synthesizer=LoOpMiner(pairing="consecutive"))
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    for fullgraph in (True, False):
        torch.compiler.reset()
        compiled = torch.compile(loss, fullgraph=fullgraph, backend="eager")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own
            found = answer(f"fullgraph={fullgraph}", lambda it=compiled: it(given.x, labels))
    torch.testing.assert_close(found, loss(given.x, labels), **TOL)
