"""Training of a network on images of classes, in steps of whole epochs that can be repeated."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from examples.kit.saving import replacing
from examples.papers.backbones import Embedder
from examples.papers.batches import (
    ClassBatches,
    DrawnImages,
    Images,
    seeds,
    test_transform,
    train_transform,
)
from examples.papers.datasets import Split
from examples.papers.losses import make_loss
from examples.papers.options import flag, settings
from examples.papers.processes import Process
from loopml.evaluation import RetrievalAccuracy

STATEFUL = ("net", "optimizer", "scheduler", "scaler")


class Training:
    """A network, its loss and optimiser, and the data, under the options of `reproduce.py`.

    All randomness of an epoch is drawn from seeds of that epoch. So the state after an epoch is
    that of network, optimiser, scheduler and scaler, and no generator is part of it.

    Attributes:
        epoch: epochs done.
        rows: what was measured, one dictionary for each epoch.
        classes: classes in a batch.
    """

    def __init__(self, options: Namespace, train: Split, test: Split, process: Process) -> None:
        self.options, self.process = options, process
        self.settings = {
            **settings(options),
            "processes": process.world,
            "training images": train.fingerprint(),
        }
        self.classes = min(
            options.batch_size // options.instances_per_class,
            train.classes // process.world * process.world,
        )
        self._make_loaders(train, test)
        self._make_model()
        self.epoch = 0
        self.rows: list[dict[str, float]] = []

    def _make_loaders(self, train: Split, test: Split) -> None:
        options, process = self.options, self.process
        self.batches = ClassBatches(
            train.labels,
            self.classes,
            options.instances_per_class,
            options.seed,
            process.rank,
            process.world,
        )
        drawn = DrawnImages(Images(train, train_transform(options.image_size)))
        self.train_loader = self._loader(drawn, batch_sampler=self.batches)
        own = range(process.rank, len(test.files), process.world)
        tested = Subset(Images(test, test_transform(options.image_size)), own)
        self.test_loader = self._loader(tested, batch_size=options.batch_size)

    def _loader(self, dataset: Any, **how: Any) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            num_workers=self.options.workers,
            persistent_workers=self.options.workers > 0,
            pin_memory=self.process.device.type == "cuda",
            # Else it takes a number from the generator of the random layers when workers start.
            generator=torch.Generator(),
            **how,
        )

    def _make_model(self) -> None:
        options, process = self.options, self.process
        torch.manual_seed(options.seed)
        self.net = Embedder(options.backbone, options.embed_dim, options.freeze_batch_norm)
        if options.weights is not None:
            self.net.load_weights(options.weights)
        self.net.to(process.device)
        self.loss = make_loss(
            options.loss,
            options.synthesis,
            margin=options.margin,
            soft_margin=options.soft_margin,
            inner_points=options.inner_points,
            on_sphere=options.l2norm_synthetic,
            pairing=options.pairing,
        )
        self.model = self.net
        if process.world > 1:
            self.loss = DistributedLossWrapper(self.loss)
            self.model = DistributedDataParallel(self.net)
        if options.compile:
            self.model = torch.compile(self.model)
        self.optimizer = torch.optim.Adam(
            [weight for weight in self.net.parameters() if weight.requires_grad],
            lr=options.lr,
            weight_decay=options.weight_decay,
        )
        self.scheduler = MultiStepLR(
            self.optimizer, options.lr_decay_epochs, options.lr_decay_factor
        )
        kind, on_gpu = process.device.type, process.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(kind, enabled=options.amp and on_gpu)
        self.half = torch.float16 if on_gpu else torch.bfloat16

    def run_epoch(self) -> float:
        """Take the steps of the next epoch; returns their mean loss."""
        self.batches.epoch = self.epoch
        # Of random layers, which draw apart in each process.
        torch.manual_seed(int(seeds(1, self.options.seed, self.epoch, 2, self.process.rank)[0]))
        self.model.train()
        batches = self._progress(self.train_loader, f"epoch {self.epoch + 1}")
        values = [self._step(*self._moved(batch)) for batch in batches]
        self.scheduler.step()
        self.epoch += 1
        return torch.stack(values).mean().item()

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        with self._autocast():
            value = self.loss(self.model(images), labels)
        self.optimizer.zero_grad()
        # The papers' code adds up the gradients of a batch. Adam takes any scale for the same, but
        # not in comparison with the weight decay.
        self.scaler.scale(value * self.batches.size).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return value.detach() / self.process.world  # DistributedLossWrapper multiplies it

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The scores of the test split, in the first process."""
        self.net.eval()
        found = []
        for images, labels in self._progress(self.test_loader, "test"):
            with self._autocast():
                found.append((self.net(images.to(self.process.device)).float().cpu(), labels))
        parts = [pair for own in self.process.gather(found) for pair in own]
        if not parts:
            return {}
        embeddings, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        return retrieval(embeddings, labels, self.options.recall_at)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.process.device.type, self.half, enabled=self.options.amp)

    def _moved(self, batch: Sequence[Tensor]) -> list[Tensor]:
        return [part.to(self.process.device, non_blocking=True) for part in batch]

    def _progress(self, loader: DataLoader[Any], name: str) -> tqdm[Any]:
        return tqdm(loader, name, leave=False, disable=None if self.process.first else True)

    def save(self, path: Path) -> None:
        """Write a checkpoint; a reader finds the old one or the new one, never half of it."""
        checkpoint = {
            "settings": self.settings,
            "epoch": self.epoch,
            "rows": self.rows,
            **{part: getattr(self, part).state_dict() for part in STATEFUL},
        }
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it is of a training with other options.
        """
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        check_settings(path, checkpoint["settings"], self.settings)
        for part in STATEFUL:
            getattr(self, part).load_state_dict(checkpoint[part])
        self.epoch, self.rows = checkpoint["epoch"], checkpoint["rows"]


def retrieval(embeddings: Tensor, labels: Tensor, recall_at: Sequence[int]) -> dict[str, float]:
    """Recall@K, MAP@R, and NMI and F1 of clusters, each row in turn the query."""
    names = {f"recall_at_{k}": f"recall_at_{k}" for k in recall_at} | {
        "map_at_r": "mean_average_precision_at_r",
        "nmi": "NMI",
        "clustering_f1": "clustering_f1",
    }
    calculator = RetrievalAccuracy(
        recall_at=recall_at,
        distance="euclidean",  # the network has normalised
        include=tuple(names.values()),
        device=torch.device("cpu"),
    )
    scores = calculator.get_accuracy(embeddings, labels)
    return {name: scores[theirs] for name, theirs in names.items()}


def check_settings(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to go on with a training that computes something else."""
    names = {"processes": "torchrun --nproc-per-node", "training images": "images of --data-dir"}
    changed = [
        f"{names.get(name, flag(name))} was {old.get(name)}, is {new.get(name)}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise ValueError(
            f"--resume: {path} is of a training with other options: {'; '.join(changed)}. "
            "Give the same ones, or another --save-dir."
        )
