"""What our losses share: they mine for themselves, and keep shapes static where they can."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from loopml._checks import check_batch
from loopml.spaces import at_least_float32, full_precision
from loopml.synthesis import on_device_of


class Elements(NamedTuple):
    """Loss elements before those that do not count are dropped."""

    losses: Tensor  # (e,) finite also where not valid
    valid: Tensor  # (e,) bool
    indices: tuple[Tensor, ...]  # (e,) each: rows of the anchors, or of anchors and positives
    reduction_type: str


class MinedLoss(BaseMetricLossFunction):
    """A loss that makes its own tuples of a batch and its references."""

    def elements(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None, ref_labels: Tensor | None
    ) -> Elements | None:
        """The loss elements of a checked batch, None where it has no positive pair at all."""
        raise NotImplementedError

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Any:
        """The reduced loss.

        Args:
            embeddings: (n, d) floating point; half precision is computed in float32.
            labels: (n,) integers.
            indices_tuple: accepted and not used: this loss mines for itself.
            ref_emb: (m, d) references that positives and negatives come from; default: the batch.
            ref_labels: (m,) their labels.

        Returns:
            What the reducer returns, by default a scalar; 0 with a zero gradient where no element
            counts.

        Raises:
            TypeError: an argument is no tensor of its kind.
            ValueError: shapes do not fit, a value is NaN, infinite or too large to square,
                references lack labels, or the batch does not fit ``pairing="consecutive"``.
        """
        check_batch(embeddings, labels, ref_emb, ref_labels)
        embeddings = at_least_float32(embeddings)
        if len(embeddings) == 0:
            return embeddings.sum()  # the mean of a regulariser would be 0 / 0
        if type(self.reducer) is not MeanReducer:
            return super().forward(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        # A masked mean has static shapes: it waits for no GPU and compiles whole.
        self.reset_stats()
        labels, ref_labels = on_device_of(embeddings, labels, ref_labels)
        with full_precision(embeddings):
            found = self.elements(embeddings, labels, ref_emb, ref_labels)
        if found is None:
            return (embeddings * 0).sum()
        return torch.where(found.valid, found.losses, 0).sum() / found.valid.sum().clamp(min=1)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor,
    ) -> dict[str, dict[str, Any]]:
        """The elements that count, for the reducer."""
        own = ref_emb is embeddings
        labels, moved = on_device_of(embeddings, labels, None if own else ref_labels)
        with full_precision(embeddings):
            found = self.elements(embeddings, labels, None if own else ref_emb, moved)
        if found is None or not bool(found.valid.any()):
            return {"loss": self.zero_loss()}
        indices = tuple(index[found.valid] for index in found.indices)
        return {
            "loss": {
                "losses": found.losses[found.valid],
                "indices": indices if len(indices) > 1 else indices[0],
                "reduction_type": found.reduction_type,
            }
        }
