"""What our losses share: they mine for themselves, and keep shapes static where they can."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from loopml._checks import check_batch, values_readable
from loopml.spaces import at_least_float32, full_precision
from loopml.synthesis import on_device_of

# Frames up from a warning to the line that called the loss: _warn_if_idle, forward, and two of
# torch.nn.Module.
_CALLER = 5


class Elements(NamedTuple):
    """Loss elements before those that do not count are dropped."""

    losses: Tensor  # (e,) finite also where not valid
    valid: Tensor  # (e,) bool
    indices: tuple[Tensor, ...]  # (e,) each: rows of the anchors, or of anchors and positives
    reduction_type: str


class MiningLoss(BaseMetricLossFunction):
    """A loss that makes its own tuples, and says so when batch after batch has none."""

    # On the class, so that a loss that was pickled before they existed has them too.
    _idle_in_a_row = 0
    _has_warned = False

    def _warn_if_idle(
        self, idle: bool, embeddings: Tensor, labels: Tensor, ref_labels: Tensor | None
    ) -> None:
        """Warn once, of the second batch in a row that has no tuple.

        A single one may be the short last batch of an epoch.
        """
        self._idle_in_a_row = self._idle_in_a_row + 1 if idle else 0
        if self._has_warned or self._idle_in_a_row < 2:
            return
        self._has_warned = True
        others = labels if ref_labels is None else ref_labels
        one_class = bool((torch.cat([labels, others]) == labels[0]).all())
        missing = "a second class, so without negatives" if one_class else "a positive pair"
        size = 4 * max(2, -(-len(embeddings) // 4))
        warnings.warn(
            f"{type(self).__name__} got two batches in a row without {missing}: their loss and "
            "gradient are 0, so nothing is learned; draw several rows of several classes, as "
            f"DataLoader(dataset, batch_size={size}, sampler=MPerClassSampler(labels, m=4, "
            f"batch_size={size})) does, with MPerClassSampler of pytorch_metric_learning.samplers",
            stacklevel=_CALLER,
        )


class MinedLoss(MiningLoss):
    """A loss of elements of its own."""

    def elements(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None, ref_labels: Tensor | None
    ) -> Elements | None:
        """The loss elements of a checked batch, None where it has no positive pair at all."""
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
            labels: (n,) integers; needed, since this loss mines its tuples from them.
            indices_tuple: accepted and not used: this loss mines for itself.
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
        embeddings, labels, ref_emb, ref_labels = check_batch(
            embeddings, labels, ref_emb, ref_labels
        )
        embeddings = at_least_float32(embeddings)
        if len(embeddings) == 0:
            return embeddings.sum()  # the mean of a regulariser would be 0 / 0
        self.reset_stats()
        labels, ref_labels = on_device_of(embeddings, labels, ref_labels)
        with full_precision(embeddings):
            found = self.elements(embeddings, labels, ref_emb, ref_labels)
        if values_readable(embeddings):
            idle = found is None or not bool(found.valid.any())
            self._warn_if_idle(idle, embeddings, labels, ref_labels)
        elif found is not None:
            found = _nan_of(embeddings, found)
        if type(self.reducer) is MeanReducer and not self.reducer.collect_stats:
            # A masked mean has static shapes: it waits for no GPU and compiles whole.
            if found is None:
                return (embeddings * 0).sum()
            return torch.where(found.valid, found.losses, 0).sum() / found.valid.sum().clamp(min=1)
        parts = {"loss": self._counted(embeddings, found)}
        self.add_embedding_regularization_to_loss_dict(parts, embeddings)
        return self.reducer(parts, embeddings, labels)

    def _counted(self, embeddings: Tensor, found: Elements | None) -> dict[str, Any]:
        """The elements that count, for a reducer."""
        if found is None or not bool(found.valid.any()):
            return none_of(embeddings, self.zero_loss())
        losses = found.losses[found.valid]
        indices = tuple(index[found.valid] for index in found.indices)
        return {
            "losses": losses,
            "indices": indices if len(indices) > 1 else indices[0],
            "reduction_type": found.reduction_type,
            "divisor": len(losses),  # for DivisorReducer
        }


def _nan_of(embeddings: Tensor, found: Elements) -> Elements:
    """The elements, NaN and all counted, if the embeddings are NaN.

    NaN loses every comparison, so no anchor of such a batch finds a negative.
    """
    nan = embeddings.detach()[0, 0].isnan()  # check_batch made every entry so, or none
    losses = torch.where(nan, torch.nan, found.losses)
    # The compiler of torch 2.4 cannot read the _replace of a tuple.
    return Elements(losses, found.valid | nan, found.indices, found.reduction_type)


def none_of(embeddings: Tensor, part: dict[str, Any]) -> dict[str, Any]:
    """A part of an unreduced loss; where it has no elements, NaN with embeddings that are NaN."""
    if values_readable(embeddings) or isinstance(part["losses"], Tensor):
        return part
    return {**part, "losses": (embeddings * 0).sum()}  # as BaseReducer makes of a bare 0
