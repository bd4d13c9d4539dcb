"""Batches of whole classes and their augmentation, as functions of a seed and an epoch.

The papers' code draws from generators that go on from step to step, and a stopped run would need
the state of each, in every worker. Here each epoch and each image in it has a seed of its own. So
an epoch can be run again, with any number of workers or processes, and gives the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import v2

from examples.papers.datasets import Split

TO_TENSOR = (
    v2.PILToTensor(),
    v2.ToDtype(torch.float32, scale=True),
    v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),  # of ImageNet
)


def train_transform(size: int) -> v2.Transform:
    """The papers': the whole image, or one time in two a crop of eight ninths; then a flip."""
    whole = v2.Resize((size, size))
    larger = round(1.125 * size)
    translated = v2.Compose([v2.Resize((larger, larger)), v2.RandomCrop(size)])
    moved = v2.RandomChoice([whole, translated], p=[0.5, 0.5])
    return v2.Compose([moved, v2.RandomHorizontalFlip(), *TO_TENSOR])


def test_transform(size: int) -> v2.Transform:
    """The papers': the whole image, whatever its proportions."""
    return v2.Compose([v2.Resize((size, size)), *TO_TENSOR])


class Images(Dataset[tuple[Tensor, int]]):
    """The images of a split; an item is `(image, label)`."""

    def __init__(self, split: Split, transform: v2.Transform) -> None:
        self.split = split
        self.transform = transform

    def __len__(self) -> int:
        """Number of images."""
        return len(self.split.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image (3, size, size) and label at `index`."""
        image = pil_loader(self.split.folder / self.split.files[index])
        return self.transform(image), self.split.labels[index]


class Draw(NamedTuple):
    """An image to load, and the seed of its augmentation."""

    index: int
    seed: int


class DrawnImages(Dataset[tuple[Tensor, int]]):
    """Images by `Draw`."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        """Image, augmented as its seed says, and label."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw.seed)
            return self.images[draw.index]


class ClassBatches(Sampler[list[Draw]]):
    """The batches of an epoch: of each of `classes` classes `instances` images, one after another.

    Every batch draws its classes anew, and a class with fewer images repeats some. An epoch is as
    many whole batches as fit into `instances` images of each class of the data set. All processes
    draw the same batches, and each takes its share of the classes of every batch.

    Attributes:
        epoch: the epoch to draw next.
    """

    def __init__(
        self, labels: Sequence[int], classes: int, instances: int, seed: int, rank: int, world: int
    ) -> None:
        self.labels = np.asarray(labels)
        self.instances = instances
        self.size = classes * instances
        self.seed = seed
        self.share = slice(rank * self.size // world, (rank + 1) * self.size // world)
        self.length = len(set(labels)) * instances // self.size
        self.epoch = 0

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self.length

    def __iter__(self) -> Iterator[list[Draw]]:
        """The batches of this process."""
        # MPerClassSampler draws from this generator, and shuffles its classes in place: a new one
        # for each epoch has no history.
        np.random.seed(seeds(4, self.seed, self.epoch))  # noqa: NPY002
        images = self.length * self.size
        order = list(MPerClassSampler(self.labels, self.instances, self.size, images))
        draws = list(map(Draw, order, seeds(images, self.seed, self.epoch, 1).tolist()))
        for start in range(0, images, self.size):
            yield draws[start : start + self.size][self.share]


def seeds(number: int, *key: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Independent seeds, always the same for a key."""
    return np.random.SeedSequence(key).generate_state(number)
