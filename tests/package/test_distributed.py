r"""Two gloo processes compute what one process computes on the joined batch.

PML's DistributedLossWrapper gathers the rows of all W ranks, of which only a rank's own carry a
gradient, and multiplies the loss L of the joined batch by W. So rank r is left with

    W * dL / d(its own embeddings)

and DistributedDataParallel, which averages the gradients of the W ranks, gives every weight

    1/W * sum_r W * dL / d(embeddings of r) * d(embeddings of r) / d(weight) = dL / d(weight),

the gradient of one process on the joined batch. Both are tested, in float64 to 1e-6.

With ``efficient=True`` rank r computes the loss L_r of its own anchors alone, against the rows of
all ranks. It is left with ``W * dL_r / d(its own embeddings)``; what its rows do as positives and
negatives of the anchors of other ranks is missing. So the value is that of its share of the joined
batch, and the gradient is not the joined one. This is pinned too.

This file is also what the two processes run: ``python test_distributed.py RANK FOLDER``.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pytorch_metric_learning import losses
from pytorch_metric_learning.reducers import DoNothingReducer, MeanReducer
from pytorch_metric_learning.utils.distributed import (
    DistributedLossWrapper,
    DistributedMinerWrapper,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, NPairLoss, SyntheticLoss

WORLD, ROWS = 2, 8
# Classes of uneven size on both ranks; 9 is alone, 4 and 5 have a row on each rank.
LABELS = torch.tensor([[0, 4, 1, 0, 1, 5, 0, 2], [5, 2, 0, 9, 4, 2, 3, 3]])
# As the sampler of each rank gives them for pairing="consecutive".
PAIRS = torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 4, 4, 2, 2, 5, 5]])
# No class is on both ranks.
APART = torch.tensor([[0, 1, 1, 0, 2, 0, 2, 1], [3, 4, 3, 4, 5, 5, 3, 9]])

TOL = {"rtol": 1e-6, "atol": 1e-6}

pytestmark = pytest.mark.slow  # the two processes train with every loss


def synthetic(loss: type, synthesizer: Callable[[], Any], **options: Any) -> Callable[..., Any]:
    return lambda **more: SyntheticLoss(loss(**options, **more), synthesizer())


LOSSES: dict[str, Callable[..., Any]] = {
    "hphn": HPHNTripletLoss,
    "hphn soft ee": lambda **more: HPHNTripletLoss(
        soft_margin=True, synthesizer=EmbeddingExpansion(), **more
    ),
    "hphn loop": lambda **more: HPHNTripletLoss(margin=1, synthesizer=LoOpMiner(), **more),
    "n-pair ee": lambda **more: NPairLoss(synthesizer=EmbeddingExpansion(), **more),
    "n-pair loop": lambda **more: NPairLoss(synthesizer=LoOpMiner(), **more),
    "triplet loop": synthetic(
        losses.TripletMarginLoss, lambda: LoOpMiner(num_negatives=2), margin=1
    ),
    "multi-similarity ee": synthetic(losses.MultiSimilarityLoss, EmbeddingExpansion, beta=3),
}
LABELS_OF: dict[str, Tensor] = {"hphn consecutive": PAIRS, "n-pair apart": APART}
# More that must equal the joined batch where nothing is efficient.
JOINED: dict[str, Callable[..., Any]] = {
    **LOSSES,
    "hphn consecutive": lambda: HPHNTripletLoss(synthesizer=LoOpMiner(pairing="consecutive")),
    # Without a synthesizer the anchor is a pair's first row, and ranks order a shared class anew.
    "n-pair apart": NPairLoss,
    "ntxent loop": synthetic(losses.NTXentLoss, LoOpMiner),
    "memory": lambda: losses.CrossBatchMemory(
        # A multiple of the joined batch: a part of one would be of other rows on each rank.
        losses.ContrastiveLoss(),
        embedding_size=4,
        memory_size=2 * WORLD * ROWS,
        miner=LoOpMiner(),
    ),
}


def labels_of(name: str) -> Tensor:
    return LABELS_OF.get(name, LABELS)


def make_net() -> nn.Module:
    """The same net in every process."""
    torch.manual_seed(0)
    return nn.Linear(5, 4).double()


def inputs(step: int) -> Tensor:
    """The inputs (world, rows, 5) of all ranks in a step."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(step)
    return torch.randn((WORLD, ROWS, 5), generator=generator, dtype=torch.float64)


