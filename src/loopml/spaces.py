"""What a pytorch-metric-learning distance sees: the space that curves and tuples live in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pytorch_metric_learning.distances import (
    BaseDistance,
    CosineSimilarity,
    DotProductSimilarity,
    LpDistance,
)
from torch import Tensor

from loopml._checks import kind_of
from loopml.geometry.lengths import direction_of
from loopml.geometry.transplant import along_anchor, onto_plane, onto_sphere


@dataclass(frozen=True)
class Space:
    """One of the three kinds of distance that tuples of curves make sense for."""

    name: str
    transplant: Callable[[Tensor, Tensor, Tensor], Tensor]


SPHERE = Space("sphere", onto_sphere)
EUCLIDEAN = Space("euclidean", onto_plane)
DOT_PRODUCT = Space("dot product", along_anchor)


def space_of(distance: object) -> Space:
    """The space of a distance object.

    Raises:
        TypeError: not a distance of pytorch-metric-learning, or a wrapper around one.
        ValueError: a distance that is no function of Euclidean distance or dot product; its name
            and the reason are in the message.
    """
    if not isinstance(distance, BaseDistance):
        raise TypeError(
            "distance must be an LpDistance, CosineSimilarity or DotProductSimilarity of "
            f"pytorch_metric_learning, got {kind_of(distance)}"
        )
    name = type(distance).__name__
    supported = "use LpDistance(p=2), CosineSimilarity or DotProductSimilarity"
    if type(distance) not in (LpDistance, CosineSimilarity, DotProductSimilarity):
        raise ValueError(
            f"distance must be a function of Euclidean distance or dot product, got {name}: "
            f"the nearest points of two curves are not known under it; {supported}"
        )
    if distance.p != 2:
        raise ValueError(
            f"distance must have p=2, got {name}(p={distance.p}): "
            f"the nearest points of two curves are not known under it; {supported}"
        )
    if distance.normalize_embeddings:
        return SPHERE
    return DOT_PRODUCT if distance.is_inverted else EUCLIDEAN


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 if it has less precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which autocast leaves products of float32 as they are."""
    return torch.autocast(x.device.type, enabled=False)


def comparable(distance: BaseDistance, embeddings: Tensor) -> Tensor:
    """The embeddings in at least float32, with no gradient to zero rows that are to be normalised.

    That of ``x / |x|`` at a zero row would be 1e12 times the incoming one.
    """
    embeddings = at_least_float32(embeddings)
    if not distance.normalize_embeddings:
        return embeddings
    return embeddings.masked_fill(embeddings.detach().norm(dim=1, keepdim=True) == 0, 0)


def seen_by(distance: BaseDistance, embeddings: Tensor) -> Tensor:
    """The embeddings as ``distance`` compares them; a zero row stays zero, without a gradient."""
    embeddings = at_least_float32(embeddings)
    if not distance.normalize_embeddings:
        return embeddings
    # The least length is that of torch.nn.functional.normalize.
    return direction_of(embeddings, 1e-12)
