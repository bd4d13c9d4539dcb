"""Our losses and miner in every home that pytorch-metric-learning has for a loss or a miner."""

import copy
import inspect
import io
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_metric_learning import distances, losses, reducers, samplers, trainers
from pytorch_metric_learning.regularizers import LpRegularizer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, NPairLoss, SyntheticLoss
from loopml.batch import Batch
from memory_queue import Queue

Loss = losses.BaseMetricLossFunction
Build = Callable[..., Loss]


def synthetic(loss: type[Loss], **options: Any) -> Build:
    """Builds a SyntheticLoss whose inner loss takes the options of a PML loss."""
    return lambda **more: SyntheticLoss(loss(**options, **more), LoOpMiner())


def own(loss: type[Loss], synthesizer: Any) -> Build:
    """Builds one of our own losses, with the options of a PML loss."""
    return lambda **more: loss(synthesizer=synthesizer and synthesizer(), **more)


# Between them the elements are of all four kinds: element, positive pair, negative pair, triplet.
LOSSES: dict[str, Build] = {
    "hphn": own(HPHNTripletLoss, None),
    "hphn ee": own(HPHNTripletLoss, EmbeddingExpansion),
    "hphn loop": own(HPHNTripletLoss, LoOpMiner),
    "n-pair": own(NPairLoss, None),
    "n-pair ee": own(NPairLoss, EmbeddingExpansion),
    "n-pair loop": own(NPairLoss, LoOpMiner),
    "supcon": synthetic(losses.SupConLoss, temperature=0.9),
    "ntxent": synthetic(losses.NTXentLoss, temperature=0.9),
    "contrastive": synthetic(losses.ContrastiveLoss),
    "triplet": synthetic(losses.TripletMarginLoss, margin=0.5),
}
losses_of_every_kind = pytest.mark.parametrize("build", LOSSES.values(), ids=LOSSES.keys())

# Uneven classes in any order; 9 is alone.
LABELS = torch.tensor([1, 0, 3, 1, 9, 0, 1, 3, 3, 0])
CLASSES = 10


def batch(seed: int = 0, labels: Tensor = LABELS, dim: int = 4) -> Tensor:
    """Embeddings of `labels`, float64, that want a gradient."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    shape = (len(labels), dim)
    return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)


def gradient(value: Tensor, x: Tensor) -> Tensor:
    """What `value` sends back to `x`."""
    return torch.autograd.grad(value, x, retain_graph=True)[0]


def anchors_of(part: dict[str, Any]) -> Tensor:
    """The anchor of each element of a part of an unreduced loss."""
    indices = part["indices"]
    return indices if isinstance(indices, Tensor) else indices[0]


# --- reducers ----------------------------------------------------------------------------------

WEIGHTS = torch.linspace(0.5, 2, CLASSES, dtype=torch.float64)

# The reducer for elements between two bounds, and what it must make of elements and their anchors.
ByHand = Callable[[Tensor, Tensor], Tensor]
REDUCERS: dict[str, Callable[[float, float], tuple[reducers.BaseReducer, ByHand]]] = {
    "mean": lambda *_: (reducers.MeanReducer(), lambda e, a: e.mean()),
    "sum": lambda *_: (reducers.SumReducer(), lambda e, a: e.sum()),
    "non-zero": lambda *_: (reducers.AvgNonZeroReducer(), lambda e, a: e[e > 0].mean()),
    "threshold": lambda low, high: (
        reducers.ThresholdReducer(low=low, high=high),
        lambda e, a: e[(e > low) & (e < high)].mean(),
    ),
    "class weighted": lambda *_: (
        reducers.ClassWeightedReducer(WEIGHTS),
        lambda e, a: (e * WEIGHTS[LABELS[a]]).mean(),
    ),
    "per anchor": lambda *_: (reducers.PerAnchorReducer(), mean_per_anchor),
}


def mean_per_anchor(elements: Tensor, anchors: Tensor) -> Tensor:
    """The mean of the means of each row's pairs, which are 0 where it has none."""
    if len(anchors) == len(anchors.unique()):
        return elements.mean()  # one element for each anchor already
    return torch.stack([elements[anchors == a].mean() for a in anchors.unique()]).sum() / len(
        LABELS
    )


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (loss, name)
        for loss in LOSSES
        for name in REDUCERS
        if name != "per anchor" or loss not in ("triplet", "contrastive")  # see the next test
    ],
)
def test_reducers_reduce_the_elements(loss: str, name: str) -> None:
    """A loss is its reducer's by-hand reduction of what DoNothingReducer hands out."""
    x, build = batch(), LOSSES[loss]
    parts = build(reducer=reducers.DoNothingReducer())(x, LABELS).values()
    elements = torch.cat([part["losses"] for part in parts]).detach()
    bounds = elements.quantile(torch.tensor([0.25, 0.75]).double()).tolist()
    reducer, by_hand = REDUCERS[name](*bounds)
    wanted = sum(by_hand(part["losses"], anchors_of(part)) for part in parts)
    value = build(reducer=reducer)(x, LABELS)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(gradient(value, x), gradient(wanted, x))


