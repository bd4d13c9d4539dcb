"""The hardest-positive hardest-negative triplet loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from loopml._checks import check_flag, check_nonnegative
from loopml.batch import Batch
from loopml.curves import Curve, Samples
from loopml.host import properties_of
from loopml.losses.hardest import ROW, farthest_positive, nearest_curves, nearest_rows
from loopml.losses.mined import Elements, MinedLoss
from loopml.measure import Negatives, measure_distance, row_distance, row_weights
from loopml.pairing import pair_up
from loopml.points import Points, points_of
from loopml.spaces import DOT_PRODUCT, space_of
from loopml.synthesis import STATS, Synthesizer, check_synthesizer, stats_of


class HPHNTripletLoss(MinedLoss):
    r"""Triplet loss on the hardest positive and the hardest negative of each anchor.

    .. math:: \ell_a = \max(0,\; d_{ap} - d_{an} + m)
        \quad\text{or, soft,}\quad \log(1 + e^{d_{ap} - d_{an}})

    :math:`d_{ap}` is the distance to the anchor's farthest real positive, m the margin.
    :math:`d_{an}` depends on ``synthesizer``:

    - None: the distance to the nearest real negative;
    - an :class:`EmbeddingExpansion`: the least distance from the anchor and its own points between
      to any real point or point between of another class;
    - a :class:`LoOpMiner`: the least distance from any curve that joins the anchor to a row of its
      class, as the miner's ``pairing`` joins them, to any curve of another class.

    With ``real_until_apart`` an anchor whose :math:`d_{an}` is less than its :math:`d_{ap}` takes
    the distance to the nearest real negative in its place, as with None.

    An anchor is a row with a positive (its partner, under ``pairing="consecutive"``) and a
    negative; there is one loss element per anchor.

    Args:
        margin: how much farther than the farthest positive the nearest negative should be. An
            anchor with that much room has loss 0 and teaches nothing, so a larger margin keeps
            more anchors in the training. Distances of normalised rows lie in [0, 2]: 0.2 is a
            usual small margin, and the study in the documentation chose 0.2 to 1.2 by validation.
            The soft form does not use it.
        soft_margin: use the soft form, which has no margin to choose and never reaches 0.
        synthesizer: None, an :class:`EmbeddingExpansion` or a :class:`LoOpMiner`. Its ``pairing``
            and geometry are used; the distance is this loss's, and ``num_negatives`` has no part.
        real_until_apart: give an anchor its nearest real negative while its synthetic one is
            nearer than its farthest positive. It keeps a net with random weights from collapsing
            into one point (see the recipes), under the soft form too. It changes nothing for
            anchors whose classes are apart, or without a synthesizer.
        **base_loss_kwargs: ``distance`` (``LpDistance`` with p=2, normalised by default),
            ``reducer`` (default ``MeanReducer``), ``embedding_regularizer``, ``collect_stats``
            (the stats of :class:`LoOpMiner`, over anchors) and the like. Of these stats
            ``collapsed_share`` is the share of anchors whose :math:`d_{ap}` and :math:`d_{an}`,
            before a power, are both less than 0.1: their loss is the margin within 0.1 (soft:
            :math:`\log 2` within 0.05), whatever the net does, and little or no gradient leads
            away. Near 1 all is one point.

    Raises:
        TypeError: an option of the wrong type.
        ValueError: a margin below 0 or not finite, or a distance other than ``LpDistance(p=2)``.

    Gradient:
        To the ends of the chosen curves alone, with the choice and the fractions held fixed.

        - Equally far positives, or equally near negatives: one of them is chosen and gets it all.
        - Points that coincide, and curves that touch: distance 0, gradient 0.
        - A batch that has collapsed into one point: gradient 0, from the soft form too.
          ``real_until_apart=True`` keeps a training from getting there; nothing leads out.
        - Under ``real_until_apart`` the value jumps where :math:`d_{an}` reaches :math:`d_{ap}`,
          from the real negative to the synthetic one, which is taken where the two are equal. The
          choice has no gradient.

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
        2020), section 3, and LoOp (Vasudeva et al., ICCV 2021), section 3. ``real_until_apart`` is
        our own; that negatives nearer than the positive need a rule of theirs is from Xuan et al.,
        "Hard negative examples are hard, but useful" (ECCV 2020).

    Example:
        >>> import torch
        >>> from loopml import LoOpMiner
        >>> embeddings = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0.5], [0, 0, 1]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> HPHNTripletLoss(margin=0.2)(embeddings, labels)
        tensor(0.5334)
        >>> HPHNTripletLoss(margin=0.2, synthesizer=LoOpMiner())(embeddings, labels)
        tensor(1.1463)
        >>> HPHNTripletLoss(synthesizer=LoOpMiner(), real_until_apart=True)(embeddings, labels)
        tensor(0.5334)
    """

    def __init__(
        self,
        margin: float = 0.2,
        *,
        soft_margin: bool = False,
        synthesizer: Synthesizer | None = None,
        real_until_apart: bool = False,
        **base_loss_kwargs: Any,
    ) -> None:
        super().__init__(**base_loss_kwargs)
        self.margin = check_nonnegative("margin", margin)
        self.soft_margin = check_flag("soft_margin", soft_margin)
        self.synthesizer = check_synthesizer(synthesizer, optional=True)
        self.real_until_apart = check_flag("real_until_apart", real_until_apart)
        if space_of(self.distance) is DOT_PRODUCT or properties_of(self.distance).is_similarity:
            raise ValueError(
                "distance must be LpDistance(p=2) for HPHNTripletLoss, got "
                f"{type(self.distance).__name__}: a margin between distances is no margin between "
                "similarities; use LpDistance()"
            )
        self._record_stats(STATS, options=["margin"])

    def elements(self, batch: Batch) -> Elements | None:
        """One element per row of the batch; it counts where the row is an anchor."""
        space, synthesizer = space_of(self.distance), self.synthesizer
        kind = ROW if synthesizer is None else synthesizer.curve_in(space)
        points = points_of(space, kind, batch)
        positive = farthest_positive(points.gram, batch)
        if synthesizer is None:
            hardest = nearest_rows(points.gram, batch)
        else:
            pairing = pair_up(synthesizer.pairing, batch, points.nearness(batch))
            if len(pairing.anchor) == 0 or len(pairing.negatives.first) == 0:
                return None
            hardest = nearest_curves(kind, points, pairing, batch.labels)
            # An anchor is measured with the points between, without its positive.
            kind = kind.without_end() if isinstance(kind, Samples) else kind
        negatives, which, found = hardest
        valid = found & (positive >= 0)
        if synthesizer is None:
            distance = row_distance(points.placed, negatives.anchor, negatives.curve.first)
            weights = row_weights(points.placed, len(distance))
        else:
            weights, distance = measure_distance(kind, points, negatives)
        anchor = torch.arange(len(batch.labels), device=batch.labels.device)
        d_ap = row_distance(points.seen, anchor, positive.clamp(min=0))
        d_an = distance.index_select(0, which)
        if self.real_until_apart and synthesizer is not None:
            real = nearest_rows(points.gram, batch).negatives.curve.first
            d_an = torch.where(d_an < d_ap, row_distance(points.placed, anchor, real), d_an)
        if self.collect_stats:
            sides = d_ap[valid], d_an[valid]
            self._record(points, kind, negatives, weights, distance, which[valid], sides)
        power = properties_of(self.distance).power
        if power != 1:
            d_ap, d_an = d_ap**power, d_an**power
        if self.soft_margin:
            losses = torch.nn.functional.softplus(d_ap - d_an)
        else:
            losses = torch.relu(d_ap - d_an + self.margin)
        return Elements(losses, valid, (anchor,), "element")

    def _record(
        self,
        points: Points,
        kind: Curve,
        negatives: Negatives,
        weights: Tensor,
        distance: Tensor,
        counted: Tensor,
        sides: tuple[Tensor, Tensor],
    ) -> None:
        """Keep the stats of the ``counted`` ones of the negatives, and of their anchors."""
        stats = stats_of(
            points,
            negatives.take(counted),
            weights[counted],
            distance[counted],
            len(counted),
            sides=sides,
            from_anchor=isinstance(kind, Samples),
        )
        for name, value in stats.items():
            setattr(self, name, value)

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return (
            f"margin={self.margin}, soft_margin={self.soft_margin}, "
            f"real_until_apart={self.real_until_apart}"
        )
