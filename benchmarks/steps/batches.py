"""The batches that benchmarks run on: a setting says which, a seed makes it the same every time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

# Trained embeddings vary along few of their dimensions. In all of 512, random centres would be
# orthogonal, and no noise could make neighbours of two classes without drowning both.
LATENT_DIM = 16


# Of a class in a batch that comes with references.
PER_CLASS_BESIDE_QUEUE = 4
# A net moves a row this far (of norm 1) between the queue and the batch.
MOVED = 0.3


@dataclass(frozen=True)
class Setting:
    """A batch in numbers; its rows come class by class, so that consecutive rows pair up.

    With ``references``, a queue of that many rows, ``per_class`` is said of the queue; the batch
    then has four rows of each of its first classes.
    """

    batch: int
    dim: int
    per_class: int
    embeddings: str  # a key of EMBEDDINGS
    references: int = 0

    def __str__(self) -> str:
        """As a progress bar has room for it."""
        against = f" against {self.references}" if self.references else ""
        return f"{self.embeddings} {self.batch} x {self.dim}{against}, {self.per_class} per class"


class Batch(NamedTuple):
    """Embeddings (n, d) in float32 and labels (n,), and those of the references (m, d), (m,)."""

    embeddings: Tensor
    labels: Tensor
    references: Tensor | None = None
    reference_labels: Tensor | None = None

    @property
    def queue(self) -> tuple[Tensor | None, Tensor | None]:
        """The references as arguments of a loss."""
        return self.references, self.reference_labels

    def head(self, rows: int) -> Batch:
        """The whole classes among the first ``rows`` rows.

        Of references up to eight rows of a class, which all pairings join alike.
        """
        if self.references is None or self.reference_labels is None:
            return Batch(*_first_classes(self.embeddings, self.labels, rows))
        place = torch.arange(len(self.references)) % int((self.reference_labels == 0).sum())
        few = self.references[place < 8], self.reference_labels[place < 8]
        references, labels = _first_classes(*few, rows)
        known = self.labels <= labels.max()
        return Batch(self.embeddings[known], self.labels[known], references, labels)


def _first_classes(embeddings: Tensor, labels: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    per_class = int((labels == 0).sum())
    kept = rows // per_class * per_class
    return embeddings[:kept], labels[:kept]


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
    """The batch of a setting; with references it is some of their rows after a few more steps."""
    generator = torch.Generator().manual_seed(seed)
    if not setting.references:
        embeddings = EMBEDDINGS[setting.embeddings](setting, generator)
        return Batch(embeddings, torch.arange(setting.batch) // setting.per_class)
    queue = make(replace(setting, batch=setting.references, references=0), seed)
    own = min(PER_CLASS_BESIDE_QUEUE, setting.per_class)
    row = torch.arange(setting.batch)
    chosen = row // own * setting.per_class + row % own
    embeddings = normalize(queue.embeddings[chosen])
    noise = normalize(torch.randn(embeddings.shape, generator=generator))
    return Batch(embeddings + MOVED * noise, queue.labels[chosen], *queue[:2])