def train(net: nn.Module, loss: Callable[..., Tensor], batches: list[Any]) -> dict[str, Tensor]:
    """The last step's value, gradient to its embeddings and gradient to the weights."""
    for x, labels in batches:  # those before the last one fill a memory
        net.zero_grad()
        embeddings = net(x)
        embeddings.retain_grad()
        value = loss(embeddings, labels)
        value.backward()
    weights = [parameter.grad for parameter in net.parameters()]
    return {
        "value": value.detach(),
        "embeddings": embeddings.grad,
        "weights": torch.cat([weight.flatten() for weight in weights]),
    }


# --- what each of the two processes runs -------------------------------------------------------


def work(rank: int, folder: Path) -> None:
    """Run every case as one rank and leave the results in `folder`."""
    torch.set_num_threads(1)
    init = (folder / "init").as_uri()  # three slashes on Windows too
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=WORLD)
    found: dict[str, Any] = {}

    def run(key: str, loss: Callable[..., Tensor], labels: Tensor) -> None:
        net = DistributedDataParallel(make_net())
        batches = [(inputs(step)[rank], labels[rank]) for step in range(2)]
        found[key] = train(net, loss, batches)

    for name, build in JOINED.items():
        run(name, DistributedLossWrapper(build()), labels_of(name))
    for name, build in LOSSES.items():
        wrapped = DistributedLossWrapper(mean_of(build), efficient=True)
        run(f"efficient {name}", wrapped, LABELS)
    for efficient in (False, True):
        loss = DistributedLossWrapper(mined_loss(), efficient)
        miner = DistributedMinerWrapper(LoOpMiner(num_negatives=2), efficient)
        key = "efficient mined" if efficient else "mined"
        run(key, lambda x, y, loss=loss, miner=miner: loss(x, y, miner(x, y)), LABELS)
        embeddings = make_net()(inputs(1)[rank])
        found[f"{key} triplets"] = torch.stack(miner(embeddings, LABELS[rank]))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def mean_of(build: Callable[..., Any]) -> Any:
    """The loss whose value is the mean of its elements."""
    return build(reducer=MeanReducer())


def mined_loss() -> losses.TripletMarginLoss:
    return losses.TripletMarginLoss(margin=1, reducer=MeanReducer())


# --- what one process computes -----------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found."""
    folder = tmp_path_factory.mktemp("gloo")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(WORLD)
    ]
    try:
        for process in processes:
            _, error = process.communicate(timeout=300)
            assert process.returncode == 0, error
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def alone(loss: Callable[..., Tensor], labels: Tensor) -> dict[str, Tensor]:
    """One process on the joined batch."""
    batches = [(inputs(step).flatten(0, 1), labels.flatten()) for step in range(2)]
    return train(make_net(), loss, batches)


def assert_joined(found: list[dict[str, Tensor]], wanted: dict[str, Tensor]) -> None:
    """Each rank has the joined value W times, and its own rows of the joined gradient W times."""
    assert wanted["embeddings"].view(WORLD, ROWS, -1).abs().amax((1, 2)).min() > 1e-3
    for rank, result in enumerate(found):
        own = wanted["embeddings"].view(WORLD, ROWS, -1)[rank]
        torch.testing.assert_close(result["value"] / WORLD, wanted["value"], **TOL)
        torch.testing.assert_close(result["embeddings"] / WORLD, own, **TOL)
        torch.testing.assert_close(result["weights"], wanted["weights"], **TOL)


@pytest.mark.parametrize("name", JOINED)
def test_gradient_is_that_of_the_joined_batch(ranks: list[dict[str, Any]], name: str) -> None:
    """DistributedLossWrapper: the joined value, and the joined gradient of rows and weights."""
    assert_joined([rank[name] for rank in ranks], alone(JOINED[name](), labels_of(name)))


