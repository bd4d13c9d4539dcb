"""The hardest-positive hardest-negative triplet loss."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from loopml import ops
from loopml._checks import check_flag, check_nonnegative
from loopml._types import Pairs
from loopml.curves import Curve, Samples, samples
from loopml.geometry.evaluate import distance_of
from loopml.losses.mined import Elements, MinedLoss
from loopml.pairing import Pairing, pair_up, positive_mask
from loopml.selection import largest, smallest_per_group
from loopml.spaces import DOT_PRODUCT, space_of
from loopml.synthesis import (
    STATS,
    Negatives,
    Synthesizer,
    check_synthesizer,
    difference,
    measure,
    measure_rows,
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
    - a :class:`LoOpMiner`: the least distance from any curve that joins the anchor to a row of its
      class, as the miner's ``pairing`` joins them, to any curve of another class.

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
        Where the distance normalises, positives and negatives are chosen by a float32 Gram matrix
        (float64 for float64), which on distances near 0 is good to about 5e-4. Otherwise they are
        chosen by squared distances that are each good to 1e-7 of themselves, whatever the other
        rows are. What is chosen is measured from differences of vectors in that dtype, on arcs at
        fractions solved for in float64 from the rows.
        Ends of an arc are opposite within 4.7e-5 in float32 and 8.4e-8 in float64 (on CUDA and
        under a compiler the search takes them for opposite within 2e-3 in float32): such an arc is
        its two ends.

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
        positive = _farthest_positive(points.gram, embeddings, labels, ref_emb, ref_labels)
        if synthesizer is None:
            hardest = _nearest_rows(points.gram, labels, ref_labels)
        else:
            pairing = pair_up(
                synthesizer.pairing, embeddings, labels, ref_emb, ref_labels, gram=points.gram
            )
            if len(pairing.anchor) == 0 or len(pairing.negatives.first) == 0:
                return None
            if isinstance(curve, Samples):
                hardest = _nearest_to_samples(curve, points.gram, pairing, labels)
                # An anchor is measured with the points between, without its positive.
                curve = curve.without_end()
            else:
                hardest = _nearest_curves(curve, points.gram, pairing, len(labels))
        negatives, which, found = hardest
        valid = found & (positive >= 0)
        if synthesizer is None:
            nearest = measure_rows(points, negatives)
        else:
            nearest = measure(curve, points, negatives)
        if self.collect_stats:
            counted = which[valid]
            picked = nearest.weights[counted], nearest.distance[counted]
            stats = stats_of(
                points,
                negatives.take(counted),
                *picked,
                len(counted),
                from_anchor=isinstance(curve, Samples),
            )
            for name, value in stats.items():
                setattr(self, name, value)
        anchor = torch.arange(len(labels), device=labels.device)
        rows = torch.stack([anchor, positive.clamp(min=0)], 1)
        d_ap = distance_of(difference(points.seen, rows))
        d_an = nearest.distance.index_select(0, which)
        if self.distance.power != 1:
            d_ap, d_an = d_ap**self.distance.power, d_an**self.distance.power
        if self.soft_margin:
            losses = torch.nn.functional.softplus(d_ap - d_an)
        else:
            losses = torch.relu(d_ap - d_an + self.margin)
        return Elements(losses, valid, (anchor,), "element")

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return f"margin={self.margin}, soft_margin={self.soft_margin}"


@torch.no_grad()
def _farthest_positive(
    gram: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    ref_emb: Tensor | None,
    ref_labels: Tensor | None,
) -> Tensor:
    """The index, among all points, of the farthest positive of each row; -1 where it has none."""
    if ref_emb is None:
        return ops.farthest_positives(gram, labels)
    n = len(labels)
    positives = positive_mask(embeddings, labels, ref_emb, ref_labels)
    # The square of the anchor itself is the same for all of its positives.
    farness = gram.diagonal()[n:] - 2 * gram[:n, n:]
    index = largest(farness, positives, 1)[0].squeeze(1)
    return torch.where(index < 0, index, index + n)


class _Hardest(NamedTuple):
    """The nearest negative curve of each of n anchors."""

    negatives: Negatives  # u positive curves with their nearest negative curves
    which: Tensor  # (n,) index of the anchor's into those; any, where it has none
    found: Tensor  # (n,) whether it has one


@torch.no_grad()
def _nearest_rows(gram: Tensor, labels: Tensor, ref_labels: Tensor | None) -> _Hardest:
    """Rows instead of curves, on both sides."""
    n = len(labels)
    offset = 0 if ref_labels is None else n
    ref_labels = labels if ref_labels is None else ref_labels
    nearness = 2 * gram[:n, offset:] - gram.diagonal()[offset:]
    index = largest(nearness, labels.unsqueeze(1) != ref_labels, 1)[0].squeeze(1)
    anchor = torch.arange(n, device=labels.device)
    nearest = index.clamp(min=0)
    negative = Pairs(nearest + offset, nearest + offset, ref_labels[nearest])
    return _Hardest(Negatives(anchor, anchor, negative), anchor, index >= 0)


@torch.no_grad()
def _nearest_curves(curve: Curve, gram: Tensor, pairing: Pairing, n: int) -> _Hardest:
    """Over all curves through an anchor. A curve belongs to both of its ends: it is searched once.

    What is measured then are all curves, or those that the anchors chose where these are fewer.
    """
    rows, cols = pairing.positives, pairing.negatives
    index, value = curve.nearest(gram, rows, cols, 1)
    pair, found = smallest_per_group(value[pairing.curve, 0], pairing.anchor, n)
    which = pairing.curve[pair]
    if len(rows.first) > n:
        rows, index, which = rows.take(which), index[which], torch.arange(n, device=which.device)
    negative = cols.take(index[:, 0].clamp(min=0))
    return _Hardest(Negatives(rows.first, rows.second, negative), which, found)


@torch.no_grad()
def _nearest_to_samples(curve: Samples, gram: Tensor, pairing: Pairing, labels: Tensor) -> _Hardest:
    """Over the anchor and the points between it and its positives.

    The points between belong to both ends of a pair; the anchor belongs to itself.
    """
    rows = torch.arange(len(labels), device=labels.device)
    alone = Pairs(rows, rows, labels)
    index, value = curve.start().nearest(gram, alone, pairing.negatives, 1)
    # An anchor that is itself the nearest is measured with any of its positives.
    partner = rows.scatter_reduce(0, pairing.anchor, pairing.positive, "amax", include_self=False)
    anchor, positive = rows, partner
    if curve.between().p_fractions:
        between, values = curve.between().nearest(gram, pairing.positives, pairing.negatives, 1)
        anchor = torch.cat([rows, pairing.anchor])
        positive = torch.cat([partner, pairing.positive])
        index = torch.cat([index, between[pairing.curve]])
        value = torch.cat([value, values[pairing.curve]])
    pair, found = smallest_per_group(value[:, 0], anchor, len(labels))
    negative = pairing.negatives.take(index[pair, 0].clamp(min=0))
    return _Hardest(Negatives(rows, positive[pair], negative), rows, found)