OWN = ("hphn", "hphn ee", "hphn loop", "n-pair", "n-pair ee", "n-pair loop")


@pytest.mark.parametrize("name", OWN)
def test_divisor_is_the_number_of_elements(name: str) -> None:
    """DivisorReducer, alone and in MultipleReducers, takes the mean of our elements."""
    x, divisor = batch(), reducers.DivisorReducer(collect_stats=True)
    elements = LOSSES[name](reducer=reducers.DoNothingReducer())(x, LABELS)["loss"]["losses"]
    loss = LOSSES[name](reducer=divisor)
    several = LOSSES[name](reducer=reducers.MultipleReducers({"loss": divisor}))
    for reduced in (loss, several):
        torch.testing.assert_close(reduced(x, LABELS), elements.mean())
    assert loss.reducer.divisor == len(elements)
    assert loss(x, torch.arange(len(LABELS))) == 0


@pytest.mark.parametrize("name", OWN)
def test_the_mean_keeps_its_stats(name: str) -> None:
    """A mean that collects stats has the same value, and counts what it is the mean of."""
    x = batch()
    elements = LOSSES[name](reducer=reducers.DoNothingReducer())(x, LABELS)["loss"]["losses"]
    loss = LOSSES[name](reducer=reducers.MeanReducer(collect_stats=True))
    value = loss(x, LABELS)
    assert loss.reducer.losses_size == len(elements)
    torch.testing.assert_close(value, LOSSES[name]()(x, LABELS))
    torch.testing.assert_close(gradient(value, x), gradient(elements.mean(), x))


def test_reducers_have_limits() -> None:
    """Limits that PML has without us; the recipes name them until this test fails."""
    x, reducer = batch(), reducers.PerAnchorReducer()
    with pytest.raises(NotImplementedError, match="Triplet"):
        losses.TripletMarginLoss(reducer=reducer)(x, LABELS)
    with pytest.raises(IndexError):
        losses.ContrastiveLoss(reducer=reducer)(
            x, LABELS, ref_emb=x.repeat(2, 1), ref_labels=LABELS.repeat(2)
        )
    # Elements in a column meet every weight, not their own.
    (part,) = losses.MultiSimilarityLoss(reducer=reducers.DoNothingReducer())(x, LABELS).values()
    assert part["losses"].shape == (len(x), 1)
    weighted = losses.MultiSimilarityLoss(reducer=reducers.ClassWeightedReducer(WEIGHTS))
    torch.testing.assert_close(weighted(x, LABELS), part["losses"].mean() * WEIGHTS[LABELS].mean())


@losses_of_every_kind
def test_elements_lie_with_their_anchors(build: Build) -> None:
    """Every element names the row that it is of; a lone row has no loss."""
    for part in build(reducer=reducers.DoNothingReducer())(batch(), LABELS).values():
        assert len(anchors_of(part)) == len(part["losses"])
        assert not part["losses"][LABELS[anchors_of(part)] == 9].any()


# --- distances ---------------------------------------------------------------------------------

EUCLIDEAN = {
    "l2": distances.LpDistance,
    "raw l2": lambda: distances.LpDistance(normalize_embeddings=False),
}
PRODUCTS = {
    "cosine": distances.CosineSimilarity,
    "dot": distances.DotProductSimilarity,
    "raw dot": lambda: distances.DotProductSimilarity(normalize_embeddings=False),
}
OTHERS = {
    "l1": lambda: distances.LpDistance(p=1),
    "snr": distances.SNRDistance,
    "batched": lambda: distances.BatchedDistance(distances.LpDistance()),
}
TAKES = {"hphn": EUCLIDEAN, "n-pair": PRODUCTS, "contrastive": EUCLIDEAN | PRODUCTS}


@pytest.mark.parametrize(
    ("loss", "distance"), [(loss, name) for loss, taken in TAKES.items() for name in taken]
)
def test_distances_that_are_taken(loss: str, distance: str) -> None:
    """The gradient is finite, not zero, and along the embedding exactly where it is not seen."""
    seen = TAKES[loss][distance]()
    x = batch()
    margins = {"pos_margin": 9, "neg_margin": -9} if loss == "contrastive" else {}
    if not seen.is_inverted:
        margins = {"neg_margin": 9} if margins else {}
    slope = gradient(LOSSES[loss](distance=seen, **margins)(x, LABELS), x)
    assert slope.isfinite().all()
    assert slope.abs().sum() > 0
    radial = (slope * x).sum(1).abs().max()
    assert (radial < 1e-12) == seen.normalize_embeddings


ALL_DISTANCES = {**EUCLIDEAN, **PRODUCTS, **OTHERS}


@pytest.mark.parametrize(
    ("home", "distance"),
    [
        (home, name)
        for home, taken in {**TAKES, "miner": EUCLIDEAN | PRODUCTS}.items()
        for name in ALL_DISTANCES
        if name not in taken
    ],
)
def test_distances_that_are_refused(home: str, distance: str) -> None:
    """Every other distance is refused when the loss is built, with its name and the reason."""
    seen = ALL_DISTANCES[distance]()
    with pytest.raises((ValueError, TypeError), match=type(seen).__name__) as error:
        (LoOpMiner if home == "miner" else LOSSES[home])(distance=seen)
    assert "distance must " in str(error.value)


