"""From a batch to its hard negatives: the steps that every synthesizer shares."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from loopml._checks import kind_of, values_readable
from loopml._types import Pairs, SyntheticBatch
from loopml.batch import Batch, full_precision
from loopml.curves import Curve, Solution, opposite_square, weighted_sums
from loopml.geometry.distances import half_sq_distances
from loopml.geometry.lengths import distance_between, distance_of, normalized, numbers
from loopml.geometry.packing import wide
from loopml.geometry.transplant import onto_sphere_at_distance
from loopml.pairing import Pairing, pair_up
from loopml.spaces import DOT_PRODUCT, SPHERE, Space, seen_by


class Points(NamedTuple):
    """A batch and its references as one set of points, the batch first."""

    seen: Tensor  # (n, d) as the distance sees them, with grad
    placed: Tensor  # (n, d) the points that the curves join
    gram: Tensor  # (n, n) inner products of those for the search, or what stands for them; no grad


class Negatives(NamedTuple):
    """Positive curves, each with a negative curve."""

    anchor: Tensor  # (m,)
    positive: Tensor  # (m,)
    curve: Pairs  # (m,) the negative curves

    def ends(self) -> Tensor:
        """Where among the points the endpoints p0, p1, q0, q1 of both curves are: (m, 4)."""
        return torch.stack([self.anchor, self.positive, self.curve.first, self.curve.second], 1)

    def take(self, index: Tensor | slice) -> Negatives:
        """The tuples at ``index``."""
        return Negatives(self.anchor[index], self.positive[index], self.curve.take(index))


class Tuples(NamedTuple):
    """Ordered positive pairs, each with a negative curve."""

    negatives: Negatives  # (u,) the same for both orders of a pair
    anchor: Tensor  # (m,)
    positive: Tensor  # (m,)
    which: Tensor  # (m,) index into ``negatives``


class Nearest(NamedTuple):
    """The nearest points of m pairs of curves."""

    weights: Tensor  # (m, 4) of the endpoints in the two points, constants
    point_p: Tensor  # (m, d)
    point_q: Tensor  # (m, d)
    distance: Tensor  # (m,)


class Hardest(NamedTuple):
    """The tuples of a batch, and the nearest points of their curves."""

    seen: Tensor  # (n, d) the batch and its references as the distance sees them
    tuples: Tuples
    nearest: Nearest  # of ``tuples.negatives``
    inside: bool  # whether the distance sees a sphere, and these points are inside it


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

    def _record(self, points: Points, tuples: Tuples, nearest: Nearest) -> None:
        """Keep the stats of these tuples, where the synthesizer collects any."""

    def _hardest(self, space: Space, batch: Batch) -> Hardest:
        """The tuples of a batch that are hardest in ``space``, and where their curves are nearest.

        Autocast must be off.
        """
        kind = self.curve_in(space)
        points = points_of(space, kind, batch)
        pairing = pair_up(self.pairing, batch, gram=points.gram, similarity=space is DOT_PRODUCT)
        tuples = choose(kind, points, pairing, self.num_negatives)
        nearest = measure(kind, points, tuples.negatives)
        self._record(points, tuples, nearest)
        return Hardest(points.seen, tuples, nearest, inside=space is SPHERE and not kind.on_sphere)

    def _synthesize(self, space: Space, batch: Batch, dtype: torch.dtype) -> SyntheticBatch:
        """The batch, in ``dtype``, with the synthetic negatives that are hardest in ``space``."""
        with full_precision(batch.embeddings):
            seen, tuples, nearest, inside = self._hardest(space, batch)
            anchor = seen.index_select(0, tuples.anchor)
            z_p, z_n = (z.index_select(0, tuples.which) for z in nearest[1:3])
            # Points inside the sphere cannot be rotated onto it.
            transplant = onto_sphere_at_distance if inside else space.transplant
            synthetic = transplant(anchor, z_p, z_n)
            if space is not DOT_PRODUCT:
                # Where curves touch the negative is the anchor, to the last bit also after the
                # loss has normalised both. At a distance of 0 there is no gradient, at one of
                # rounding there is a full one.
                touch = (nearest.distance == 0).index_select(0, tuples.which).unsqueeze(1)
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


def points_of(space: Space, kind: Curve, batch: Batch) -> Points:
    """The points of a batch, and the Gram matrix that the search chooses by."""
    seen = seen_by(space, batch.all_embeddings())
    placed = kind.place(seen)
    located = placed.detach()
    if kind.translates and space is not SPHERE:
        return Points(seen, placed, half_sq_distances(located))
    if kind.translates and len(located):
        located = located - located.mean(0)
    gram = located @ located.T
    if kind.on_sphere and not kind.translates:
        gram = _with_known_middles(located, gram)
    return Points(seen, placed, gram)


# A sum of unit vectors is 0.05 long at this product of the two. Inner products of float32 know the
# direction of a shorter one to less than 1e-6.
_NEARLY_OPPOSITE = 0.05**2 / 2 - 1


def _with_known_middles(units: Tensor, gram: Tensor) -> Tensor:
    """The products of unit vectors, in float64 where the middle of two needs it."""
    readable = gram.dtype == torch.float32 and values_readable(gram) and gram.numel() > 0
    if not readable or float(gram.amin()) >= _NEARLY_OPPOSITE:
        return gram
    exact = normalized(wide(units))
    exact = exact @ exact.T
    # Those that the measure takes for opposite, the search must take for opposite.
    return exact.masked_fill_(exact < opposite_square(units.dtype) / 2 - 1, -1)


@torch.no_grad()
def choose(kind: Curve, points: Points, pairing: Pairing, k: int | None) -> Tuples:
    """Each positive pair with its ``k`` nearest negative curves, or with all of them."""
    rows, cols = pairing.positives, pairing.negatives
    if k is None:
        found = rows.label.unsqueeze(1) != cols.label  # (p, c)
        curves, col = found.nonzero(as_tuple=True)
    else:
        index, _ = kind.nearest(points.gram, rows, cols, k)
        found = index >= 0  # (p, k)
        curves, slot = found.nonzero(as_tuple=True)
        col = index[curves, slot]
    number = found.flatten().cumsum(0).view_as(found) - 1
    pair, slot = found[pairing.curve].nonzero(as_tuple=True)
    return Tuples(
        Negatives(rows.first[curves], rows.second[curves], cols.take(col)),
        pairing.anchor[pair],
        pairing.positive[pair],
        number[pairing.curve[pair], slot],
    )


def measure(kind: Curve, points: Points, negatives: Negatives) -> Nearest:
    """The nearest points of each tuple's two curves, differentiable."""
    ends = negatives.ends()
    solution = solve(kind, points, ends)
    weights = solution.weights.reshape(-1, 2)  # one row per point
    sums = weighted_sums(points.placed, ends.view(-1, 2), weights)
    point_p, point_q = kind.on_curve(sums, weights).view(len(ends), 2, sums.shape[1]).unbind(1)
    distance = distance_between(point_p, point_q, solution.sq_size)
    return Nearest(solution.weights, point_p, point_q, distance)


