"""The hardest-positive hardest-negative triplet loss."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from torch import Tensor

from loopml._checks import check_batch, check_flag, check_nonnegative
from loopml._types import Pairs
from loopml.curves import Curve, Samples, samples
from loopml.geometry.evaluate import distance_between
from loopml.pairing import Pairing, pair_up, positive_mask
from loopml.selection import smallest, smallest_per_group
from loopml.spaces import DOT_PRODUCT, at_least_float32, space_of
from loopml.synthesis import (
    STATS,
    Negatives,
    Points,
    Synthesizer,
    check_synthesizer,
    measure,
    on_device_of,
    points_of,
    stats_of,
)


class HPHNTripletLoss(BaseMetricLossFunction):
    r"""Triplet loss on the hardest positive and the hardest negative of each anchor.

    .. math:: \ell_a = \max(0,\; d_{ap} - d_{an} + m)
        \quad\text{or, soft,}\quad \log(1 + e^{d_{ap} - d_{an}})

    d_ap is the distance to the anchor's farthest real positive. d_an depends on ``synthesizer``:

    - None: the distance to the nearest real negative;
    - an :class:`EmbeddingExpansion`: the least distance from the anchor and its own points between
      to any real point or point between of another class;
    - a :class:`LoOpMiner`: the least distance from any curve through the anchor to any curve of
      another class.

    An anchor is a row with a positive (its partner, under ``pairing="consecutive"``) and a
    negative; there is one loss element per anchor.

    Args:
        margin: m, in the units of the distance; not used by the soft form.
        soft_margin: use the soft form.
        synthesizer: None, an :class:`EmbeddingExpansion` or a :class:`LoOpMiner`. Its ``pairing``
            and geometry are used; the distance is this loss's, and ``num_negatives`` has no part.
        **base_loss_kwargs: ``distance`` (``LpDistance`` with p=2, normalised by default),
            ``reducer`` (default ``MeanReducer``), ``embedding_regularizer``, ``collect_stats``
            (those of :class:`LoOpMiner`, over anchors) and the like.

    Raises:
        TypeError: an option of the wrong type.
        ValueError: a margin below 0 or not finite, or a distance other than ``LpDistance(p=2)``.

    Gradient:
        To the ends of the chosen curves alone, with the choice and the fractions held fixed. Of
        equally far positives or equally near negatives one is chosen. Points that coincide have
        distance 0 and gradient 0, so a hard margin on a collapsed batch has no gradient at all; the
        soft form does not help there either, larger batches and a lower learning rate do.

    Precision:
        Positives and negatives are chosen by a float32 Gram matrix (float64 for float64) and
        measured in float64.

    Source:
        The batch-hard triplet loss of Hermans et al., "In defense of the triplet loss for person
        re-identification" (2017); with synthetic negatives Embedding Expansion (Ko and Gu, CVPR
        2020), section 3, and LoOp (Vasudeva et al., ICCV 2021), section 3.

    Example:
        >>> import torch
        >>> from loopml import LoOpMiner
        >>> embeddings = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0.5], [0, 0, 1]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> HPHNTripletLoss(margin=0.2)(embeddings, labels)
        tensor(0.5334)
        >>> HPHNTripletLoss(margin=0.2, synthesizer=LoOpMiner())(embeddings, labels)
        tensor(1.1463)
    """

    def __init__(
        self,
        margin: float = 0.2,
        *,
        soft_margin: bool = False,
        synthesizer: Synthesizer | None = None,
        **base_loss_kwargs: Any,
    ) -> None:
        super().__init__(**base_loss_kwargs)
        self.margin = check_nonnegative("margin", margin)
        self.soft_margin = check_flag("soft_margin", soft_margin)
        self.synthesizer = check_synthesizer(synthesizer, optional=True)
        if space_of(self.distance) is DOT_PRODUCT or self.distance.is_inverted:
            raise ValueError(
                "distance must be LpDistance(p=2) for HPHNTripletLoss, got "
                f"{type(self.distance).__name__}: a margin between distances is no margin between "
                "similarities; use LpDistance()"
            )
        self.add_to_recordable_attributes(list_of_names=["margin"], is_stat=False)
        self.add_to_recordable_attributes(list_of_names=list(STATS), is_stat=True)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """The reduced loss.

        Args:
            embeddings: (n, d) floating point.
            labels: (n,) integers.
            indices_tuple: accepted and not used: this loss mines for itself.
            ref_emb: (m, d) references that positives and negatives come from; default: the batch.
            ref_labels: (m,) their labels.

        Returns:
            A scalar, 0 with a zero gradient where no row is an anchor; what the reducer returns.

        Raises:
            TypeError: an argument is no tensor of its kind.
            ValueError: shapes do not fit, a value is NaN or infinite, references lack labels, or
                the batch does not fit ``pairing="consecutive"``.
        """
        check_batch(embeddings, labels, ref_emb, ref_labels)
        embeddings = at_least_float32(embeddings)
        if len(embeddings) == 0:
            return embeddings.sum()  # the mean of a regulariser would be 0 / 0
        loss: Tensor = super().forward(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        return loss

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor,
    ) -> dict[str, dict[str, Any]]:
        """One loss element per anchor, for the reducer."""
        refs = None if ref_emb is embeddings else ref_emb
        labels, ref_labels_or_none = on_device_of(
            embeddings, labels, None if refs is None else ref_labels
        )
        space = space_of(self.distance)
        if self.synthesizer is None:
            curve: Curve = samples(0, normalize=False, similarity=False)
        else:
            curve = self.synthesizer.curve_in(space)
        points = points_of(self.distance, curve, embeddings, refs)
        positive, has_positive = _farthest_positive(
            points, embeddings, labels, refs, ref_labels_or_none
        )
        if self.synthesizer is None:
            negatives = _nearest_rows(points, labels, ref_labels_or_none, has_positive)
        else:
            curve = self.synthesizer.anchor_curve_in(space) or curve
            pairing = pair_up(
                self.synthesizer.pairing, embeddings, labels, refs, ref_labels_or_none
            )
            negatives = _nearest_curves(curve, points, pairing, len(labels))
        anchor = negatives.anchor
        if len(anchor) == 0:
            return {"loss": self.zero_loss()}
        ends = points.seen.index_select(0, torch.cat([anchor, positive[anchor]]))
        d_ap = distance_between(*ends.chunk(2))
        nearest = measure(curve, points, negatives)
        if self.collect_stats:
            for name, value in stats_of(points, negatives, nearest).items():
                setattr(self, name, value)
        d_an = nearest.distance
        if self.distance.power != 1:
            d_ap, d_an = d_ap**self.distance.power, d_an**self.distance.power
        if self.soft_margin:
            losses = torch.nn.functional.softplus(d_ap - d_an)
        else:
            losses = torch.relu(d_ap - d_an + self.margin)
        return {"loss": {"losses": losses, "indices": anchor, "reduction_type": "element"}}

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return f"margin={self.margin}, soft_margin={self.soft_margin}"


def _farthest_positive(
    points: Points,
    embeddings: Tensor,
    labels: Tensor,
    ref_emb: Tensor | None,
    ref_labels: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The index of each row's farthest positive among all points, and whether it has one: (n,)."""
    n = len(labels)
    offset = 0 if ref_emb is None else n
    with torch.no_grad():
        square = points.gram.diagonal()
        # The square of the row itself is the same for all of its positives.
        nearness = 2 * points.gram[:n, offset:] - square[offset:]
        mask = positive_mask(embeddings, labels, ref_emb, ref_labels)
        index, _ = smallest(nearness, mask, 1)
    return index.squeeze(1) + offset, index.squeeze(1) >= 0