# --- regularisers, wrappers --------------------------------------------------------------------


@pytest.mark.parametrize("with_references", [False, True])
@losses_of_every_kind
def test_regularizer_sees_each_row_of_the_batch_once(build: Build, with_references: bool) -> None:
    """embedding_regularizer adds its value on the batch, not on references or synthetic rows."""
    x = batch()
    references = {"ref_emb": 5 * batch(1), "ref_labels": LABELS} if with_references else {}
    regularized = build(embedding_regularizer=LpRegularizer(), embedding_reg_weight=0.3)
    added = regularized(x, LABELS, **references) - build()(x, LABELS, **references)
    torch.testing.assert_close(added, 0.3 * x.norm(dim=1).mean())


def test_multiple_losses_is_the_weighted_sum() -> None:
    """MultipleLosses of ours, a synthetic and a plain one, by list, and by name with a miner."""
    x = batch()
    parts = [LOSSES[name]() for name in ("hphn loop", "n-pair ee", "triplet")]
    weights = [1, 0.5, 0.1]
    values = [loss(x, LABELS) for loss in parts]
    wanted = sum(w * value for w, value in zip(weights, values, strict=True))
    torch.testing.assert_close(losses.MultipleLosses(parts, weights=weights)(x, LABELS), wanted)

    miner, plain = LoOpMiner(), losses.ContrastiveLoss()
    named = losses.MultipleLosses(
        {"ours": parts[0], "plain": plain}, {"plain": miner}, {"ours": 1, "plain": 2}
    )
    wanted = values[0] + 2 * plain(x, LABELS, miner(x, LABELS))
    torch.testing.assert_close(named(x, LABELS), wanted)


@losses_of_every_kind
def test_self_supervised_route(build: Build) -> None:
    """Two views with labels counted twice are pairs of views, in whatever order they lie."""
    one, two = batch(1), batch(2)
    n = len(one)
    value = build()(torch.cat([one, two]), torch.arange(n).repeat(2))
    interleaved = torch.stack([one, two], 1).flatten(0, 1)
    wanted = build()(interleaved, torch.arange(n).repeat_interleave(2))
    torch.testing.assert_close(value, wanted)
    for view in (one, two):
        torch.testing.assert_close(gradient(value, view), gradient(wanted, view))


def test_self_supervised_route_is_that_of_pml() -> None:
    """For a loss that SelfSupervisedLoss takes by name, wrapper and route are one and the same."""
    one, two = batch(1), batch(2)
    n = len(one)
    loss, both = losses.NTXentLoss(), torch.cat([one, two])
    wanted = losses.SelfSupervisedLoss(loss)(one, two)
    torch.testing.assert_close(loss(both, torch.arange(n).repeat(2)), wanted)
    one_way = losses.SelfSupervisedLoss(loss, symmetric=False)(one, two)
    index = torch.arange(n)
    # A copy: labels that are one tensor mean to PML that the references are the batch.
    torch.testing.assert_close(loss(one, index, ref_emb=two, ref_labels=index.clone()), one_way)


def test_self_supervised_hphn_by_hand() -> None:
    """relu(distance to the other view - distance to the nearest other row + margin)."""
    one, two = batch(1), batch(2)
    n = len(one)
    both = torch.cat([one, two])
    unit = both / both.norm(dim=1, keepdim=True)
    apart = (unit.unsqueeze(1) - unit).norm(dim=2)
    index = torch.arange(n).repeat(2)
    nearest = apart.masked_fill(index.unsqueeze(1) == index, torch.inf).amin(1)
    other = apart[torch.arange(2 * n), torch.arange(2 * n).roll(n)]
    wanted = torch.relu(other - nearest + 0.2).mean()
    torch.testing.assert_close(HPHNTripletLoss(0.2)(both, index), wanted)


@pytest.mark.parametrize("loss", [HPHNTripletLoss(), NPairLoss(), LOSSES["triplet"]()])
def test_wrappers_that_take_losses_by_name_refuse_ours(loss: Loss) -> None:
    """Why the routes exist: once PML takes our losses, this fails and the recipes can go."""
    with pytest.raises(Exception, match=f"not supported for {type(loss).__name__}"):
        losses.SelfSupervisedLoss(loss)
    with pytest.raises(Exception, match=f"not supported for {type(loss).__name__}"):
        losses.CrossBatchMemory(loss, embedding_size=4)


# --- memory ------------------------------------------------------------------------------------


