"""Losses of pytorch-metric-learning on synthetic negatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from loopml._checks import values_readable
from loopml.batch import Batch, batch_of, full_precision
from loopml.host import Loss, check_takes_references, is_unreduced, on_matrix, properties_of
from loopml.losses.mined import MiningLoss, none_of
from loopml.losses.support import check_supported
from loopml.spaces import SPHERE, Space, comparable, space_of
from loopml.synthesis import Synthesizer, check_synthesizer


class SyntheticLoss(MiningLoss):
    r"""Any supported pytorch-metric-learning tuple loss, on synthetic negatives.

    ``SyntheticLoss(loss, synthesizer)(embeddings, labels)`` makes the hard negatives that the
    loss's own distance finds hardest, and gives their distances to the loss. It reads its own
    distances of real rows, and beside them, in as many columns as an anchor has tuples, those of
    the curves. Value and gradient are those of the loss with the anchor-negative distance
    overwritten by the distance of the two curves.

    Args:
        loss: one of ``CircleLoss``, ``ContrastiveLoss``, ``DynamicSoftMarginLoss``,
            ``GeneralizedLiftedStructureLoss``, ``IntraPairVarianceLoss``, ``LiftedStructureLoss``,
            ``MarginLoss``, ``MultiSimilarityLoss``, ``NTXentLoss``, ``SupConLoss``,
            ``TripletMarginLoss``, ``TupletMarginLoss``, with any reducer and regulariser.
            It is not changed, but for what it records and keeps of itself in a call.
            (``DynamicSoftMarginLoss`` of pytorch-metric-learning 2.9 keeps the graph of its
            histogram: call ``loss.hist_.detach_()`` between steps, with or without us.)
        synthesizer: an :class:`EmbeddingExpansion` or a :class:`LoOpMiner`. The loss's distance
            decides normalisation and ``geometry="auto"``.

    Raises:
        TypeError: ``synthesizer`` is neither of the two.
        ValueError: a loss that would silently ignore the negatives, or a distance under which
            curves have no known nearest points; the message has the name and the reason.

    Gradient:
        The gradient of the inner loss, and through the distance of two curves to the ends of both.

        - Curves that touch: their distance is 0, or their similarity 1, and has no gradient.

    Precision:
        Half precision is computed in float32. Negatives are chosen by a float32 Gram matrix
        (float64 for float64), good to about 5e-4 on distances near 0; those of the chosen curves
        are measured from differences. Distances of real rows are as the inner loss measures them.

    Source:
        LoOp (ICCV 2021), section 3.3, and Embedding Expansion (CVPR 2020), section 3.2, for their
        losses; reading the distance of the curves as that of a row is our own.

    Example:
        >>> import torch
        >>> from loopml import LoOpMiner
        >>> from pytorch_metric_learning.losses import MultiSimilarityLoss
        >>> loss_fn = SyntheticLoss(MultiSimilarityLoss(), LoOpMiner())
        >>> embeddings = torch.eye(4, requires_grad=True)
        >>> loss = loss_fn(embeddings, torch.tensor([0, 0, 1, 1]))
        >>> loss.backward()
    """

    def __init__(self, loss: Loss, synthesizer: Synthesizer) -> None:
        check_supported(loss)
        space_of(loss.distance)
        super().__init__(distance=loss.distance)
        self.loss = loss
        self.synthesizer = check_synthesizer(synthesizer, optional=False)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Any:
        """What the inner loss returns on the batch with its synthetic negatives.

        Args:
            embeddings: (n, d) floating point.
            labels: (n,) integers; needed, since the tuples are mined from them.
            indices_tuple: accepted and not used: the tuples are mined here. A row's own copy among
                the references is known by its label and its numbers, wherever it lies.
            ref_emb: (m, d) references that positives and negatives come from; default: the batch.
            ref_labels: (m,) their labels.

        Returns:
            The inner loss, 0 with a zero gradient where the batch has no tuple. NaN where a value
            is NaN, infinite or too large and nobody can look at it: on CUDA, under
            ``torch.compile`` and ``torch.func``.

        Raises:
            TypeError: an argument is no tensor of its kind, or there are no labels.
            ValueError: shapes do not fit, a value is NaN, infinite or too large to square,
                references lack labels, or the batch does not fit ``pairing="consecutive"``.

        Warns:
            UserWarning: once, when two batches in a row have no tuple. A single such batch may be
                the short last one of an epoch. Only where looking costs nothing: on the CPU,
                outside ``torch.compile`` and ``torch.func``.
        """
        batch = self._comparable(embeddings, labels, ref_emb, ref_labels)
        if len(batch.embeddings) == 0:
            return batch.embeddings.sum()  # the mean of a regulariser would be 0 / 0
        with full_precision(batch.embeddings):
            matrix, arguments = self._given(batch)
            self._warn_if_idle(batch)
            result = on_matrix(self.loss, matrix, lambda loss: loss(*arguments))
        return none_of(batch.embeddings, result) if is_unreduced(self.loss) else result

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: Any,
        ref_emb: Tensor | None,
        ref_labels: Tensor | None,
    ) -> dict[str, Any]:
        """The terms of the inner loss, which pytorch-metric-learning 3 can show unreduced."""
        batch = self._comparable(embeddings, labels, ref_emb, ref_labels)
        with full_precision(batch.embeddings):
            matrix, arguments = self._given(batch)
            terms: dict[str, Any] = on_matrix(
                self.loss, matrix, lambda loss: loss.objective_terms(*arguments)
            )
            return terms

    def regularization_terms(self, embeddings: Tensor) -> dict[str, Any]:
        """The penalties of the inner loss, which pytorch-metric-learning 3 asks for apart."""
        terms: dict[str, Any] = self.loss.regularization_terms(embeddings)
        return terms

    def _comparable(self, *arguments: Any) -> Batch:
        batch = batch_of(*arguments)
        return Batch(comparable(space_of(self.loss.distance), batch.embeddings), *batch[1:])

    def _given(self, batch: Batch) -> tuple[Tensor, tuple[Any, ...]]:
        """The distances that the inner loss reads, and what it is called with.

        Of a real row to a real one they are its own distance's. After those come as many columns
        as an anchor has tuples, with the distances of its curves.
        """
        distance = self.loss.distance
        space = space_of(distance)
        if batch.ref_emb is not None:
            check_takes_references(self.loss)
        tuples, nearness = self.synthesizer._measured(space, batch)
        anchor, order, column = _numbered(tuples.anchor)
        if values_readable(batch.embeddings):
            self._count_idle(len(anchor) == 0)
        entries = _entries(distance, space, nearness)
        entries = entries.index_select(0, tuples.which.index_select(0, order))
        columns = int(column.max()) + 1 if len(column) else 0
        added = entries.new_zeros(len(batch.embeddings), columns)
        added = added.index_put((anchor, column), entries)
        rows = (batch.embeddings,) if batch.ref_emb is None else (batch.embeddings, batch.ref_emb)
        real = distance(*rows)
        positive = tuples.positive.index_select(0, order) - batch.offset()
        triplets = (anchor, positive, column + real.shape[1])
        return torch.cat([real, added], 1), (
            batch.embeddings,
            batch.labels,
            triplets,
            batch.ref_emb,
            batch.ref_labels,
        )


def _numbered(anchor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tuples (o,) sorted by anchor, the order of that, and the number of each in its anchor."""
    anchor, order = anchor.sort(stable=True)
    first = torch.searchsorted(anchor, anchor)
    return anchor, order, torch.arange(len(anchor), device=anchor.device) - first


def _entries(distance: Any, space: Space, nearness: Tensor) -> Tensor:
    """What a distance says of curves that come so near: (u,)."""
    properties = properties_of(distance)
    if properties.is_similarity and space is SPHERE:
        # The product of unit vectors so far apart, without a gradient where they touch.
        nearness = 1 - nearness.square() / 2
    return nearness if properties.power == 1 else nearness**properties.power
