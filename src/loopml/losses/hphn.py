"""The hardest-positive hardest-negative triplet loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from loopml._checks import check_flag, check_nonnegative
from loopml._types import Closest, Pairs
from loopml.curves import Curve, Samples, samples
from loopml.geometry.evaluate import distance_between
from loopml.losses.mined import Elements, MinedLoss
from loopml.pairing import Pairing, pair_up, positive_mask
from loopml.selection import smallest, smallest_per_group
from loopml.spaces import DOT_PRODUCT, space_of
from loopml.synthesis import (
    STATS,
    Negatives,
    Points,
    Synthesizer,
    check_synthesizer,
    measure,
    points_of,
    stats_of,
)


class HPHNTripletLoss(MinedLoss):
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
        distance 0 and gradient 0, so a batch that has collapsed into one point gets none, from the
        soft form neither. A first epoch with ``synthesizer=None`` prevents it (see the recipes).

    Precision:
        Positives and negatives are chosen by a float32 Gram matrix (float64 for float64), which on
        distances near 0 is good to about 5e-4. What is chosen is measured from differences of
        vectors in that dtype, on arcs at fractions solved for in float64.

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

    def elements(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None, ref_labels: Tensor | None
    ) -> Elements | None:
        """One element per row of the batch; it counts where the row is an anchor."""
        space = space_of(self.distance)
        synthesizer = self.synthesizer
        if synthesizer is None:
            curve: Curve = samples(0, normalize=False, similarity=False)
        else:
            curve = synthesizer.curve_in(space)
        points = points_of(self.distance, curve, embeddings, ref_emb)
        mask = positive_mask(embeddings, labels, ref_emb, ref_labels)
        positive = _farthest_positive(points, mask)
        if synthesizer is None:
            negatives, valid = _nearest_rows(points, labels, ref_labels, mask.any(1))
        else:
            pairing = pair_up(synthesizer.pairing, embeddings, labels, ref_emb, ref_labels)
            if len(pairing.anchor) == 0 or len(pairing.negatives.first) == 0:
                return None
            curve = synthesizer.anchor_curve_in(space) or curve
            negatives, valid = _nearest_curves(curve, points, pairing, len(labels))
        nearest = measure(curve, points, negatives)
        if self.collect_stats:
            counted = Closest(*(x[valid] for x in nearest))
            for name, value in stats_of(points, negatives.take(valid), counted).items():
                setattr(self, name, value)
        ends = points.seen.index_select(0, torch.cat([negatives.anchor, positive]))
        d_ap, d_an = distance_between(*ends.chunk(2)), nearest.distance
        if self.distance.power != 1:
            d_ap, d_an = d_ap**self.distance.power, d_an**self.distance.power
        if self.soft_margin:
            losses = torch.nn.functional.softplus(d_ap - d_an)
        else:
            losses = torch.relu(d_ap - d_an + self.margin)
        return Elements(losses, valid, (negatives.anchor,), "element")

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return f"margin={self.margin}, soft_margin={self.soft_margin}"


@torch.no_grad()
def _farthest_positive(points: Points, mask: Tensor) -> Tensor:
    """The index, among all points, of the farthest positive of each row; any, where it has none."""
    n, m = mask.shape
    offset = len(points.gram) - m
    # The square of the row itself is the same for all of its positives.
    nearness = 2 * points.gram[:n, offset:] - points.gram.diagonal()[offset:]
    return smallest(nearness, mask, 1)[0].squeeze(1).clamp(min=0) + offset


@torch.no_grad()
def _nearest_rows(
    points: Points, labels: Tensor, ref_labels: Tensor | None, has_positive: Tensor
) -> tuple[Negatives, Tensor]:
    """Each row with its nearest negative row, as curves of one point, and whether it counts."""
    n = len(labels)
    offset = 0 if ref_labels is None else n
    ref_labels = labels if ref_labels is None else ref_labels
    farness = points.gram.diagonal()[offset:] - 2 * points.gram[:n, offset:]
    index = smallest(farness, labels.unsqueeze(1) != ref_labels, 1)[0].squeeze(1)
    anchor = torch.arange(n, device=labels.device)
    nearest = index.clamp(min=0)
    negative = Pairs(nearest + offset, nearest + offset, ref_labels[nearest])
    return Negatives(anchor, anchor, negative), has_positive & (index >= 0)


@torch.no_grad()
def _nearest_curves(
    curve: Curve, points: Points, pairing: Pairing, n: int
) -> tuple[Negatives, Tensor]:
    """Each row's curve that comes nearest to a negative curve, with that one, and whether it has.

    Sampled points belong to one end of their curve, so each ordered pair is searched for itself;
    an arc or segment belongs to both and is searched once.
    """
    if isinstance(curve, Samples):
        index, value = curve.nearest(points.gram, pairing.ordered(), pairing.negatives, 1)
    else:
        index, value = curve.nearest(points.gram, pairing.positives, pairing.negatives, 1)
        index, value = index[pairing.curve], value[pairing.curve]
    pair, found = smallest_per_group(value.squeeze(1), pairing.anchor, n)
    # A row on no curve stands for itself: its own numbers are finite, and are left out.
    row = torch.arange(n, device=pair.device)
    positive = torch.where(found, pairing.positive[pair], row)
    negative = pairing.negatives.take(index[pair, 0].clamp(min=0))
    return Negatives(row, positive, negative), found