def blobs(step: int) -> tuple[Tensor, Tensor]:
    """8 inputs of 4 blobs in 6 dimensions, of which the first two are noise."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(step)
    noise = torch.randn((8, 6), generator=generator) * torch.tensor([1, 1, 0.3, 0.3, 0.3, 0.3])
    return torch.eye(6)[2:].repeat(2, 1) + noise, torch.arange(4).repeat(2)


Step = Callable[[Tensor, Tensor], Tensor]


def fall(step_loss: Step, held_out_loss: Step) -> float:
    """By which share a loss on held-out blobs falls when 20 steps train on `step_loss`."""
    net = nn.Linear(6, 3)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    inputs, labels = map(torch.cat, zip(*map(blobs, range(100, 103)), strict=True))
    before = held_out_loss(net(inputs), labels).item()
    for x, targets in map(blobs, range(20)):
        optimizer.zero_grad()
        step_loss(net(x), targets).backward()
        optimizer.step()
    return 1 - held_out_loss(net(inputs), labels).item() / before


@pytest.mark.parametrize("inner", [losses.TripletMarginLoss, losses.ContrastiveLoss])
def test_cross_batch_memory_trains(inner: type[Loss]) -> None:
    """The loss falls over a memory that wraps around inside a batch, and no row meets itself."""
    miner, loss = LoOpMiner(), inner(reducer=reducers.MeanReducer())
    memory = losses.CrossBatchMemory(loss, embedding_size=3, memory_size=21, miner=miner)
    plain, highest = loss.forward, []

    def checked(embeddings: Tensor, labels: Tensor, indices: Any, *references: Tensor) -> Tensor:
        anchor, positive, negative = indices
        if references:
            assert (memory.curr_batch_idx[anchor] != positive).all()
            assert (labels[anchor] == references[1][positive]).all()
            assert (labels[anchor] != references[1][negative]).all()
            highest.append(int(negative.max()))
        return plain(embeddings, labels, indices, *references)

    loss.forward = checked
    # Measured over seeds: 0.12 to 0.45.
    assert fall(memory, lambda x, labels: loss(x, labels, miner(x, labels))) > 0.05
    assert memory.has_been_filled
    assert len(highest) == 20
    assert max(highest) == 20  # negatives come from all of the memory


QUEUED: dict[str, Build] = {
    name: LOSSES[name] for name in ("hphn ee", "hphn loop", "n-pair loop", "triplet", "contrastive")
}


@pytest.mark.parametrize("build", QUEUED.values(), ids=QUEUED.keys())
def test_synthetic_negatives_against_a_queue(build: Build) -> None:
    """Training against the queue: the loss falls, and the queue holds real rows alone."""
    loss_fn, queue, seen = build(), Queue(dim=3, size=21), []

    def step_loss(embeddings: Tensor, labels: Tensor) -> Tensor:
        value = loss_fn(embeddings, labels, **queue.references(embeddings, labels))
        queue.enqueue(embeddings, labels)
        seen.extend(zip(embeddings.detach(), labels, strict=True))
        return value

    assert fall(step_loss, loss_fn) > 0.05  # over seeds: 0.09 to 0.68
    rows, row_labels = zip(*seen[-21:], strict=True)
    torch.testing.assert_close(queue.embeddings, torch.stack(rows), rtol=0, atol=0)
    assert torch.equal(queue.labels, torch.stack(row_labels))
    assert not queue.embeddings.requires_grad


def test_queue_is_used_and_gets_no_gradient() -> None:
    """Queued classes are negatives of the batch, and only the batch is trained."""
    x, labels = batch(), torch.zeros(len(LABELS), dtype=torch.int64)
    queued = batch(1)
    loss = HPHNTripletLoss(margin=1, synthesizer=LoOpMiner())
    assert loss(x, labels) == 0  # one class has no negatives of its own
    queue = Queue(dim=4, size=len(queued), dtype=torch.float64)
    queue.enqueue(queued, labels + 1)
    value = loss(x, labels, **queue.references(x, labels))
    assert gradient(value, x).abs().sum() > 0
    assert torch.autograd.grad(value, queued, allow_unused=True) == (None,)


# --- references --------------------------------------------------------------------------------


# Plain N-pair takes each pair once, from its first row; with references each row is an anchor.
BOTH_WAYS = {name: build for name, build in LOSSES.items() if name != "n-pair"}


@pytest.mark.parametrize("copied", [False, True], ids=["same tensor", "copy"])
@pytest.mark.parametrize("build", BOTH_WAYS.values(), ids=BOTH_WAYS.keys())
def test_the_batch_as_its_own_reference_changes_nothing(build: Build, copied: bool) -> None:
    """Value and gradient with ref_emb = the batch are those without."""
    x, loss = batch(), build()
    value = loss(x, LABELS)
    references = (x.clone(), LABELS.clone()) if copied else (x, LABELS)
    referred = loss(x, LABELS, ref_emb=references[0], ref_labels=references[1])
    torch.testing.assert_close(referred, value)
    torch.testing.assert_close(gradient(referred, x), gradient(value, x))


def test_a_sample_is_never_its_own_positive() -> None:
    """References that begin with the batch: a row that is alone there stays without a positive."""
    x, others = batch(), batch(1)
    references = torch.cat([x, others]).detach(), torch.cat([LABELS, LABELS + 20])
    anchor, positive, _ = LoOpMiner(num_negatives=None)(x, LABELS, *references)
    assert (anchor != positive).all()
    assert 4 not in anchor.tolist()  # the row with label 9
    for build in LOSSES.values():
        parts = build(reducer=reducers.DoNothingReducer())(
            x, LABELS, ref_emb=references[0], ref_labels=references[1]
        )
        for part in parts.values():
            assert not part["losses"][anchors_of(part) == 4].any()
            if not isinstance(part["indices"], Tensor):
                assert (part["indices"][0] != part["indices"][1]).all()


# --- samplers and trainers ---------------------------------------------------------------------


def dataset() -> tuple[TensorDataset, Tensor]:
    """40 blob inputs of 4 classes, and their labels."""
    inputs, labels = map(torch.cat, zip(*map(blobs, range(5)), strict=True))
    return TensorDataset(inputs, labels), labels


def hierarchical(data: TensorDataset, labels: Tensor) -> DataLoader[Any]:
    two_levels = torch.stack([labels, labels // 2], 1)
    return DataLoader(data, batch_sampler=samplers.HierarchicalSampler(two_levels, 8, 2))


def by_hardness(data: TensorDataset, labels: Tensor) -> DataLoader[Any]:
    sampler = samplers.TuplesToWeightsSampler(
        nn.Identity(), LoOpMiner(), data, dataloader_num_workers=0, data_device=torch.device("cpu")
    )
    return DataLoader(data, 10, sampler=sampler)


LOADERS: dict[str, Callable[[TensorDataset, Tensor], DataLoader[Any]]] = {
    "m per class": lambda data, labels: DataLoader(
        data, 8, sampler=samplers.MPerClassSampler(labels, 2, 8, 16)
    ),
    "hierarchical": hierarchical,
    "triplets": lambda data, labels: DataLoader(
        data, 12, sampler=samplers.FixedSetOfTriplets(labels, 8)
    ),
    "by hardness": by_hardness,
}


@pytest.fixture
def _numpy_seed() -> Iterator[None]:
    """PML's samplers draw from numpy's global generator."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    yield
    np.random.set_state(state)  # noqa: NPY002


