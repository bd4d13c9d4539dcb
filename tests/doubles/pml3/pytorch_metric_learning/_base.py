"""A double of pytorch-metric-learning 3: its documented contract only; not the library."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ._guesses import guess
from ._tuples import as_indices, check_batch, pairs_of
from .distances import BaseDistance, LpDistance
from .reducers import BaseReducer, MeanReducer
from .regularizers import BaseRegularizer
from .types import LossDict, PairIndices

DOUBLE = True


class BaseMetricLossFunction(nn.Module):
    """Terms, their reduction, and a penalty after it."""

    def __init__(
        self,
        *,
        distance: BaseDistance | None = None,
        reducer: BaseReducer | None = None,
        embedding_regularizer: BaseRegularizer | None = None,
        embedding_reg_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.distance = self.default_distance() if distance is None else distance
        reducer = self.default_reducer() if reducer is None else reducer
        self.reducer = copy.deepcopy(reducer) if guess("reducer_is_copied") else reducer
        self.embedding_regularizer = embedding_regularizer
        self.embedding_reg_weight = embedding_reg_weight

    def default_distance(self) -> BaseDistance:
        """The distance where none is given."""
        return LpDistance()

    def default_reducer(self) -> BaseReducer:
        """The reducer where none is given."""
        return MeanReducer()

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        """The terms of a checked batch, {} where there are none. References None: the batch."""
        raise NotImplementedError

    def objective_terms(
        self, embeddings, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None
    ):
        """The terms, after the batch was checked."""
        check_batch(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        indices = as_indices(indices_tuple)
        return self.compute_loss(embeddings, labels, indices, ref_emb, ref_labels)

    def regularization_terms(self, embeddings: Tensor) -> LossDict:
        """The penalty."""
        if self.embedding_regularizer is None:
            return {}
        weight = self.embedding_reg_weight if guess("penalty_is_weighted") else 1
        rows = torch.arange(len(embeddings), device=embeddings.device)
        penalty = self.embedding_regularizer(embeddings) * weight
        return {guess("penalty_name"): {"losses": penalty, "indices": rows}}

    def loss_terms(
        self, embeddings, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None
    ):
        """All terms, unreduced."""
        terms = self.objective_terms(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        return {**terms, **self.regularization_terms(embeddings)}

    def forward(self, embeddings, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None):
        """The reduced terms and, after that, the penalty."""
        terms = self.objective_terms(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        loss = self.reducer(terms, embeddings, labels)
        if not terms and not guess("penalty_of_nothing"):
            return loss
        weight = 1 if guess("penalty_is_weighted") else self.embedding_reg_weight
        for term in self.regularization_terms(embeddings).values():
            loss = loss + term["losses"].mean() * weight
        return loss


class GenericPairLoss(BaseMetricLossFunction):
    """Subclasses write ``pair_loss``. No pairs, no terms."""

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        """The terms of the pairs."""
        pairs = pairs_of(indices_tuple, labels, ref_labels)
        if len(pairs.positives) + len(pairs.negatives) == 0:
            return {}
        return self.pair_loss(self.distance(embeddings, ref_emb), pairs)

    def pair_loss(self, mat: Tensor, pairs: PairIndices) -> LossDict:
        """The terms, from the (n, m) distances."""
        raise NotImplementedError

    @staticmethod
    def pair_values(mat: Tensor, pairs: PairIndices) -> tuple[Tensor, Tensor]:
        """The distances of the positive pairs and of the negative pairs."""
        return mat[pairs.pos_anchors, pairs.positives], mat[pairs.neg_anchors, pairs.negatives]

    @staticmethod
    def pair_masks(mat: Tensor, pairs: PairIndices) -> tuple[Tensor, Tensor]:
        """Which entries of the distances are positive pairs, which negative pairs."""
        masks = torch.zeros(2, *mat.shape, dtype=torch.bool, device=mat.device)
        masks[0, pairs.pos_anchors, pairs.positives] = True
        masks[1, pairs.neg_anchors, pairs.negatives] = True
        return masks[0], masks[1]
