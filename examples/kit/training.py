"""What a training needs beside its data: a net, losses by name, evaluation and checkpoints."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.miners import BaseMiner, BatchEasyHardMiner
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, SyntheticBatch, SyntheticLoss

from .saving import replacing

SYNTHESIZERS: Mapping[str, Callable[[], EmbeddingExpansion | LoOpMiner | None]] = MappingProxyType(
    {"none": lambda: None, "expansion": EmbeddingExpansion, "loop": LoOpMiner}
)
# Miners of real triplets: each positive pair with the hardest negative of its anchor, which is the
# rival to beat, and with the negative whose curve is nearest, which is what we recommend.
MINERS: Mapping[str, Callable[[], BaseMiner]] = MappingProxyType(
    {
        "every_positive": lambda: BatchEasyHardMiner(pos_strategy="all", neg_strategy="hard"),
        "loop_index": LoOpMiner,
    }
)
KINDS = ("none", *MINERS, "expansion", "loop")  # of negatives
MARGINS: Mapping[str, float] = MappingProxyType({"hphn": 0.8, "triplet": 0.8})
TUPLE_LOSSES: Mapping[str, Callable[..., BaseMetricLossFunction]] = MappingProxyType(
    {
        "circle": losses.CircleLoss,
        "contrastive": losses.ContrastiveLoss,
        "dynamic_soft_margin": losses.DynamicSoftMarginLoss,
        "generalized_lifted_structure": losses.GeneralizedLiftedStructureLoss,
        "intra_pair_variance": losses.IntraPairVarianceLoss,
        "lifted_structure": losses.LiftedStructureLoss,
        "margin": losses.MarginLoss,
        "multi_similarity": losses.MultiSimilarityLoss,
        "ntxent": losses.NTXentLoss,
        "supcon": losses.SupConLoss,
        "triplet": losses.TripletMarginLoss,
        "tuplet_margin": losses.TupletMarginLoss,
    }
)
LOSSES = ("hphn", *TUPLE_LOSSES)
CLASSES_PER_BATCH = 32
IMAGES_PER_CLASS = 4
BATCH_SIZE = CLASSES_PER_BATCH * IMAGES_PER_CLASS


class Batch(NamedTuple):
    """Images (n, 1, 28, 28) and their labels (n,)."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""
        return Batch(self.images.to(device), self.labels.to(device))


class OnMinedTuples(nn.Module):
    """A loss on the tuples of a miner, called as one on the whole batch is."""

    def __init__(self, loss: BaseMetricLossFunction, miner: BaseMiner) -> None:
        super().__init__()
        self.loss, self.miner = loss, miner

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The value of the loss."""
        value: Tensor = self.loss(embeddings, labels, self.miner(embeddings, labels))
        return value


def kinds_for(loss: str) -> tuple[str, ...]:
    """The kinds of negatives that a loss can be given; HPHN takes no tuples, it mines itself."""
    return tuple(kind for kind in KINDS if loss != "hphn" or kind not in MINERS)


def make_loss(loss: str, synthesis: str, **options: Any) -> nn.Module:
    """The loss with its default options but for those given, on one kind of negatives.

    With "none" HPHN mines the real batch, and any other loss takes all tuples of the batch.
    """
    if synthesis in MINERS:
        return OnMinedTuples(TUPLE_LOSSES[loss](**options), MINERS[synthesis]())
    synthesizer = SYNTHESIZERS[synthesis]()
    if loss == "hphn":
        return HPHNTripletLoss(synthesizer=synthesizer, **options)
    tuple_loss = TUPLE_LOSSES[loss](**options)
    return tuple_loss if synthesizer is None else SyntheticLoss(tuple_loss, synthesizer)


def make_net(dim: int = 64) -> nn.Module:
    """Four convolutions and a linear layer: (n, 1, 28, 28) images to (n, dim) embeddings."""

    def block(channels_in: int, channels_out: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]

    net = nn.Sequential(
        *(*block(1, 16), nn.MaxPool2d(2)),  # 14 x 14
        *(*block(16, 32), nn.MaxPool2d(2)),  # 7 x 7
        *(*block(32, 64), nn.MaxPool2d(2)),  # 3 x 3
        *block(64, 64),
        *(nn.Flatten(), nn.Linear(9 * 64, dim)),
    )
    return net.to(memory_format=torch.channels_last)  # half the time on a CPU


def epoch_of_batches(
    dataset: Dataset[Any],
    labels: Tensor,
    rows_per_class: int = IMAGES_PER_CLASS,
    batch_size: int = BATCH_SIZE,
    length: int | None = None,
) -> DataLoader[Any]:
    """One pass of batches of 32 classes with 4 images each, or ``length`` rows of others."""
    # A new sampler for each epoch: it shuffles its classes in place, so an old one would have a
    # state of its own beside that of the random generator.
    sampler = MPerClassSampler(labels, rows_per_class, batch_size, length or len(labels))
    return DataLoader(dataset, batch_size, sampler=sampler)


def fixed_batch(images: Tensor, labels: Tensor) -> Batch:
    """The same classes and images for every run, to compare hardest negatives on."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    classes = torch.randperm(int(labels.max()) + 1, generator=generator)[:CLASSES_PER_BATCH]
    rows = [order[labels[order] == label][:IMAGES_PER_CLASS] for label in classes]
    return Batch(images[torch.cat(rows)], labels[torch.cat(rows)])


