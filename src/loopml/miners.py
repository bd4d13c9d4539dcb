"""LoOp: hard negatives at the minimum distance between the curves of two classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from loopml._checks import check_choice, check_count
from loopml._types import SyntheticBatch
from loopml.batch import Batch, batch_of, full_precision
from loopml.curves import Arcs, Curve, Segments, samples
from loopml.host import HostMiner, miner_arguments
from loopml.idle import CALLER_OF_METHOD, CALLER_OF_MODULE
from loopml.measure import Negatives, measure_distance, solve
from loopml.pairing import PAIRINGS, pair_up
from loopml.points import Points, points_of
from loopml.spaces import DOT_PRODUCT, EUCLIDEAN, SPHERE, Space, space_of
from loopml.synthesis import STATS, Synthesizer, Tuples, choose, stats_of

# Tuples whose endpoints are measured at once when an index miner returns all of them.
_CHUNK = 1 << 14
# Weights of float64 that differ by no larger share are equal.
_ROUNDING = 1e-9


# The product of two segments is bilinear, so it is largest at corners: under a dot product, where a
# loss reads products, a segment is its two ends.
# By names, since the compiler of torch 2.4 reads no other keys.
_CURVES: dict[tuple[str, str], Curve] = {
    (SPHERE.name, "arc"): Arcs(of_units=True),
    (SPHERE.name, "segment"): Segments(),
    (EUCLIDEAN.name, "arc"): Arcs(of_units=False),
    (EUCLIDEAN.name, "segment"): Segments(),
    (DOT_PRODUCT.name, "arc"): Arcs(of_units=False),
    (DOT_PRODUCT.name, "segment"): samples(0, normalize=False, similarity=True),
}


class LoOpMiner(HostMiner, Synthesizer):
    r"""Finds the negative pair whose curve comes nearest to the curve of a positive pair.

    Two positives a, p span a curve of points that should belong to their class, two negatives
    another. The hardest negative of the pair (a, p) is where the two come nearest,

    .. math:: \min_{s, t} \lVert \gamma_{ap}(s) - \gamma_{n_1 n_2}(t) \rVert,

    solved exactly: great-circle arcs between unit vectors, straight segments otherwise.

    Called, it mines triplets of *real* rows for any loss: each ordered positive pair with the
    ``num_negatives`` negative pairs nearest to it, and of each of these the endpoint with the
    larger weight at the minimum (:math:`t \le 1/2`: the first). :meth:`synthesize` makes the
    optimal points themselves.

    Args:
        geometry: "auto" joins points by arcs where the distance normalises (as by default), by
            segments under an unnormalised ``LpDistance`` or ``DotProductSimilarity``. "arc" and
            "segment" force one. The largest product of two segments is at a corner, so under an
            unnormalised ``DotProductSimilarity`` segments are looked at in their corners alone.
        pairing: "auto" joins every two samples of a class of up to eight; in a larger class each
            sample with the two others that lie nearest to another class, so that time grows with
            the batch and not with the square of a class. These are then its positives. (Of more
            than 2,048 references that is nearest to the batch's samples of another class.) "all"
            joins every two samples, whatever it costs. "consecutive" joins rows (0, 1), (2, 3),
            ..., as the paper's code. A lone sample is a negative curve of length zero.
        num_negatives: how many nearest negative pairs each positive pair is given. 1, the hardest,
            is what the paper does. More give a gentler mean, and as many more tuples; None takes
            all, which grows with the square of the pairs.
        **base_miner_kwargs: ``distance`` (default ``LpDistance()``, normalised) and
            ``collect_stats``, as every pytorch-metric-learning miner. The stats of the last batch
            are ``num_tuples``, the mean distances ``hardest_real_negative`` (nearest ends) and
            ``hardest_synthetic_negative`` (nearest points), ``interior_share``, the share of tuples
            whose nearest points are ends of neither curve, and ``collapsed_share``, the share whose
            ends of the positive curve, and whose nearest points, are both nearer than 0.1: near 1
            the batch is one point, from which little or no gradient leads away.

    Raises:
        ValueError: an unknown geometry or pairing, ``num_negatives`` below 1, or a distance under
            which curves have no known nearest points.
        TypeError: ``num_negatives`` is no integer.

    Ties:
        Of negative pairs that are equally near the first is taken. With three or more samples of a
        class several pairs share their nearest end, which is then mined whichever pair won, so the
        order of the batch changes no triplet. Where curves cross, as they can on a sphere in three
        dimensions or fewer, several distances are 0 and the order decides.

    Gradient:
        Mined triplets are indices and have none. :meth:`synthesize` describes its own.

    Precision:
        Where the distance normalises, the search ranks by a Gram matrix of float32 (float64 for
        float64), which on distances near 0 is good to about 5e-4. Under an unnormalised
        ``LpDistance`` it ranks by squared distances that are each good to 1e-7 of themselves. The
        fraction of an arc that decides the endpoint is solved for in float64. Ends of an arc are
        opposite, and the arc its two ends, within 4.7e-5 in float32 and 8.4e-8 in float64.

    Source:
        LoOp (Vasudeva et al., ICCV 2021), sections 3.1 and 3.2.

    Example:
        >>> import torch
        >>> from pytorch_metric_learning.losses import TripletMarginLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.4], [0.0, 1.0], [-1.0, 0.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> miner = LoOpMiner()
        >>> anchor, positive, negative = miner(embeddings, labels)
        >>> anchor.tolist(), positive.tolist(), negative.tolist()
        ([0, 2, 1, 3], [1, 3, 0, 2], [2, 1, 2, 1])
        >>> loss_fn = TripletMarginLoss()
        >>> loss = loss_fn(embeddings, labels, (anchor, positive, negative))  # real rows
        >>> loss = loss_fn(*miner.synthesize(embeddings, labels))  # synthetic negatives
    """

    def __init__(
        self,
        *,
        geometry: str = "auto",
        pairing: str = "auto",
        num_negatives: int | None = 1,
        **base_miner_kwargs: Any,
    ) -> None:
        super().__init__(**base_miner_kwargs)
        self.geometry = check_choice("geometry", geometry, ("auto", "arc", "segment"))
        self.pairing = check_choice("pairing", pairing, PAIRINGS)
        self.num_negatives = (
            None if num_negatives is None else check_count("num_negatives", num_negatives, 1)
        )
        space_of(self.distance)
        self._record_stats(STATS)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Any = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mine triplets of real rows.

        Args:
            embeddings: (n, d) floating point.
            labels: (n,) integers.
            indices_tuple: candidates, as pytorch-metric-learning 3 hands them to a miner: triplets,
                or pairs, of which the positives and the negatives are mined. Default: all. Release
                2 gives ``ref_emb`` and ``ref_labels`` in this place and the next; so may you.
            ref_emb: (m, d) references that positives and negatives come from; default: the batch.
            ref_labels: (m,) their labels.

        Returns:
            Anchors, positives and negatives, (t,) each. Anchors index ``embeddings``, the others
            ``ref_emb``. Empty where the batch has no positive or no negative pair.

        Raises:
            TypeError: an argument is no tensor of its kind.
            ValueError: shapes do not fit, a value is NaN or infinite, references lack labels, or
                the batch does not fit ``pairing="consecutive"``.

        Warns:
            UserWarning: once, when two batches in a row have no tuple. A single such batch may be
                the short last one of an epoch. Only of embeddings that want a gradient, on the
                CPU, outside ``torch.compile`` and ``torch.func``.
        """
        candidates, ref_emb, ref_labels = miner_arguments(indices_tuple, ref_emb, ref_labels)
        triplets = self.mine(embeddings, labels, ref_emb, ref_labels)
        if candidates is not None:
            triplets = _among(candidates, triplets, len(embeddings if ref_emb is None else ref_emb))
        self.num_triplets = len(triplets[0])  # as every miner of release 2 says
        return triplets

    def mine(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mine triplets of real rows, of all candidates.

        It takes what :meth:`forward` takes but for candidates, and returns and raises the same.
        """
        self._clear_stats()
        batch = batch_of(embeddings, labels, ref_emb, ref_labels)
        with torch.no_grad(), full_precision(batch.embeddings):
            triplets = self._mined(batch)
        self._say_if_idle(batch, triplets[0], CALLER_OF_MODULE + 1)  # forward calls this method
        return triplets

    def _mined(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        space = space_of(self.distance)
        kind = self.curve_in(space)
        points = points_of(space, kind, batch)
        nearness = points.nearness(batch, similarity=space is DOT_PRODUCT)
        pairing = pair_up(self.pairing, batch, nearness)
        tuples = choose(kind, points, pairing, self.num_negatives)
        chunks = torch.split(tuples.negatives.ends(), _CHUNK)
        weights = torch.cat([solve(kind, points, ends).weights for ends in chunks])
        if self.collect_stats:
            weights, distance = _measure_in_chunks(kind, points, tuples.negatives)
            self._record(points, tuples, weights, distance)
        first, second, _ = tuples.negatives.curve
        # Equal but for rounding, as where a curve is met in its middle, they are equal.
        is_first = weights[:, 2] >= (1 - _ROUNDING) * weights[:, 3]
        endpoint = torch.where(is_first, first, second)[tuples.which]
        offset = batch.offset()
        return tuples.anchor, tuples.positive - offset, endpoint - offset

    def _record(self, points: Points, tuples: Tuples, weights: Tensor, distance: Tensor) -> None:
        if self.collect_stats:
            m = len(tuples.anchor)
            stats = stats_of(points, tuples.negatives, weights, distance, m)
            for name, value in stats.items():
                setattr(self, name, value)

    def synthesize(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> SyntheticBatch:
        """The ``num_negatives`` optimal hard negatives of each ordered positive pair.

        Each is carried over to its anchor a such that ``distance(a, negative)`` is the minimum
        distance of the two curves, in value and in total gradient.

        Args:
            embeddings: (n, d) floating point.
            labels: (n,) integers.
            ref_emb: (m, d) references that positives and negatives come from; default: the batch.
            ref_labels: (m,) their labels.

        Returns:
            The arguments of a loss, in order, for
            ``loss_fn(*miner.synthesize(embeddings, labels))``. With k tuples it costs memory
            for a few times 4 k d numbers and their gradients.

        Raises:
            TypeError: an argument is no tensor of its kind.
            ValueError: as :meth:`forward`.

        Warns:
            UserWarning: as :meth:`forward`.

        Gradient:
            Through the synthetic rows to both endpoints of both curves, with the fractions held
            fixed (envelope theorem); zero through curves that touch.
        """
        batch = batch_of(embeddings, labels, ref_emb, ref_labels)
        made = self._synthesize(space_of(self.distance), batch, embeddings.dtype)
        self._say_if_idle(batch, made.indices_tuple[0], CALLER_OF_METHOD)
        return made

    def curve_in(self, space: Space) -> Curve:
        """The curve that joins two points of ``space``."""
        geometry = "arc" if space is SPHERE else "segment"
        return _CURVES[space.name, geometry if self.geometry == "auto" else self.geometry]

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return (
            f"geometry={self.geometry!r}, pairing={self.pairing!r}, "
            f"num_negatives={self.num_negatives}"
        )


def _measure_in_chunks(kind: Curve, points: Points, negatives: Negatives) -> tuple[Tensor, Tensor]:
    """As ``measure_distance``, so that all tuples of a batch fit into memory."""
    chunks = [
        measure_distance(kind, points, negatives.take(slice(start, start + _CHUNK)))
        for start in range(0, max(1, len(negatives.anchor)), _CHUNK)
    ]
    weights, distance = (torch.cat(column) for column in zip(*chunks, strict=True))
    return weights, distance


def _among(
    candidates: tuple[Tensor, ...], triplets: tuple[Tensor, Tensor, Tensor], m: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The triplets whose positive pair and whose negative pair are both candidates.

    Args:
        candidates: triplets, or the four indices of positive and negative pairs.
        triplets: those that were mined.
        m: how many references there are.
    """
    anchor, positive, negative = triplets
    of_positives, of_negatives = candidates[0], candidates[-2 if len(candidates) == 4 else 0]
    keep = torch.isin(anchor * m + positive, of_positives * m + candidates[1])
    keep &= torch.isin(anchor * m + negative, of_negatives * m + candidates[-1])
    return anchor[keep], positive[keep], negative[keep]