@pytest.mark.usefixtures("_numpy_seed")
@pytest.mark.parametrize("name", LOADERS)
def test_batches_of_samplers(name: str) -> None:
    """Whatever a sampler puts into a batch, repeated rows too, every loss trains on it."""
    for x, labels in LOADERS[name](*dataset()):
        x.requires_grad_()
        for loss, build in LOSSES.items():
            slope = gradient(build()(x, labels), x)
            assert slope.isfinite().all()
            assert slope.abs().sum() > 0, loss


@pytest.mark.usefixtures("_numpy_seed")
def test_two_per_class_are_consecutive_pairs() -> None:
    """MPerClassSampler with m=2 makes the batches that pairing="consecutive" wants."""
    for x, labels in LOADERS["m per class"](*dataset()):
        value = HPHNTripletLoss(synthesizer=LoOpMiner(pairing="consecutive"))(x, labels)
        wanted = HPHNTripletLoss(synthesizer=LoOpMiner())(x, labels)
        torch.testing.assert_close(value, wanted)  # with two per class there are no other pairs


TRAINED: dict[str, tuple[Loss, dict[str, Any]]] = {
    **{name: (LOSSES[name](), {}) for name in ("hphn loop", "n-pair ee", "ntxent")},
    "mined": (losses.TripletMarginLoss(), {"tuple_miner": LoOpMiner()}),
}


@pytest.mark.usefixtures("_numpy_seed")
# PML formats the loss of a step as it is.
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
@pytest.mark.parametrize("with_classifier", [False, True])
@pytest.mark.parametrize("name", TRAINED)
def test_trainers_train(name: str, with_classifier: bool) -> None:
    """MetricLossOnly and TrainWithClassifier move every weight, with our losses and our miner."""
    data, labels = dataset()
    loss, mining = TRAINED[name]
    nets: dict[str, nn.Module] = {"trunk": nn.Linear(6, 5), "embedder": nn.Linear(5, 3)}
    loss_funcs: dict[str, nn.Module] = {"metric_loss": loss}
    if with_classifier:
        nets["classifier"] = nn.Linear(3, 4)
        loss_funcs["classifier_loss"] = nn.CrossEntropyLoss()
    before = copy.deepcopy(nets)
    optimizers = {f"{k}_optimizer": torch.optim.SGD(v.parameters(), 0.1) for k, v in nets.items()}
    seen: list[float] = []
    kind = trainers.TrainWithClassifier if with_classifier else trainers.MetricLossOnly
    trainer = kind(
        models=nets,
        optimizers=optimizers,
        batch_size=8,
        loss_funcs=loss_funcs,
        mining_funcs=mining,
        dataset=data,
        sampler=samplers.MPerClassSampler(labels, 2, 8, 24),
        dataloader_num_workers=0,
        data_device=torch.device("cpu"),
        end_of_iteration_hook=lambda t: seen.append(t.losses["metric_loss"].item()),
    )
    trainer.train(num_epochs=1)
    assert len(seen) == 3
    assert min(seen) > 0
    for key, net in nets.items():
        for new, old in zip(net.parameters(), before[key].parameters(), strict=True):
            assert new.isfinite().all()
            # A bias shifts all embeddings alike, which distances may not see.
            assert new.ndim == 1 or not torch.equal(new, old)


# --- batches of which nothing is learned --------------------------------------------------------

IDLE = {
    "a positive pair": torch.arange(len(LABELS)),
    "a second class": torch.zeros(len(LABELS), dtype=torch.int64),
}


