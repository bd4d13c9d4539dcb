"""The tuples that the modules pass to each other."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Pairs(NamedTuple):
    """Curves named by the two rows that they join; a lone sample is the pair (i, i)."""

    first: Tensor  # (p,) int64
    second: Tensor  # (p,) int64
    label: Tensor  # (p,)

    def take(self, index: Tensor | slice) -> Pairs:
        """The pairs at ``index``."""
        return Pairs(self.first[index], self.second[index], self.label[index])


class Gram(NamedTuple):
    """Inner products of the rows of a batch, or other points, with those that tuples come from."""

    inner: Tensor  # (a, b)
    row_square: Tensor  # (a,) of the points of the first axis with themselves
    col_square: Tensor  # (b,) of those of the second


class Closest(NamedTuple):
    """Where two curves come nearest to each other.

    Attributes:
        s: (...) fraction of the first curve in [0, 1], of its angle where it is an arc. A constant.
        t: (...) the same for the second curve.
        point_p: (..., d) the point at ``s``, differentiable.
        point_q: (..., d) the point at ``t``, differentiable.
        distance: (...) Euclidean distance between the two points, differentiable.
    """

    s: Tensor
    t: Tensor
    point_p: Tensor
    point_q: Tensor
    distance: Tensor


class SyntheticBatch(NamedTuple):
    """The five arguments of a pytorch-metric-learning loss, in its own order.

    ``loss_fn(*batch)`` runs any supported loss with the synthetic negatives.

    Attributes:
        embeddings: (n, d) the real embeddings, untouched: the anchors.
        labels: (n,) their labels.
        indices_tuple: triplets (anchor, positive, negative); anchors index ``embeddings``,
            positives and negatives index ``ref_emb``.
        ref_emb: (m + k, d) real references, then one synthetic negative per triplet.
        ref_labels: (m + k,) their labels; a synthetic row has the label of its negative pair.
    """

    embeddings: Tensor
    labels: Tensor
    indices_tuple: tuple[Tensor, Tensor, Tensor]
    ref_emb: Tensor
    ref_labels: Tensor