@torch.no_grad()
def embed(net: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """The embeddings (n, d) of images, on the CPU; leaves ``net`` in evaluation mode."""
    net.eval()
    return torch.cat([net(chunk.to(device)).cpu() for chunk in images.split(512)])


def retrieval(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """Recall@1 and MAP@R, each row in turn the query and all others the gallery."""
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r"),
        k="max_bin_count",
        device=torch.device("cpu"),
    )
    # faiss ranks by L2, the losses by the distance of normalised embeddings.
    accuracy = calculator.get_accuracy(normalize(embeddings), labels)
    return {
        "recall_at_1": accuracy["precision_at_1"],
        "map_at_r": accuracy["mean_average_precision_at_r"],
    }


@torch.no_grad()
def hardest_negatives(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """The mean over anchors of the distance to the hardest negative.

    It is real, the nearest real one of any row of the anchor's class, EE and LoOp. A synthesizer
    has one negative for each positive pair of the anchor; the nearest counts.
    """
    to_real = LpDistance()(embeddings)
    same = labels.unsqueeze(1) == labels
    to_real[same] = torch.inf
    nearest = to_real.amin(dim=1)
    of_class = torch.where(same, nearest, torch.inf).amin(dim=1)
    return {
        "hardest_real": nearest.mean().item(),
        "hardest_mates": of_class.mean().item(),
        "hardest_expansion": _hardest(EmbeddingExpansion()(embeddings, labels)),
        "hardest_loop": _hardest(LoOpMiner().synthesize(embeddings, labels)),
    }


def _hardest(batch: SyntheticBatch) -> float:
    anchor, _, negative = batch.indices_tuple
    ends = normalize(batch.embeddings)[anchor] - normalize(batch.ref_emb)[negative]
    nearest = torch.full((len(batch.labels),), torch.inf, device=anchor.device)
    nearest.scatter_reduce_(0, anchor, ends.norm(dim=1), "amin")
    return nearest[nearest.isfinite()].mean().item()


class Training:
    """A net, its loss and its optimizer, with what it takes to stop and go on bit for bit.

    Attributes:
        net: the net being trained.
        epoch: epochs done.
        rows: what was measured so far, one dictionary for each evaluation.
    """

    def __init__(self, loss: str, synthesis: str, seed: int, device: torch.device) -> None:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002, MPerClassSampler draws from this generator
        torch.manual_seed(seed)
        self.net = make_net().to(device)
        options = {"margin": MARGINS[loss]} if loss in MARGINS else {}
        self.loss = make_loss(loss, synthesis, **options)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)
        self.device = device
        self.epoch = 0
        self.rows: list[dict[str, Any]] = []

    def run_epoch(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Take one step for each batch; returns the mean loss."""
        self.net.train()
        values = [self._step(Batch(*batch).to(self.device)) for batch in batches]
        self.epoch += 1
        return torch.stack(values).mean().item()

    def _step(self, batch: Batch) -> Tensor:
        value: Tensor = self.loss(self.net(batch.images), batch.labels)
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        # DynamicSoftMarginLoss keeps its histogram with the graph of the step, so that the next
        # step would go back through it (issue 731 of pytorch-metric-learning).
        for module, name, state in self._loss_state():
            setattr(module, name, state.detach())
        return value.detach()

    def _loss_state(self) -> Iterator[tuple[nn.Module, str, Tensor]]:
        """Tensors that the loss carries from step to step, which are no buffers."""
        for module in self.loss.modules():
            for name, value in list(vars(module).items()):
                if isinstance(value, Tensor):
                    yield module, name, value

    def save(self, path: Path) -> None:
        """Write a checkpoint; a reader finds the old one or the new one, never half of it."""
        checkpoint = {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss": [state for _, _, state in self._loss_state()],
            "random": _random_state(),
            "epoch": self.epoch,
            "rows": self.rows,
        }
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint: net, optimizer, loss, counters and random generators."""
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        self.net.load_state_dict(checkpoint["net"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        for (module, name, _), state in zip(
            list(self._loss_state()), checkpoint["loss"], strict=True
        ):
            setattr(module, name, state)
        self.epoch, self.rows = checkpoint["epoch"], checkpoint["rows"]
        _set_random_state(checkpoint["random"])


def _random_state() -> dict[str, Any]:
    """The state of all three generators, of types that ``torch.load`` takes as plain data."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
