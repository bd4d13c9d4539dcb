"""From a batch to its hard negatives: the steps that every synthesizer shares."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pytorch_metric_learning.distances import BaseDistance
from torch import Tensor

from loopml._types import Closest, Pairs, SyntheticBatch
from loopml.curves import Curve, Segments
from loopml.geometry.evaluate import distance_between
from loopml.geometry.transplant import onto_sphere_at_distance
from loopml.pairing import Pairing, pair_up
from loopml.spaces import SPHERE, Space, full_precision, seen_by, space_of


class Points(NamedTuple):
    """A batch and its references as one set of points, the batch first."""

    seen: Tensor  # (n, d) as the distance sees them, with grad
    placed: Tensor  # (n, d) the points that the curves join
    gram: Tensor  # (n, n) their inner products for the search, without grad


class Negatives(NamedTuple):
    """Tuples of curves: each ordered positive pair with a negative curve."""

    anchor: Tensor  # (m,)
    positive: Tensor  # (m,)
    curve: Pairs  # (m,) the negative curves

    def take(self, index: Tensor | slice) -> Negatives:
        """The tuples at ``index``."""
        return Negatives(self.anchor[index], self.positive[index], self.curve.take(index))


STATS = (
    "num_tuples",
    "hardest_real_negative",
    "hardest_synthetic_negative",
    "interior_share",
)


class Synthesizer:
    """A way to make the hard negatives of a batch; ``LoOpMiner`` or ``EmbeddingExpansion``."""

    pairing: str
    num_negatives: int | None

    def curve_in(self, space: Space) -> Curve:
        """The curve that joins two points of ``space``."""
        raise NotImplementedError

    def anchor_curve_in(self, space: Space) -> Curve | None:
        """The curve of an ordered pair that belongs to its anchor, if that differs."""
        raise NotImplementedError

    def _record(self, points: Points, negatives: Negatives, nearest: Closest) -> None:
        """Keep the stats of these tuples, where the synthesizer collects any."""

    def _synthesize(
        self,
        distance: BaseDistance,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None,
        ref_labels: Tensor | None,
    ) -> SyntheticBatch:
        """The batch with the synthetic negatives that ``distance`` finds hardest."""
        space = space_of(distance)
        curve = self.curve_in(space)
        labels, ref_labels = on_device_of(embeddings, labels, ref_labels)
        with full_precision(embeddings):
            points = points_of(distance, curve, embeddings, ref_emb)
            pairing = pair_up(self.pairing, embeddings, labels, ref_emb, ref_labels)
            negatives = choose(curve, points, pairing, self.num_negatives)
            nearest = measure(curve, points, negatives)
            self._record(points, negatives, nearest)
            anchor = points.seen.index_select(0, negatives.anchor)
            # Points inside the sphere cannot be rotated onto it.
            inside = space is SPHERE and isinstance(curve, Segments)
            transplant = onto_sphere_at_distance if inside else space.transplant
            synthetic = transplant(anchor, nearest.point_p, nearest.point_q)
        if ref_emb is None or ref_labels is None:
            ref_emb, ref_labels, offset = embeddings, labels, 0
        else:
            ref_emb, offset = ref_emb.to(embeddings.dtype), len(embeddings)
        rows = torch.arange(len(synthetic), device=labels.device) + len(ref_emb)
        return SyntheticBatch(
            embeddings,
            labels,
            (negatives.anchor, negatives.positive - offset, rows),
            torch.cat([ref_emb, synthetic.to(ref_emb.dtype)]),
            torch.cat([ref_labels, negatives.curve.label.to(ref_labels.dtype)]),
        )


def on_device_of(
    embeddings: Tensor, labels: Tensor, ref_labels: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Labels where the embeddings are, as pytorch-metric-learning moves them."""
    moved = None if ref_labels is None else ref_labels.to(embeddings.device)
    return labels.to(embeddings.device), moved


def with_references(embeddings: Tensor, ref_emb: Tensor | None) -> Tensor:
    """The batch, then its references."""
    return embeddings if ref_emb is None else torch.cat([embeddings, ref_emb.to(embeddings.dtype)])


def points_of(
    distance: BaseDistance, curve: Curve, embeddings: Tensor, ref_emb: Tensor | None
) -> Points:
    """The points of a batch, and the Gram matrix that the search chooses by."""
    seen = seen_by(distance, with_references(embeddings, ref_emb))
    placed = curve.place(seen)
    located = placed.detach()
    if curve.translates and len(located):
        located = located - located.mean(0)
    return Points(seen, placed, located @ located.T)


@torch.no_grad()
def choose(curve: Curve, points: Points, pairing: Pairing, k: int | None) -> Negatives:
    """The ``k`` nearest negative curves of each ordered positive pair, or all of them."""
    rows, cols = pairing.positives, pairing.negatives
    if k is None:
        allowed = rows.label.unsqueeze(1) != cols.label
        pair, negative = allowed[pairing.curve].nonzero(as_tuple=True)
    else:
        index, _ = curve.nearest(points.gram, rows, cols, k)
        index = index[pairing.curve]  # (o, k)
        pair, slot = (index >= 0).nonzero(as_tuple=True)
        negative = index[pair, slot]
    return Negatives(pairing.anchor[pair], pairing.positive[pair], cols.take(negative))


def measure(curve: Curve, points: Points, negatives: Negatives) -> Closest:
    """The nearest points of each tuple's two curves, differentiable."""
    ends = (negatives.anchor, negatives.positive, negatives.curve.first, negatives.curve.second)
    rows = torch.stack(ends, 1)  # (m, 4)
    # index_select, not indexing: its gradient adds rows, in a fraction of the time on the CPU.
    gathered = points.placed.index_select(0, rows.flatten())
    return curve.measure(gathered.view(*rows.shape, points.placed.shape[1]))


@torch.no_grad()
def stats_of(points: Points, negatives: Negatives, nearest: Closest) -> dict[str, float]:
    """What ``collect_stats`` records of tuples of curves; it reads values, so it syncs a GPU.

    The mean distance to the negative, of the nearest ends and of the curves themselves, and the
    share of tuples whose nearest points are ends of neither curve.
    """
    m = len(negatives.anchor)
    if m == 0:
        return dict.fromkeys(STATS, 0.0)
    p = points.placed[torch.stack([negatives.anchor, negatives.positive], 1)]  # (m, 2, d)
    q = points.placed[torch.stack([negatives.curve.first, negatives.curve.second], 1)]
    real = distance_between(p.unsqueeze(2), q.unsqueeze(1)).flatten(1).amin(1)
    interior = (nearest.s * (1 - nearest.s) * nearest.t * (1 - nearest.t)) > 0
    means = (real.mean(), nearest.distance.mean(), interior.to(real.dtype).mean())
    return dict(zip(STATS, (float(m), *(float(mean) for mean in means)), strict=True))


def check_synthesizer(synthesizer: object, *, optional: bool) -> Any:
    """Return ``synthesizer`` if it is one, or None where that is allowed."""
    if not isinstance(synthesizer, Synthesizer) and not (optional and synthesizer is None):
        choices = "an EmbeddingExpansion or a LoOpMiner" + (", or None" if optional else "")
        got = synthesizer.__name__ if isinstance(synthesizer, type) else type(synthesizer).__name__
        raise TypeError(f"synthesizer must be {choices}, got {got}")
    return synthesizer
