"""open-metric-learning: a miner for its triplet loss. This module needs none of its names."""

from __future__ import annotations

import torch
from torch import Tensor

from loopml._types import SyntheticBatch
from loopml.batch import at_least_float32
from loopml.miners import LoOpMiner
from loopml.spaces import DOT_PRODUCT, SPHERE, seen_by, space_of
from loopml.synthesis import Synthesizer, check_synthesizer


class SyntheticTripletsMiner:
    r"""Triplets of features whose negatives are synthetic, for ``TripletLossWithMiner``.

    A miner of open-metric-learning (OML) returns the features of anchors, positives and negatives
    themselves, row by row. Here each anchor comes with its real positive and with a synthetic
    negative :math:`n'` that lies as far from it as the two curves lie from each other,

    .. math:: \lVert a - n' \rVert = \min_{s, t} \lVert \gamma_{ap}(s) - \gamma_{n_1 n_2}(t) \rVert,

    so the loss is that on the distance of the curves, in value and in gradient. It goes where an
    ``ITripletsMiner`` goes:

    .. code-block:: python

        criterion = TripletLossWithMiner(margin=0.2, miner=SyntheticTripletsMiner(LoOpMiner()))
        loss = criterion(extractor(images), labels)

    The loss of OML measures features as they are. The synthesizer decides what these are: with
    ``LoOpMiner()`` and ``EmbeddingExpansion()`` all three rows of a triplet are divided by their
    length. That changes nothing for an extractor that does so itself, with
    ``normalise_features=True``. With ``LoOpMiner(distance=LpDistance(normalize_embeddings=False))``
    they are left as they are.

    Args:
        synthesizer: a :class:`~loopml.LoOpMiner` or an :class:`~loopml.EmbeddingExpansion`.

    Raises:
        TypeError: ``synthesizer`` is neither of the two.
        ValueError: its distance is an unnormalised dot product, which the loss does not read.

    Source:
        LoOp (Vasudeva et al., ICCV 2021), section 3.3, and Embedding Expansion (Ko and Gu,
        CVPR 2020), section 3.2; the place of :math:`n'` is our own.

    Example:
        >>> import torch
        >>> from loopml import LoOpMiner
        >>> from loopml.open_metric_learning import SyntheticTripletsMiner
        >>> features = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])
        >>> miner = SyntheticTripletsMiner(LoOpMiner())
        >>> anchor, positive, negative = miner.sample(features, [0, 0, 1, 1])
        >>> (anchor - positive).norm(dim=1), (anchor - negative).norm(dim=1)
        (tensor([0.6325, 1.4142, 0.6325, 1.4142]), tensor([0.8944, 0.8944, 0.8944, 0.8944]))
    """

    def __init__(self, synthesizer: Synthesizer) -> None:
        self.synthesizer = check_synthesizer(synthesizer, optional=False)
        own = synthesizer.distance if isinstance(synthesizer, LoOpMiner) else None
        self._space = SPHERE if own is None else space_of(own)
        if self._space is DOT_PRODUCT:
            raise ValueError(
                "synthesizer must have a Euclidean distance, as the triplet loss of "
                "open-metric-learning reads, got that of an unnormalised dot product; use "
                "LoOpMiner(distance=LpDistance(normalize_embeddings=False))"
            )

    def sample(self, features: Tensor, labels: Tensor | list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The triplets of a batch.

        Args:
            features: (n, d) floating point; half precision becomes float32.
            labels: (n,) integers, in a list or in a tensor.

        Returns:
            Anchors, positives and synthetic negatives, (t, d) each.

        Raises:
            TypeError: an argument is of the wrong kind.
            ValueError: shapes do not fit, a value is NaN or infinite, or the batch has no triplet.
                The mean of no losses would be NaN.

        Gradient:
            To the real rows, and through the negatives to both ends of both curves; zero through
            curves that touch.
        """
        if isinstance(labels, list) and all(isinstance(label, int) for label in labels):
            labels = torch.tensor(labels)
        if isinstance(features, Tensor):
            features = at_least_float32(features)
        synthesize = getattr(self.synthesizer, "synthesize", self.synthesizer)
        batch: SyntheticBatch = synthesize(features, labels)
        anchor, positive, negative = batch.indices_tuple
        if len(anchor) == 0:
            raise ValueError(
                "labels must have a class of two rows and a row of another class, so that there is "
                f"a triplet, got {len(batch.labels)} rows without; use "
                "oml.samplers.BalanceSampler(labels, n_labels=8, n_instances=4)"
            )
        real, others = (seen_by(self._space, rows) for rows in (batch.embeddings, batch.ref_emb))
        return real[anchor], others[positive], others[negative]
