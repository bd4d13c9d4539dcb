"""Embedding Expansion: synthetic points on the line between two embeddings of a class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from loopml._checks import check_choice, check_count, check_flag
from loopml._types import SyntheticBatch
from loopml.batch import batch_of
from loopml.curves import CORNERS, Curve, samples
from loopml.geometry.lengths import normalized
from loopml.pairing import PAIRINGS, pair_up
from loopml.points import points_of
from loopml.spaces import DOT_PRODUCT, SPHERE, Space
from loopml.synthesis import Synthesizer


class EmbeddingExpansion(nn.Module, Synthesizer):
    r"""Puts points between two embeddings of a class and takes the hardest negative pair.

    Between a and p lie ``n_points`` points

    .. math:: x_k = \frac{(n + 1 - k)\, a + k\, p}{n + 1}, \quad k = 1, \dots, n,

    each divided by its length if ``normalize``. The hardest negative of the pair (a, p) is the
    nearest pair of points, one of a, p and the points between them, the other of a negative pair
    and the points between that. With more points it tends to :class:`LoOpMiner`, which solves for
    the limit.

    Args:
        n_points: how many points between the ends are tried. More points find nearer negatives,
            up to the nearest of all, which :class:`LoOpMiner` solves for, and take more time: the
            search looks at :math:`(n + 2)^2` pairs of points of two curves. The paper uses 2; 0
            leaves the ends, which is plain mining.
        normalize: divide the points between by their length. It matters only under a distance that
            does not normalise; one that does sees them normalised anyway.
        pairing: "auto" joins every two samples of a class of up to eight; in a larger class each
            sample with the two others that lie nearest to another class, so that time grows with
            the batch and not with the square of a class. These are then its positives. (Of more
            than 2,048 references that is nearest to the batch's samples of another class.) "all"
            joins every two samples, whatever it costs. "consecutive" joins rows (0, 1), (2, 3),
            ..., as the paper's code. A lone sample is a negative curve of length zero.
        num_negatives: how many nearest negative pairs each positive pair is given. 1, the hardest,
            is what both papers do. More give a gentler mean, and as many more tuples; None takes
            all, which grows with the square of the pairs.

    Raises:
        TypeError: an option of the wrong type.
        ValueError: ``n_points`` below 0, ``num_negatives`` below 1 or an unknown pairing.

    Gradient:
        To the ends of both chosen points, at their constant weights; the choice has none.

        - Equally near points: one of them is chosen and gets it all.
        - Points that coincide: distance 0, gradient 0.

    Precision:
        Points are chosen by a Gram matrix of float32 (float64 for float64), which on distances
        near 0 is good to about 5e-4; what is chosen is computed from the vectors in that dtype.

    Source:
        Embedding Expansion (Ko and Gu, CVPR 2020), section 3.

    Example:
        >>> import torch
        >>> from pytorch_metric_learning.losses import MultiSimilarityLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> expansion = EmbeddingExpansion(n_points=1)
        >>> loss = MultiSimilarityLoss()(*expansion(embeddings, labels))
        >>> more, more_labels = expansion.expand(embeddings, labels)
        >>> more[4:], more_labels[4:]
        (tensor([[ 0.7071,  0.7071], [-0.7071, -0.7071]]), tensor([0, 1]))
    """

    def __init__(
        self,
        n_points: int = 2,
        *,
        normalize: bool = True,
        pairing: str = "auto",
        num_negatives: int | None = 1,
    ) -> None:
        super().__init__()
        self.n_points = check_count("n_points", n_points, minimum=0)
        self.normalize = check_flag("normalize", normalize)
        self.pairing = check_choice("pairing", pairing, PAIRINGS)
        self.num_negatives = (
            None if num_negatives is None else check_count("num_negatives", num_negatives, 1)
        )

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> SyntheticBatch:
        """The hardest negatives of each ordered positive pair, over originals and points between.

        The embeddings are normalised first, as the default distance of pytorch-metric-learning
        does; inside a loss (``SyntheticLoss``, ``HPHNTripletLoss``) the loss's distance decides.

        Args:
            embeddings: (n, d) floating point.
            labels: (n,) integers.
            ref_emb: (m, d) references that positives and negatives come from; default: the batch.
            ref_labels: (m,) their labels.

        Returns:
            The arguments of a loss, in order, for ``loss_fn(*expansion(embeddings, labels))``. The
            negatives are carried over to their anchors as by ``LoOpMiner.synthesize``.

        Raises:
            TypeError: an argument is no tensor of its kind.
            ValueError: shapes do not fit, a value is NaN or infinite, references lack labels, or
                the batch does not fit ``pairing="consecutive"``.

        Warns:
            UserWarning: once, when two batches in a row have no tuple. A single such batch may be
                the short last one of an epoch. Only of embeddings that want a gradient, on the
                CPU, outside ``torch.compile`` and ``torch.func``.

        Gradient:
            To the ends of both chosen points; of equally near points one is chosen.
        """
        batch = batch_of(embeddings, labels, ref_emb, ref_labels)
        made = self._synthesize(SPHERE, batch, embeddings.dtype)
        self._say_if_idle(batch, made.indices_tuple[0])
        return made

    def expand(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The paper's plain augmentation: the batch with all points between appended.

        Args:
            embeddings: (n, d) floating point, used as they are.
            labels: (n,) integers.

        Returns:
            Embeddings (n + n_points p, d) and labels for p positive pairs. First the rows of the
            batch, then point 1 of every pair, point 2 of every pair, and so on. Where
            ``normalize`` and the ends of a pair are opposite, a point that has no direction is
            the first end.

        Raises:
            TypeError: an argument is no tensor of its kind.
            ValueError: as :meth:`forward`.

        Gradient:
            Through every point to both of its ends.
        """
        batch = batch_of(embeddings, labels)
        embeddings, labels = batch.embeddings.to(embeddings.dtype), batch.labels
        points = points_of(SPHERE, CORNERS, batch)
        pairs = pair_up(self.pairing, batch, points.nearness(batch)).positives
        first, second = embeddings[pairs.first], embeddings[pairs.second]
        between = []
        for k in range(1, self.n_points + 1):
            fraction = k / (self.n_points + 1)
            start, end = (1 - fraction) * first, fraction * second
            between.append(_direction_between(start, end) if self.normalize else start + end)
        return (
            torch.cat([embeddings, *between]),
            torch.cat([labels, *([pairs.label] * self.n_points)]),
        )

    def curve_in(self, space: Space) -> Curve:
        """The curve that joins two points of ``space``."""
        return samples(
            self.n_points,
            normalize=self.normalize or space is SPHERE,
            similarity=space is DOT_PRODUCT,
            on_sphere=space is SPHERE,
        )

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return (
            f"n_points={self.n_points}, normalize={self.normalize}, pairing={self.pairing!r}, "
            f"num_negatives={self.num_negatives}"
        )


def _direction_between(start: Tensor, end: Tensor) -> Tensor:
    """The direction of ``start + end``; where the two cancel out, of ``start`` alone: (p, d)."""
    point = start + end
    with torch.no_grad():
        sq, *parts = (x.square().sum(1, keepdim=True) for x in (point, start, end))
        cancelled = sq <= 32 * torch.finfo(sq.dtype).eps * torch.maximum(*parts)
    return normalized(torch.where(cancelled, start, point))
