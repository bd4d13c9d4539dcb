"""The tuples that the modules pass to each other."""

from __future__ import annotations

from enum import IntEnum
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
    """Inner products of points with others: of a batch with the rows that its tuples come from."""

    inner: Tensor  # (a, b)
    row_square: Tensor  # (a,) of the points of the first axis with themselves
    col_square: Tensor  # (b,) of those of the second


class Side(NamedTuple):
    """The curves on one side of a search, whose ends are points of one axis of a Gram matrix."""

    pairs: Pairs  # (p,)
    inner: Tensor  # (p,) products of the two ends of each curve


class Scaled(IntEnum):
    """Which points of a curve, sums of its ends, are divided by their length."""

    NONE = 0
    BETWEEN = 1  # those between the ends
    ALL = 2


class Rows(NamedTuple):
    """Rows as the caller gave them, and what is made of them; both with grad."""

    given: Tensor  # (n, d)
    least: float | None  # they are divided by their length, or by this if that is more, if at all
    unit: Tensor  # (n, d) what comes of it


class Closest(NamedTuple):
    """Where two curves come nearest to each other.

    Attributes:
        s: (...) where on the first curve: 0 is its start, 1 its end. It is a fraction of the length
            of a segment, and of the angle of an arc. A constant, without a gradient.
        t: (...) the same for the second curve.
        point_p: (..., d) the point of the first curve at ``s``, differentiable.
        point_q: (..., d) the point of the second curve at ``t``, differentiable.
        distance: (...) Euclidean distance of the two points, differentiable.
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
        embeddings: (n, d) the real embeddings, unchanged. Anchors are among these rows.
        labels: (n,) the labels of ``embeddings``.
        indices_tuple: three tensors (k,) of row numbers, for k triplets (anchor, positive,
            negative). Anchors count the rows of ``embeddings``. Positives and negatives count the
            rows of ``ref_emb``.
        ref_emb: (m + k, d) the m real references, then one synthetic negative for each triplet.
            Without references of their own these m rows are ``embeddings``.
        ref_labels: (m + k,) the labels of ``ref_emb``. A synthetic row has the label of its
            negative pair.

    Gradient:
        The synthetic rows of ``ref_emb`` are differentiable in the rows that they are made of. The
        synthesizer that made them says what happens at ties and edges.
    """

    embeddings: Tensor
    labels: Tensor
    indices_tuple: tuple[Tensor, Tensor, Tensor]
    ref_emb: Tensor
    ref_labels: Tensor
