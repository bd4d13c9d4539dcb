"""From a batch to its hard negatives: the steps that every synthesizer shares."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from loopml._checks import kind_of, values_readable
from loopml._types import Pairs, SyntheticBatch
from loopml.batch import Batch, full_precision
from loopml.curves import Curve
from loopml.geometry.lengths import distance_between
from loopml.geometry.transplant import onto_sphere_at_distance
from loopml.idle import CALLER_OF_MODULE, SaysIdle
from loopml.measure import Negatives, measure, measure_distance
from loopml.pairing import Pairing, pair_up
from loopml.points import Points, nearest, points_of
from loopml.spaces import DOT_PRODUCT, SPHERE, Space


class Tuples(NamedTuple):
    """Ordered positive pairs, each with a negative curve."""

    negatives: Negatives  # (u,) the same for both orders of a pair
    anchor: Tensor  # (m,)
    positive: Tensor  # (m,)
    which: Tensor  # (m,) index into ``negatives``


STATS = (
    "num_tuples",
    "hardest_real_negative",
    "hardest_synthetic_negative",
    "interior_share",
    "collapsed_share",
)
# Distances below which a tuple counts as collapsed.
_NEAR = 0.1


class Synthesizer(SaysIdle):
    """A way to make the hard negatives of a batch; ``LoOpMiner`` or ``EmbeddingExpansion``."""

    pairing: str
    num_negatives: int | None

    def curve_in(self, space: Space) -> Curve:
        """The curve that joins two points of ``space``."""
        raise NotImplementedError

    def _record(self, points: Points, tuples: Tuples, weights: Tensor, distance: Tensor) -> None:
        """Keep the stats of these tuples, where the synthesizer collects any."""

    def _say_if_idle(self, batch: Batch, anchor: Tensor, frames: int = CALLER_OF_MODULE) -> None:
        """Count a batch whose tuples have these anchors, and warn of the second without any.

        Called by what users call, ``frames`` below them. A loss that asks for tuples says it of
        itself. Embeddings without a gradient train nothing, so there is nothing to say of them.
        """
        if values_readable(batch.embeddings) and batch.embeddings.requires_grad:
            self._count_idle(len(anchor) == 0)
            self._warn_if_idle(batch, frames + 1)

    def _hardest(self, space: Space, batch: Batch) -> tuple[Curve, Points, Tuples]:
        """The kind of curves, the points that they join, and the tuples that are hardest."""
        kind = self.curve_in(space)
        points = points_of(space, kind, batch)
        near = points.nearness(batch, similarity=space is DOT_PRODUCT)
        pairing = pair_up(self.pairing, batch, near)
        return kind, points, choose(kind, points, pairing, self.num_negatives)

    def _measured(self, space: Space, batch: Batch) -> tuple[Tuples, Tensor]:
        """The hardest tuples, and how near the curves of ``tuples.negatives`` come: (u,).

        That is their distance, or the product of their nearest points under a dot product.
        """
        kind, points, tuples = self._hardest(space, batch)
        if space is DOT_PRODUCT:
            weights, point_p, point_q, distance = measure(kind, points, tuples.negatives)
            nearness = (point_p * point_q).sum(1)
        else:
            weights, distance = measure_distance(kind, points, tuples.negatives)
            nearness = distance
        self._record(points, tuples, weights, distance)
        return tuples, nearness

    def _synthesize(self, space: Space, batch: Batch, dtype: torch.dtype) -> SyntheticBatch:
        """The batch, in ``dtype``, with the synthetic negatives that are hardest in ``space``."""
        with full_precision(batch.embeddings):
            kind, points, tuples = self._hardest(space, batch)
            weights, point_p, point_q, distance = measure(kind, points, tuples.negatives)
            self._record(points, tuples, weights, distance)
            anchor = points.seen.unit.index_select(0, tuples.anchor)
            z_p, z_n = (z.index_select(0, tuples.which) for z in (point_p, point_q))
            inside = space is SPHERE and not kind.on_sphere
            # Points inside the sphere cannot be rotated onto it.
            transplant = onto_sphere_at_distance if inside else space.transplant
            synthetic = transplant(anchor, z_p, z_n)
            if space is not DOT_PRODUCT:
                # Where curves touch the negative is the anchor, to the last bit also after the
                # loss has normalised both. At a distance of 0 there is no gradient, at one of
                # rounding there is a full one.
                touch = (distance == 0).index_select(0, tuples.which).unsqueeze(1)
                same = batch.embeddings.index_select(0, tuples.anchor)
                synthetic = torch.where(touch, same, synthetic)
        embeddings, others = batch.embeddings.to(dtype), batch.labels_of_others()
        real = embeddings if batch.ref_emb is None else batch.ref_emb.to(dtype)
        labels = tuples.negatives.curve.label[tuples.which]
        return SyntheticBatch(
            embeddings,
            batch.labels,
            (
                tuples.anchor,
                tuples.positive - batch.offset(),
                torch.arange(len(synthetic), device=labels.device) + len(real),
            ),
            torch.cat([real, synthetic.to(dtype)]),
            torch.cat([others, labels.to(others.dtype)]),
        )


@torch.no_grad()
def choose(kind: Curve, points: Points, pairing: Pairing, k: int | None) -> Tuples:
    """Each positive pair with its ``k`` nearest negative curves, or with all of them."""
    rows, cols = pairing.positives, pairing.negatives
    if k is None:
        found = rows.label.unsqueeze(1) != cols.label  # (p, c)
        col = torch.arange(len(cols.first), device=found.device).expand_as(found)
    else:
        col, _ = nearest(kind, points, rows, cols, k)  # (p, k)
        if k <= pairing.least:
            return _each_with(col, pairing)
        found = col >= 0
    # A row joined with itself is no positive pair.
    found = found & (rows.first != rows.second).unsqueeze(1)
    curves, slot = found.nonzero(as_tuple=True)
    col = col[curves, slot]
    number = found.flatten().cumsum(0).view_as(found) - 1
    pair, slot = found[pairing.curve].nonzero(as_tuple=True)
    return Tuples(
        Negatives(rows.first[curves], rows.second[curves], cols.take(col)),
        pairing.anchor[pair],
        pairing.positive[pair],
        number[pairing.curve[pair], slot],
    )


def _each_with(col: Tensor, pairing: Pairing) -> Tuples:
    """Each positive pair with all k negative curves at ``col`` (p, k): nobody has to count them."""
    k, rows = col.shape[1], pairing.positives
    which, anchor, positive = pairing.curve, pairing.anchor, pairing.positive
    if k > 1:
        rows = Pairs(*(column.repeat_interleave(k) for column in rows))
        which = (which.unsqueeze(1) * k + torch.arange(k, device=which.device)).flatten()
        anchor, positive = anchor.repeat_interleave(k), positive.repeat_interleave(k)
    # Where nothing is found, numbers are not numbers, which any curve shows.
    curve = pairing.negatives.take(col.flatten().clamp(min=0))
    return Tuples(Negatives(rows.first, rows.second, curve), anchor, positive, which)


@torch.no_grad()
def stats_of(
    points: Points,
    negatives: Negatives,
    weights: Tensor,
    distance: Tensor,
    m: int,
    *,
    sides: tuple[Tensor, Tensor] | None = None,
    from_anchor: bool = False,
) -> dict[str, float]:
    """What ``collect_stats`` records of tuples of curves; it reads values, so it syncs a GPU.

    The mean distance to the negative, of the nearest ends (``from_anchor``: of the anchor alone and
    the nearest end) and of the curves themselves, the share of tuples whose nearest points are
    ends of neither curve, and the share whose distances to positive and negative are both small:
    those of ``sides``, or the length of the positive curve and ``distance``.
    """
    if m == 0:
        return dict.fromkeys(STATS, 0.0)
    endpoints = points.placed.unit[negatives.ends()]  # (u, 4, d)
    p, q = endpoints[:, : 1 if from_anchor else 2], endpoints[:, 2:]
    real = distance_between(p.unsqueeze(2), q.unsqueeze(1)).flatten(1).amin(1)
    interior = (weights > 0).all(1)
    to_positive, to_negative = sides or (distance_between(*endpoints[:, :2].unbind(1)), distance)
    collapsed = (to_positive < _NEAR) & (to_negative < _NEAR)
    shares = (share.to(real.dtype).mean() for share in (interior, collapsed))
    means = (real.mean(), distance.mean(), *shares)
    return dict(zip(STATS, (float(m), *(float(mean) for mean in means)), strict=True))


def check_synthesizer(synthesizer: object, *, optional: bool) -> Any:
    """Return ``synthesizer`` if it is one, or None where that is allowed."""
    if not isinstance(synthesizer, Synthesizer) and not (optional and synthesizer is None):
        choices = "an EmbeddingExpansion or a LoOpMiner" + (", or None" if optional else "")
        raise TypeError(f"synthesizer must be {choices}, got {kind_of(synthesizer)}")
    return synthesizer