@torch.no_grad()
def _nearest_rows(
    points: Points, labels: Tensor, ref_labels: Tensor | None, has_positive: Tensor
) -> Negatives:
    """Each anchor with its nearest negative row, as curves of one point."""
    n = len(labels)
    offset = 0 if ref_labels is None else n
    ref_labels = labels if ref_labels is None else ref_labels
    farness = points.gram.diagonal()[offset:] - 2 * points.gram[:n, offset:]
    index, _ = smallest(farness, labels.unsqueeze(1) != ref_labels, 1)
    (anchor,) = (has_positive & (index.squeeze(1) >= 0)).nonzero(as_tuple=True)
    nearest = index[anchor, 0]
    row = nearest + offset
    return Negatives(anchor, anchor, Pairs(row, row, ref_labels[nearest]))


@torch.no_grad()
def _nearest_curves(curve: Curve, points: Points, pairing: Pairing, n: int) -> Negatives:
    """Each anchor's curve that comes nearest to a negative curve, with that one.

    Sampled points belong to one end of their curve, so each ordered pair is searched for itself;
    an arc or segment belongs to both and is searched once.
    """
    if isinstance(curve, Samples):
        index, value = curve.nearest(points.gram, pairing.ordered(), pairing.negatives, 1)
    else:
        index, value = curve.nearest(points.gram, pairing.positives, pairing.negatives, 1)
        index, value = index[pairing.curve], value[pairing.curve]
    best, found = smallest_per_group(value.squeeze(1), pairing.anchor, n)
    (anchor,) = found.nonzero(as_tuple=True)
    pair = best[anchor]
    return Negatives(anchor, pairing.positive[pair], pairing.negatives.take(index[pair, 0]))
