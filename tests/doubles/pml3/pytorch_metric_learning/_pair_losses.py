"""A double of pytorch-metric-learning 3: its documented contract only; not the library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ._base import GenericPairLoss
from .distances import BaseDistance, CosineSimilarity
from .reducers import AvgNonZeroReducer, BaseReducer
from .types import LossDict, PairIndices

DOUBLE = True


def logsumexp(values: Tensor, mask: Tensor) -> Tensor:
    """Over the masked entries of each row; the least number, without a gradient, where none is."""
    return values.masked_fill(~mask, torch.finfo(values.dtype).min).logsumexp(1)


def log1pexp(x: Tensor) -> Tensor:
    """log(1 + exp(x)); that of torch.nn.functional is x above 20."""
    return torch.logaddexp(x, torch.zeros_like(x))


class ContrastiveLoss(GenericPairLoss):
    """[d_p - pos_margin]_+ and [neg_margin - d_n]_+, a term each."""

    def __init__(self, pos_margin: float = 0.0, neg_margin: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.pos_margin, self.neg_margin = pos_margin, neg_margin

    def default_reducer(self) -> BaseReducer:
        """Over the positive values."""
        return AvgNonZeroReducer()

    def pair_loss(self, mat: Tensor, pairs: PairIndices) -> LossDict:
        """Two terms."""
        positive, negative = self.pair_values(mat, pairs)
        margin = self.distance.margin
        return {
            "pos_loss": {
                "losses": functional.relu(margin(positive, self.pos_margin)),
                "indices": (pairs.pos_anchors, pairs.positives),
            },
            "neg_loss": {
                "losses": functional.relu(margin(self.neg_margin, negative)),
                "indices": (pairs.neg_anchors, pairs.negatives),
            },
        }


class MultiSimilarityLoss(GenericPairLoss):
    """1/alpha log(1 + sum exp(alpha(base - s_p))) + 1/beta log(1 + sum exp(beta(s_n - base)))."""

    def __init__(
        self, alpha: float = 2, beta: float = 50, base: float = 0.5, **options: Any
    ) -> None:
        super().__init__(**options)
        self.alpha, self.beta, self.base = alpha, beta, base

    def default_distance(self) -> BaseDistance:
        """Cosine."""
        return CosineSimilarity()

    def pair_loss(self, mat: Tensor, pairs: PairIndices) -> LossDict:
        """One element for each anchor that has a pair."""
        positive, negative = self.pair_masks(mat, pairs)
        margin = self.distance.margin
        near = log1pexp(logsumexp(self.alpha * margin(mat, self.base), positive))
        far = log1pexp(logsumexp(self.beta * margin(self.base, mat), negative))
        anchors = torch.where((positive | negative).any(1))[0]
        losses = near / self.alpha + far / self.beta
        return {"loss": {"losses": losses[anchors], "indices": anchors}}


class NTXentLoss(GenericPairLoss):
    """log(1 + exp(log sum exp(s_n / T) - s_p / T)), temperature T, for each positive pair."""

    def __init__(self, temperature: float = 0.07, **options: Any) -> None:
        super().__init__(**options)
        self.temperature = temperature

    def default_distance(self) -> BaseDistance:
        """Cosine."""
        return CosineSimilarity()

    def pair_loss(self, mat: Tensor, pairs: PairIndices) -> LossDict:
        """One element for each positive pair."""
        nearness = -self.distance.margin(mat, 0) / self.temperature
        positive, negative = self.pair_values(nearness, pairs)
        own = pairs.pos_anchors.unsqueeze(1) == pairs.neg_anchors
        against = logsumexp(negative.expand(own.shape), own)
        return {
            "loss": {
                "losses": log1pexp(against - positive),
                "indices": (pairs.pos_anchors, pairs.positives),
            }
        }


class LiftedStructureLoss(GenericPairLoss):
    """1/2 [d_p - pos_margin + log sum exp(neg_margin - d_n)]_+^2, negatives of both ends."""

    def __init__(self, pos_margin: float = 0.0, neg_margin: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.pos_margin, self.neg_margin = pos_margin, neg_margin

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        """The terms of the pairs, without references."""
        if ref_emb is not None:
            raise ValueError("LiftedStructureLoss takes no ref_emb: it needs both ends' negatives")
        return super().compute_loss(embeddings, labels, indices_tuple, None, None)

    def pair_loss(self, mat: Tensor, pairs: PairIndices) -> LossDict:
        """One element for each positive pair, 0 where it has no negatives."""
        positive, negative = self.pair_values(mat, pairs)
        ends = (pairs.pos_anchors.unsqueeze(1), pairs.positives.unsqueeze(1))
        own = (pairs.neg_anchors == ends[0]) | (pairs.neg_anchors == ends[1])
        margin = self.distance.margin
        against = logsumexp(margin(self.neg_margin, negative).expand(own.shape), own)
        losses = functional.relu(margin(positive, self.pos_margin) + against) ** 2 / 2
        return {"loss": {"losses": losses, "indices": (pairs.pos_anchors, pairs.positives)}}


class GeneralizedLiftedStructureLoss(GenericPairLoss):
    """[log sum exp(d_p - pos_margin) + log sum exp(neg_margin - d_n)]_+ for each anchor."""

    def __init__(self, pos_margin: float = 0.0, neg_margin: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.pos_margin, self.neg_margin = pos_margin, neg_margin

    def pair_loss(self, mat: Tensor, pairs: PairIndices) -> LossDict:
        """One element for each anchor that has both kinds of pairs."""
        positive, negative = self.pair_masks(mat, pairs)
        margin = self.distance.margin
        far = logsumexp(margin(mat, self.pos_margin), positive)
        near = logsumexp(margin(self.neg_margin, mat), negative)
        anchors = torch.where(positive.any(1) & negative.any(1))[0]
        losses = functional.relu(far[anchors] + near[anchors])
        return {"loss": {"losses": losses, "indices": anchors}}