def warned(loss: Loss, *labels: Tensor, **references: Tensor) -> list[warnings.WarningMessage]:
    """What a loss says of batches with these labels, one after the other."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for y in labels:
            loss(batch(labels=y), y, **references)
    return said


@pytest.mark.parametrize("reducer", [reducers.MeanReducer, reducers.SumReducer])
@pytest.mark.parametrize("missing", IDLE)
@losses_of_every_kind
def test_idle_batches_are_said_once(
    build: Build, missing: str, reducer: type[reducers.BaseReducer]
) -> None:
    """From the second in a row on, once, by name and cause."""
    loss, idle = build(reducer=reducer()), IDLE[missing]
    assert not warned(loss, LABELS, idle, LABELS, idle)  # as ends of epochs: never two in a row
    (warning,) = warned(loss, idle, idle, LABELS, idle, idle)
    assert warning.category is UserWarning
    assert f"{type(loss).__name__} got two batches in a row without {missing}" in str(
        warning.message
    )
    assert len(warned(build(reducer=reducer()), idle, idle)) == 1  # an object, not the process


@pytest.mark.parametrize("name", ["hphn", "n-pair loop", "triplet"])
def test_the_warning_is_at_the_line_of_the_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The shape check of the tests is a frame more.
    monkeypatch.setattr(SyntheticLoss, "forward", inspect.unwrap(SyntheticLoss.forward))
    idle = IDLE["a positive pair"]
    (warning,) = warned(LOSSES[name](), idle, idle)
    assert warning.filename == __file__


@losses_of_every_kind
def test_idle_batches_with_references(build: Build) -> None:
    """What the references hold counts too, for positives and for negatives."""
    lone, one = IDLE.values()
    references = {"ref_emb": batch(1), "ref_labels": lone.flip(0)}
    assert not warned(build(), lone, lone, lone, **references)
    references["ref_labels"] = lone + 100
    for labels in (lone, one):
        (warning,) = warned(build(), labels, labels, **references)
        assert "without a positive pair" in str(warning.message)
    references["ref_labels"] = one
    (warning,) = warned(build(), one, one, **references)
    assert "without a second class" in str(warning.message)


@losses_of_every_kind
@pytest.mark.parametrize("carry_over", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
# pickle.loads of a parameter calls torch.load, in torch 2.4 by its default that is to change.
@pytest.mark.filterwarnings("ignore:You are using `torch.load`:FutureWarning")
def test_a_copy_goes_on_counting(build: Build, carry_over: Callable[[Loss], Loss]) -> None:
    loss, idle = build(), IDLE["a positive pair"]
    assert not warned(loss, idle)
    copied = carry_over(loss)
    assert len(warned(copied, idle)) == 1
    assert not warned(carry_over(copied), idle, idle)
    assert not loss.state_dict().keys() - build().state_dict().keys()


@losses_of_every_kind
def test_nobody_counts_where_nobody_reads(build: Build) -> None:
    """Under torch.func nothing is said and no state is changed."""
    loss, idle = build(), IDLE["a positive pair"]
    before = dict(vars(loss))
    for _ in range(3):
        torch.func.grad(lambda x: loss(x, idle))(batch())
    assert vars(loss) == before


def mine(module: Any, x: Tensor, y: Tensor) -> None:
    """A miner, or a synthesizer, with a loss of the host."""
    loss = losses.TripletMarginLoss()
    if isinstance(module, EmbeddingExpansion):
        loss(*module(x, y))
    else:
        loss(x, y, module(x, y))


def synthesize(module: LoOpMiner, x: Tensor, y: Tensor) -> None:
    """The same miner as a synthesizer."""
    losses.TripletMarginLoss()(*module.synthesize(x, y))


@pytest.mark.parametrize("missing", IDLE)
@pytest.mark.parametrize(
    ("kind", "use"), [(LoOpMiner, mine), (LoOpMiner, synthesize), (EmbeddingExpansion, mine)]
)
def test_idle_batches_of_a_miner_are_said_once(
    kind: type,
    use: Callable[[Any, Tensor, Tensor], None],
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By each object, at the line that calls it; a loss that uses one speaks for itself."""
    for name in ("forward", "mine", "synthesize"):  # the shape check of the tests is a frame more
        if hasattr(kind, name):
            monkeypatch.setattr(kind, name, inspect.unwrap(getattr(kind, name)))
    module, idle = kind(), IDLE[missing]
    x = batch()
    for _ in range(3):
        use(module, x.detach(), idle)  # trains nothing

    def said(*labels: Tensor) -> list[warnings.WarningMessage]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for y in labels:
                use(module, x, y)
        return found

    assert not said(LABELS, idle, LABELS, idle, LABELS)
    (warning,) = said(idle, idle, LABELS, idle, idle)
    assert f"{kind.__name__} got two batches in a row without {missing}" in str(warning.message)
    assert "MPerClassSampler" in str(warning.message)
    assert warning.filename == __file__
    module = kind()
    (warning,) = warned(SyntheticLoss(losses.TripletMarginLoss(), module), idle, idle)
    assert str(warning.message).startswith("SyntheticLoss got")
    assert len(said(idle, idle)) == 1


