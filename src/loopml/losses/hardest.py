"""The three searches of the HPHN triplet loss: farthest positives, nearest rows, nearest curves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from loopml import ops
from loopml._types import Gram, Pairs
from loopml.batch import Batch, positive_mask
from loopml.curves import Curve, Samples, samples
from loopml.measure import Negatives
from loopml.pairing import Pairing
from loopml.points import Points, nearest
from loopml.selection import largest, smallest_per_group

# Rows instead of curves: the points of a pair are its two ends.
ROW: Curve = samples(0, normalize=False, similarity=False)


class Hardest(NamedTuple):
    """The nearest negative curve of each of n anchors."""

    negatives: Negatives  # u positive curves with their nearest negative curves
    which: Tensor  # (n,) index of the anchor's into those; any, where it has none
    found: Tensor  # (n,) whether it has one


@torch.no_grad()
def farthest_positive(gram: Gram, batch: Batch) -> Tensor:
    """The index, among all rows, of the farthest positive of each anchor; -1 where it has none."""
    if batch.ref_emb is None:
        return ops.farthest_positives(gram, batch.labels)
    index = ops.farthest_allowed(gram, positive_mask(batch))
    return torch.where(index < 0, index, index + batch.offset())


@torch.no_grad()
def nearest_rows(gram: Gram, batch: Batch) -> Hardest:
    """Rows instead of curves, on both sides."""
    n, offset, labels = len(batch.labels), batch.offset(), batch.labels_of_others()
    nearness = 2 * gram.inner - gram.col_square
    index = largest(nearness, batch.labels.unsqueeze(1) != labels, 1)[0].squeeze(1)
    anchor = torch.arange(n, device=labels.device)
    other = index.clamp(min=0)
    negative = Pairs(other + offset, other + offset, labels[other])
    return Hardest(Negatives(anchor, anchor, negative), anchor, index >= 0)


@torch.no_grad()
def nearest_curves(kind: Curve, points: Points, pairing: Pairing, labels: Tensor) -> Hardest:
    """Over all curves through an anchor, or over its own points where curves are samples."""
    if isinstance(kind, Samples):
        return _nearest_to_own_points(kind, points, pairing, labels)
    # A curve belongs to both of its ends: it is searched once.
    rows, cols, n = pairing.positives, pairing.negatives, len(labels)
    index, value = nearest(kind, points, rows, cols)
    pair, found = smallest_per_group(value[pairing.curve, 0], pairing.anchor, n)
    which = pairing.curve[pair]
    if len(rows.first) > n:  # what is measured are then the curves that the anchors chose
        rows, index, which = rows.take(which), index[which], torch.arange(n, device=which.device)
    negative = cols.take(index[:, 0].clamp(min=0))
    return Hardest(Negatives(rows.first, rows.second, negative), which, found)


def _nearest_to_own_points(
    kind: Samples, points: Points, pairing: Pairing, labels: Tensor
) -> Hardest:
    """Over the anchor and the points between it and its positives.

    The points between belong to both ends of a pair; the anchor belongs to itself.
    """
    own = torch.arange(len(labels), device=labels.device)
    alone = Pairs(own, own, labels)
    index, value = nearest(kind.start(), points, alone, pairing.negatives)
    # An anchor that is itself the nearest is measured with any of its positives.
    partner = own.scatter_reduce(0, pairing.anchor, pairing.positive, "amax", include_self=False)
    anchor, positive = own, partner
    if kind.between().p_fractions:
        curves, cols = pairing.positives, pairing.negatives
        between, values = nearest(kind.between(), points, curves, cols)
        anchor = torch.cat([own, pairing.anchor])
        positive = torch.cat([partner, pairing.positive])
        index = torch.cat([index, between[pairing.curve]])
        value = torch.cat([value, values[pairing.curve]])
    pair, found = smallest_per_group(value[:, 0], anchor, len(labels))
    negative = pairing.negatives.take(index[pair, 0].clamp(min=0))
    return Hardest(Negatives(own, positive[pair], negative), own, found)