def measure_rows(points: Points, negatives: Negatives) -> Nearest:
    """As :func:`measure`, for curves of one row each; without the points."""
    ends = torch.stack([negatives.anchor, negatives.curve.first], 1)
    distance = distance_of(difference(points.placed, ends))
    weights = numbers([1, 0, 1, 0], like=points.placed).expand(len(ends), 4)
    return Nearest(weights, weights.new_empty(0), weights.new_empty(0), distance)


def difference(points: Tensor, ends: Tensor) -> Tensor:
    """The first minus the second of the ``points`` at ``ends`` (m, 2)."""
    return weighted_sums(points, ends, numbers([1, -1], like=points).expand_as(ends))


def solve(kind: Curve, points: Points, ends: Tensor) -> Solution:
    """Where the curves between the points at ``ends`` (m, 4) come nearest, without grad."""
    with torch.no_grad():
        return kind.solve(points.placed, ends)


@torch.no_grad()
def stats_of(
    points: Points,
    negatives: Negatives,
    weights: Tensor,
    distance: Tensor,
    m: int,
    *,
    from_anchor: bool = False,
) -> dict[str, float]:
    """What ``collect_stats`` records of tuples of curves; it reads values, so it syncs a GPU.

    The mean distance to the negative, of the nearest ends (``from_anchor``: of the anchor alone and
    the nearest end) and of the curves themselves, and the share of tuples whose nearest points are
    ends of neither curve.
    """
    if m == 0:
        return dict.fromkeys(STATS, 0.0)
    endpoints = points.placed[negatives.ends()]  # (u, 4, d)
    p, q = endpoints[:, : 1 if from_anchor else 2], endpoints[:, 2:]
    real = distance_between(p.unsqueeze(2), q.unsqueeze(1)).flatten(1).amin(1)
    interior = (weights > 0).all(1)
    means = (real.mean(), distance.mean(), interior.to(real.dtype).mean())
    return dict(zip(STATS, (float(m), *(float(mean) for mean in means)), strict=True))


def check_synthesizer(synthesizer: object, *, optional: bool) -> Any:
    """Return ``synthesizer`` if it is one, or None where that is allowed."""
    if not isinstance(synthesizer, Synthesizer) and not (optional and synthesizer is None):
        choices = "an EmbeddingExpansion or a LoOpMiner" + (", or None" if optional else "")
        raise TypeError(f"synthesizer must be {choices}, got {kind_of(synthesizer)}")
    return synthesizer
