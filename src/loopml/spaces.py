"""What a pytorch-metric-learning distance sees: the space that curves and tuples live in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from loopml._checks import kind_of
from loopml.geometry.lengths import direction_of
from loopml.geometry.transplant import along_anchor, onto_plane, onto_sphere
from loopml.host import DISTANCES, is_distance, properties_of

# The least length of torch.nn.functional.normalize.
LEAST_LENGTH = 1e-12


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
    if not is_distance(distance):
        raise TypeError(
            "distance must be an LpDistance, CosineSimilarity or DotProductSimilarity of "
            f"pytorch_metric_learning, got {kind_of(distance)}"
        )
    name = type(distance).__name__
    supported = "use LpDistance(p=2), CosineSimilarity or DotProductSimilarity"
    if type(distance) not in DISTANCES:
        raise ValueError(
            f"distance must be a function of Euclidean distance or dot product, got {name}: "
            f"the nearest points of two curves are not known under it; {supported}"
        )
    properties = properties_of(distance)
    if properties.p != 2:
        raise ValueError(
            f"distance must have p=2, got {name}(p={properties.p}): "
            f"the nearest points of two curves are not known under it; {supported}"
        )
    if properties.normalizes:
        return SPHERE
    return DOT_PRODUCT if properties.is_similarity else EUCLIDEAN


def comparable(space: Space, embeddings: Tensor) -> Tensor:
    """The embeddings, with no gradient to zero rows where a loss will normalise them.

    That of ``x / |x|`` at a zero row would be 1e12 times the incoming one.
    """
    if space is not SPHERE:
        return embeddings
    return embeddings.masked_fill(embeddings.detach().norm(dim=1, keepdim=True) == 0, 0)


def seen_by(space: Space, embeddings: Tensor) -> Tensor:
    """The embeddings as they are compared in ``space``; a zero row stays zero, without gradient."""
    return direction_of(embeddings, LEAST_LENGTH) if space is SPHERE else embeddings