@losses_of_every_kind
def test_a_shuffled_loader_of_many_classes_is_said_once(build: Build) -> None:
    """5,000 classes in batches of 64: most have no positive pair."""
    labels = torch.arange(5000).repeat(4)[torch.randperm(20000)].unfold(0, 64, 64)[:50]
    lone = [len(y.unique()) == len(y) for y in labels]
    assert 30 < sum(lone) < 50
    assert len(warned(build(), *labels)) == 1


@pytest.mark.usefixtures("_numpy_seed")
@pytest.mark.parametrize("size", [7, 64])
def test_the_sampler_that_the_warning_names_works(size: int) -> None:
    """A shuffled loader of 5,000 classes is warned of; the line in the warning is not."""
    labels = torch.arange(5000).repeat(4)
    dataset = TensorDataset(torch.randn(len(labels), 3), labels)
    loss, loader = HPHNTripletLoss(), DataLoader(dataset, size, shuffle=True)
    shuffled = [y for (_, y), _ in zip(loader, range(20), strict=False)]
    (warning,) = warned(loss, *shuffled)
    line = re.search(r"DataLoader\(.*\)\)", str(warning.message))
    assert line is not None
    names = {"DataLoader": DataLoader, "MPerClassSampler": samplers.MPerClassSampler}
    advised = eval(line[0], {**names, "dataset": dataset, "labels": labels})
    for (x, y), _ in zip(advised, range(20), strict=False):
        assert loss(x, y) > 0


# --- values that nobody reads -------------------------------------------------------------------

UNUSABLE = {"nan": float("nan"), "inf": float("-inf"), "too large": 1e160}


def sum_of(result: Any) -> Tensor:
    """A loss, or the elements of an unreduced one, as a number."""
    if isinstance(result, Tensor):
        return result
    return sum(torch.as_tensor(part["losses"]).sum() for part in result.values())


KEPT_REDUCERS = ("mean", "sum", "non-zero", "class weighted", "do nothing")


@pytest.mark.parametrize("reducer", KEPT_REDUCERS)
@losses_of_every_kind
def test_a_value_that_nobody_reads_shows(build: Build, reducer: str) -> None:
    """Under torch.func one bad value makes loss and gradient NaN, whatever the labels.

    The values take turns, so that each meets every kind of labels, and each of the two places.
    """
    nothing = reducers.DoNothingReducer()
    loss = build(reducer=nothing if reducer == "do nothing" else REDUCERS[reducer](0, 1)[0])
    values = [*UNUSABLE.values()]
    for turn, labels in enumerate((LABELS, *IDLE.values()), KEPT_REDUCERS.index(reducer)):
        for shift, place in enumerate(("embeddings", "ref_emb")):
            tensors = {"embeddings": batch().detach(), "ref_emb": batch(1).detach()}
            tensors[place][3, 2] = values[(turn + shift) % len(values)]

            def of(embeddings: Tensor, ref_emb: Tensor, labels: Tensor = labels) -> Tensor:
                references = {"ref_emb": ref_emb, "ref_labels": labels}
                return sum_of(loss(embeddings, labels % CLASSES, **references))

            slope, found = torch.func.grad_and_value(of)(*tensors.values())
            assert found.isnan()
            assert slope.isnan().all()


SYNTHESIZERS = {
    "loop": LoOpMiner().synthesize,
    "loop all": LoOpMiner(num_negatives=None).synthesize,
    "ee": EmbeddingExpansion(),
    "mined": lambda x, y, *references: (x, y, LoOpMiner()(x, y, *references), *references),
}


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        (name, place, value)
        for name in SYNTHESIZERS
        for place in (0, 1)
        for value in UNUSABLE
        # A loss of mined rows gets them as they are: what it makes of its references, and of rows
        # that are merely large, is its own.
        if name != "mined" or (place == 0 and value != "too large")
    ],
)
def test_a_synthesized_batch_hides_no_value(name: str, place: int, value: str) -> None:
    """loss_fn(*synthesizer(...)) is NaN as well, and loss_fn(x, y, miner(x, y))."""
    tensors = [batch().detach(), batch(1).detach()]
    tensors[place][3, 2] = UNUSABLE[value]

    def of(x: Tensor, ref: Tensor) -> Tensor:
        references = (ref, LABELS) if place else ()
        return losses.TripletMarginLoss()(*SYNTHESIZERS[name](x, LABELS, *references))

    assert torch.func.grad_and_value(of)(*tensors)[1].isnan()


def test_elements_that_lost_the_nan_are_nan() -> None:
    """Whatever becomes of NaN in a search or a measure, each element of its batch is NaN."""

    class Forgetful(HPHNTripletLoss):
        def elements(self, batch: Batch) -> Any:
            found = super().elements(Batch(torch.ones_like(batch.embeddings), batch.labels))
            return found._replace(valid=torch.zeros_like(found.valid))

    x = batch().detach()
    x[3, 2] = torch.nan
    for reducer in (reducers.MeanReducer(), reducers.SumReducer()):
        loss = Forgetful(reducer=reducer)
        assert torch.func.grad_and_value(lambda x, loss=loss: loss(x, LABELS))(x)[1].isnan()