def test_mined_gradient_is_that_of_the_joined_batch(ranks: list[dict[str, Any]]) -> None:
    """DistributedMinerWrapper(LoOpMiner) mines the joined batch for a loss on real triplets."""
    loss, miner = mined_loss(), LoOpMiner(num_negatives=2)
    wanted = alone(lambda x, labels: loss(x, labels, miner(x, labels)), LABELS)
    assert_joined([rank["mined"] for rank in ranks], wanted)


def joined_rows(rank: int, triplets: Tensor) -> set[tuple[int, ...]]:
    """Triplets of rows as a rank counts them, its own first, as rows of the joined batch."""
    order = [rank, *(other for other in range(WORLD) if other != rank)]
    rows = torch.arange(WORLD * ROWS).view(WORLD, ROWS)[order].flatten()
    return set(map(tuple, rows[triplets].T.tolist()))


@pytest.mark.parametrize("mode", ["mined", "efficient mined"])
def test_miner_mines_the_joined_batch(ranks: list[dict[str, Any]], mode: str) -> None:
    """Each rank has all triplets of the joined batch; in efficient mode those of its anchors."""
    embeddings = make_net()(inputs(1).flatten(0, 1))
    triplets = torch.stack(LoOpMiner(num_negatives=2)(embeddings, LABELS.flatten()))
    every = set(map(tuple, triplets.T.tolist()))
    for rank, result in enumerate(ranks):
        wanted = {t for t in every if mode == "mined" or t[0] // ROWS == rank}
        assert joined_rows(rank, result[f"{mode} triplets"]) == wanted


# --- efficient mode ----------------------------------------------------------------------------


def share_of(rank: int, part: dict[str, Any]) -> Tensor:
    """The mean over a rank's own anchors of the elements of an unreduced loss."""
    indices = part["indices"]
    if part["reduction_type"] == "pos_pair":  # once for both of its ends, each an anchor
        ends = torch.stack(indices)
    else:
        ends = (indices if isinstance(indices, Tensor) else indices[0]).unsqueeze(0)
    weight = (ends // ROWS == rank).sum(0)
    return (weight * part["losses"].flatten()).sum() / weight.sum()


@pytest.mark.parametrize("name", LOSSES)
def test_efficient_mode_computes_the_own_anchors_alone(
    ranks: list[dict[str, Any]], name: str
) -> None:
    """A rank has W times the joined loss of its own anchors, and their gradient to its own rows."""
    loss = LOSSES[name](reducer=DoNothingReducer())
    joined = alone(mean_of(LOSSES[name]), LABELS)["embeddings"].view(WORLD, ROWS, -1)
    for rank, result in enumerate(ranks):
        found = result[f"efficient {name}"]
        rows = make_net()(inputs(1)).detach()
        own = rows[rank].clone().requires_grad_()
        rows = torch.cat([own if other == rank else rows[other] for other in range(WORLD)])
        (part,) = loss(rows, LABELS.flatten()).values()
        wanted = share_of(rank, part)
        torch.testing.assert_close(found["value"] / WORLD, wanted, **TOL)
        (gradient,) = torch.autograd.grad(wanted, own)
        torch.testing.assert_close(found["embeddings"] / WORLD, gradient, **TOL)
        # What the rows are to the anchors of other ranks is missing: no rescaling makes up for it.
        factor = (gradient * joined[rank]).sum() / gradient.square().sum()
        assert (factor * gradient - joined[rank]).norm() > 1e-2 * joined[rank].norm()


def test_efficient_mode_needs_all_pairs() -> None:
    """It passes references, which pairing="consecutive" refuses with its reason."""
    x, labels = make_net()(inputs(0)), PAIRS
    loss = HPHNTripletLoss(synthesizer=LoOpMiner(pairing="consecutive"))
    with pytest.raises(ValueError, match="pairing='all'"):
        loss(x[0], labels[0], None, x.flatten(0, 1), labels.flatten())


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))
