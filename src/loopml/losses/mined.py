"""What our losses share: they mine for themselves, and keep shapes static where they can."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from loopml._checks import values_readable
from loopml.batch import Batch, batch_of, full_precision
from loopml.host import HostLoss, fill_empty
from loopml.idle import SaysIdle


class Elements(NamedTuple):
    """Loss elements before those that do not count are dropped."""

    losses: Tensor  # (e,) finite also where not valid
    valid: Tensor  # (e,) bool
    indices: tuple[Tensor, ...]  # (e,) each: rows of the anchors, or of anchors and positives
    reduction_type: str


class MiningLoss(SaysIdle, HostLoss):
    """A loss that makes its own tuples."""


class MinedLoss(MiningLoss):
    """A loss of elements of its own."""

    def elements(self, batch: Batch) -> Elements | None:
        """The loss elements of a batch, None where it has no positive pair at all."""
        raise NotImplementedError

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Any:
        """The reduced loss.

        Args:
            embeddings: (n, d) floating point; half precision is computed in float32.
            labels: (n,) integers; needed, since this loss mines its tuples from them. On the CPU
                they are read without waiting for a GPU.
            indices_tuple: accepted and not used: this loss mines for itself. A wrapper that hands
                over all pairs but those of a row with its own copy loses nothing: a copy among the
                references is known by its label and its numbers, wherever it lies.
            ref_emb: (m, d) references that positives and negatives come from; default: the batch.
            ref_labels: (m,) their labels.

        Returns:
            What the reducer returns, by default a scalar; 0 with a zero gradient where no element
            counts. NaN where a value is NaN, infinite or too large and nobody can look at it: on
            CUDA, under ``torch.compile`` and ``torch.func``.

        Raises:
            TypeError: an argument is no tensor of its kind, or there are no labels.
            ValueError: shapes do not fit, a value is NaN, infinite or too large to square,
                references lack labels, or the batch does not fit ``pairing="consecutive"``.

        Warns:
            UserWarning: once, when no element counts in two batches in a row. A single such batch
                may be the short last one of an epoch. Only where looking costs nothing: on the CPU,
                outside ``torch.compile`` and ``torch.func``.
        """
        batch = batch_of(embeddings, labels, ref_emb, ref_labels)
        if len(batch.embeddings) == 0:
            return batch.embeddings.sum()  # the mean of a regulariser would be 0 / 0
        if self._is_plain_mean():
            loss = _masked_mean(batch, self._found(batch))
        else:
            loss = super().forward(
                batch.embeddings, batch.labels, indices_tuple, batch.ref_emb, batch.ref_labels
            )
        self._warn_if_idle(batch)
        return loss

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Any,
        ref_emb: Tensor | None,
        ref_labels: Tensor | None,
    ) -> dict[str, Any]:
        """The elements that count, for the reducer of pytorch-metric-learning."""
        batch = batch_of(embeddings, labels, ref_emb, ref_labels)
        found = self._found(batch)
        if found is None or not bool(found.valid.any()):
            return none_of(batch.embeddings, self._no_terms())
        indices = tuple(index[found.valid] for index in found.indices)
        return self._terms(found.losses[found.valid], indices, found.reduction_type)

    def _found(self, batch: Batch) -> Elements | None:
        """The elements, NaN where the batch is and nobody can look."""
        self._clear_stats()
        with full_precision(batch.embeddings):
            found = self.elements(batch)
        if values_readable(batch.embeddings):
            self._count_idle(found is None or not bool(found.valid.any()))
        elif found is not None:
            found = _nan_of(batch.embeddings, found)
        return found


def _masked_mean(batch: Batch, found: Elements | None) -> Tensor:
    """The mean of the elements that count.

    Its shapes are static: it waits for no GPU and compiles whole.
    """
    if found is None:
        return (batch.embeddings * 0).sum()
    return torch.where(found.valid, found.losses, 0).sum() / found.valid.sum().clamp(min=1)


def _nan_of(embeddings: Tensor, found: Elements) -> Elements:
    """The elements, NaN and all counted, if the embeddings are NaN.

    NaN loses every comparison, so no anchor of such a batch finds a negative.
    """
    nan = embeddings.detach()[0, 0].isnan()  # batch_of made every entry so, or none
    losses = torch.where(nan, torch.nan, found.losses)
    # The compiler of torch 2.4 cannot read the _replace of a tuple.
    return Elements(losses, found.valid | nan, found.indices, found.reduction_type)


def none_of(embeddings: Tensor, terms: dict[str, Any]) -> dict[str, Any]:
    """The terms of an unreduced loss; those without elements are NaN with embeddings that are."""
    if values_readable(embeddings):
        return terms
    return fill_empty(terms, (embeddings * 0).sum())
