"""The batches that benchmarks run on: a setting says which, a seed makes it the same every time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

# Trained embeddings vary along few of their dimensions. In all of 512, random centres would be
# orthogonal, and no noise could make neighbours of two classes without drowning both.
LATENT_DIM = 16


@dataclass(frozen=True)
class Setting:
    """A batch in numbers; its rows come class by class, so that consecutive rows pair up."""

    batch: int
    dim: int
    per_class: int
    embeddings: str  # a key of EMBEDDINGS

    def pairs(self, pairing: str) -> int:
        """Unordered positive pairs, which are the curves of the batch."""
        of_class = self.per_class - 1 if pairing == "all" else 1
        return self.batch * of_class // 2

    def __str__(self) -> str:
        """As a progress bar has room for it."""
        return f"{self.embeddings} {self.batch} x {self.dim}, {self.per_class} per class"


class Batch(NamedTuple):
    """Embeddings (n, d) in float32 and labels (n,)."""

    embeddings: Tensor
    labels: Tensor

    def head(self, rows: int) -> Batch:
        """The whole classes among the first ``rows`` rows."""
        per_class = int((self.labels == 0).sum())
        return Batch(*(x[: rows // per_class * per_class] for x in self))


def random(setting: Setting, generator: torch.Generator) -> Tensor:
    """Normal in all dimensions: classes mean nothing, as before training."""
    return torch.randn(setting.batch, setting.dim, generator=generator)


def clustered(setting: Setting, generator: torch.Generator) -> Tensor:
    """Class centres and noise around them: classes apart, neighbours overlapping a little.

    Centres are unit vectors of a ``LATENT_DIM``-dimensional subspace and the noise within it has
    length about 0.5. In a batch of 512, 10 % (two per class) or 2 % (four) of the rows have a
    nearest neighbour of another class.
    """
    classes = setting.batch // setting.per_class
    centres = normalize(torch.randn(classes, LATENT_DIM, generator=generator))
    noise = torch.randn(setting.batch, LATENT_DIM, generator=generator) / LATENT_DIM**0.5
    latent = centres.repeat_interleave(setting.per_class, 0) + 0.5 * noise
    axes = torch.randn(setting.dim, min(LATENT_DIM, setting.dim), generator=generator)
    basis = torch.linalg.qr(axes).Q  # orthonormal columns, so distances stay
    return latent[:, : basis.shape[1]] @ basis.T


def collapsed(setting: Setting, generator: torch.Generator) -> Tensor:
    """All rows within 1e-3 of one point of the unit sphere: where hard mining can end."""
    point = normalize(torch.randn(1, setting.dim, generator=generator))
    offset = normalize(torch.randn(setting.batch, setting.dim, generator=generator))
    return point + 1e-3 * torch.rand(setting.batch, 1, generator=generator) * offset


EMBEDDINGS: Mapping[str, Callable[[Setting, torch.Generator], Tensor]] = MappingProxyType(
    {"random": random, "clustered": clustered, "collapsed": collapsed}
)


def make(setting: Setting, seed: int = 0) -> Batch:
    """The batch of a setting."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = EMBEDDINGS[setting.embeddings](setting, generator)
    return Batch(embeddings, torch.arange(setting.batch) // setting.per_class)
