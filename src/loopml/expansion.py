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

    Let :math:`a` and :math:`p` be two embeddings of a class. Between them lie :math:`n` points
    (``n_points``)

    .. math:: x_k = \frac{(n + 1 - k)\, a + k\, p}{n + 1}, \quad k = 1, \dots, n.

    Each is divided by its length if ``normalize``. Two embeddings of another class have such points
    between them too. The hardest negative of the pair :math:`(a, p)` is the nearest pair of points:
    one is :math:`a`, :math:`p` or a point between them, the other is an embedding of the other
    class or a point between two of them. With more points this tends to :class:`LoOpMiner`, which
    solves for the limit.

    Args:
        n_points: how many points between the ends are tried, at least 0. The paper uses 2, which is
            a sensible choice. 0 leaves the ends alone, which is plain mining. More points find
            nearer negatives and take more time: the search compares :math:`(n + 2)^2` pairs of
            points for two curves.
        normalize: whether the points between the ends are divided by their length. It matters only
            under a distance that does not normalise: use False there. A distance that normalises
            sees the points normalised anyway.
        pairing: which two samples of a class are joined.

            - "auto", the default: every two in a class of up to eight. In a larger class each
              sample is joined with two others, those that lie nearest to another class, and has
              these two as its positives. So time grows with the batch, and not with the square of
              a class. With more than 2,048 references "nearest" counts the samples of the batch
              alone.
            - "all": every two, whatever it costs.
            - "consecutive": rows (0, 1), (2, 3), ..., as in the paper's code.

            A sample alone in its class is a negative curve of length zero.
        num_negatives: how many negative pairs each positive pair gets, the nearest ones. 1, the
            default, is what both papers do. More give as many more tuples and a gentler mean. None
            takes all negative pairs, whose number grows with the square of the batch's pairs.

    Raises:
        TypeError: an option of the wrong type.
        ValueError: ``n_points`` below 0, ``num_negatives`` below 1 or an unknown pairing.

    Gradient:
        To the ends of both chosen points, with their weights as constants. The choice has no
        gradient.

        - Equally near points: one of them is chosen and gets all of the gradient.
        - Points that coincide: distance 0, gradient 0.

    Precision:
        Points are chosen by a Gram matrix of float32 (of float64 for float64 embeddings). In
        float32 this is good to about 5e-4 on a distance near 0. The chosen points are computed from
        the vectors, in the same dtype.

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
        """The hardest negatives of each ordered positive pair.

        Here the embeddings are normalised first, as by the default distance of
        pytorch-metric-learning. Inside a loss (``SyntheticLoss``, ``HPHNTripletLoss``) the distance
        of the loss decides whether they are.

        Args:
            embeddings: (n, d) floating point. Anchors are among these rows.
            labels: (n,) integers.
            ref_emb: (m, d) references that positives and negatives come from. Default: the batch.
            ref_labels: (m,) the labels of ``ref_emb``.

        Returns:
            The arguments of a loss, in order, for ``loss_fn(*expansion(embeddings, labels))``. Each
            negative is moved so that its distance from the real anchor is the distance of the two
            chosen points, as by ``LoOpMiner.synthesize``.

        Raises:
            TypeError: an argument is no tensor of its kind.
            ValueError: shapes do not fit, a value is NaN or infinite, references lack labels, or
                the batch does not fit ``pairing="consecutive"``.

        Warns:
            UserWarning: once, when two batches in a row have no tuple. (A single such batch may be
                the short last one of an epoch.) The warning needs embeddings that want a gradient,
                on the CPU, outside ``torch.compile`` and ``torch.func``.

        Gradient:
            To the ends of both chosen points. Of equally near points one is chosen.
        """
        batch = batch_of(embeddings, labels, ref_emb, ref_labels)
        made = self._synthesize(SPHERE, batch, embeddings.dtype)
        self._say_if_idle(batch, made.indices_tuple[0])
        return made

    def expand(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        r"""The paper's plain augmentation: the batch, then all points between its pairs.

        Args:
            embeddings: (n, d) floating point. They are used as they are, without normalisation.
            labels: (n,) integers.

        Returns:
            Embeddings and labels of :math:`n + k\, p` rows, for :math:`p` positive pairs and
            :math:`k` points each (``n_points``). First come the rows of the batch, then point 1 of
            every pair, then point 2 of every pair, and so on.

            - Opposite ends with ``normalize``: a point between them may have no direction. It is
              then the first end.

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