@pytest.fixture
def _unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA: values are not looked at."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "loopml" and "values_readable" in vars(module):
            monkeypatch.setattr(module, "values_readable", lambda x: False)


@pytest.mark.parametrize("reducer", ["mean", "sum"])
@losses_of_every_kind
def test_usable_values_change_no_bit_where_nobody_reads(
    build: Build, reducer: str, request: pytest.FixtureRequest
) -> None:
    """Loss and gradient are those of values that were read, minus zeros included."""
    results = []
    for unread in (False, True):
        if unread:
            request.getfixturevalue("_unread")
        x = batch()
        x.data[::2, 0] = -0.0
        value = build(reducer=REDUCERS[reducer](0, 1)[0])(x, LABELS)
        results.append((value, gradient(value, x)))
        for labels in IDLE.values():
            value = build(reducer=REDUCERS[reducer](0, 1)[0])(x, labels)
            assert value == 0
            assert not gradient(value, x).any()
    assert all(map(torch.equal, *results))


@pytest.mark.usefixtures("_unread")
@losses_of_every_kind
def test_unread_values_show_outside_transforms(build: Build) -> None:
    x = batch()
    x.data[3, 2] = float("nan")
    value = build()(x, LABELS)
    assert value.isnan()
    assert gradient(value, x).isnan().all()


# --- as modules --------------------------------------------------------------------------------

MODULES: dict[str, Callable[[], nn.Module]] = {
    **LOSSES,
    "learned margin": lambda: SyntheticLoss(
        losses.MarginLoss(learn_beta=True, num_classes=CLASSES), EmbeddingExpansion(1)
    ),
    "miner": lambda: LoOpMiner(num_negatives=3),
    "expansion": EmbeddingExpansion,
}


def pickled(module: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(module))


def saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def reloaded(module: nn.Module) -> nn.Module:
    fresh = copy.deepcopy(module)
    for parameter in fresh.parameters():
        parameter.data.zero_()
    fresh.load_state_dict(module.state_dict())
    return fresh


def flat(result: Any) -> list[Tensor]:
    """The tensors of a loss, of triplets or of a SyntheticBatch."""
    return [result] if isinstance(result, Tensor) else [t for part in result for t in flat(part)]


# pickle.loads of a parameter calls torch.load, in torch 2.4 by its default that is to change.
@pytest.mark.filterwarnings("ignore:You are using `torch.load`:FutureWarning")
@pytest.mark.parametrize("carry_over", [copy.deepcopy, pickled, saved, reloaded])
@pytest.mark.parametrize("name", MODULES)
def test_copies_compute_the_same(name: str, carry_over: Callable[[nn.Module], nn.Module]) -> None:
    """Copied, pickled, saved, or loaded from a state_dict, also after use: the same module."""
    module, x = MODULES[name](), batch()
    wanted = flat(module(x, LABELS))
    other = carry_over(module)
    assert other is not module
    assert repr(other) == repr(module)
    found = flat(other(x, LABELS))
    assert len(found) == len(wanted)
    assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("name", MODULES)
def test_moves_like_a_module(name: str) -> None:
    """.to, .train and .eval return the module itself and change no result."""
    module, x = MODULES[name](), batch()
    wanted = flat(module(x, LABELS))
    for moved in (module.to(torch.float64), module.to("cpu"), module.eval(), module.train()):
        assert moved is module
        for found, value in zip(flat(moved(x, LABELS)), wanted, strict=True):
            torch.testing.assert_close(found, value, check_dtype=False, rtol=1e-6, atol=1e-6)
    assert all(p.dtype == torch.float64 for p in module.parameters())


OPTIONS = {
    "hphn loop": ("HPHNTripletLoss(", "margin=0.2", "soft_margin=False", "LoOpMiner("),
    "n-pair ee": ("NPairLoss(", "l2_reg=0.0", "EmbeddingExpansion(n_points=2"),
    "triplet": ("SyntheticLoss(", "TripletMarginLoss(", "num_negatives=1"),
    "miner": ("LoOpMiner(", "geometry='auto'", "pairing='auto'", "num_negatives=3", "LpDistance"),
    "expansion": ("EmbeddingExpansion(", "n_points=2", "normalize=True", "pairing='auto'"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_repr_has_the_options(name: str) -> None:
    text = repr(MODULES[name]())
    for word in OPTIONS[name]:
        assert word in text


# --- mixed precision ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@losses_of_every_kind
def test_half_precision_is_computed_in_float32(build: Build, dtype: torch.dtype) -> None:
    """Under autocast a loss of half embeddings is that of the same numbers in float32."""
    x, net = batch().detach().float(), nn.Linear(4, 4)
    with torch.autocast("cpu", dtype=dtype):
        embeddings = net(x)
        assert embeddings.dtype == dtype
        value = build()(embeddings, LABELS)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, build()(embeddings.float(), LABELS))
    value.backward()
    assert net.weight.grad is not None
    assert net.weight.grad.isfinite().all()
    assert net.weight.grad.abs().sum() > 0
