"""The N-pair loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from loopml._checks import check_nonnegative
from loopml._types import Pairs
from loopml.batch import Batch
from loopml.curves import CORNERS, Products
from loopml.geometry.recompute import recomputed
from loopml.host import Distance, dot_product, mean_squared_length, properties_of
from loopml.losses.mined import Elements, MinedLoss
from loopml.pairing import pair_up
from loopml.points import points_of
from loopml.spaces import space_of
from loopml.synthesis import Synthesizer, check_synthesizer

# Similarities of curves in one block: as many as there are inner products of rows, which are kept
# whole, or this many where there are fewer. A few dozen temporaries of this size live at once.
_BLOCK = 1 << 16


class NPairLoss(MinedLoss):
    r"""N-pair loss on the largest similarity of a positive pair to each negative pair.

    .. math:: \ell_{ap} = \log\Bigl(1 + \sum_q e^{s_{pq} - \langle a, p \rangle}\Bigr)

    over all curves q of other classes, lone samples included. :math:`s_{pq}` depends on
    ``synthesizer``:

    - None: :math:`\langle a, q^+ \rangle` with :math:`q^+` the second sample of q: the plain N-pair
      loss. The anchor of a pair is its first row, so that, as in every N-pair loss, the order of
      the batch matters;
    - an :class:`EmbeddingExpansion`: the largest product of a, p and the points between with the
      two of q and the points between;
    - a :class:`LoOpMiner`: the largest product of a point on the one curve with one on the other.
      On segments, as under the default distance, a product is bilinear and largest at ends of both.

    There is one element per positive pair, taken once.

    Args:
        synthesizer: None, an :class:`EmbeddingExpansion` or a :class:`LoOpMiner`. Its ``pairing``
            and geometry are used; all negative curves count, whatever its ``num_negatives``.
        l2_reg: times the mean squared length of the embeddings, added to the loss.
        **base_loss_kwargs: ``distance`` (default ``DotProductSimilarity``, not normalised; or
            normalised, or ``CosineSimilarity``), ``reducer`` (default ``MeanReducer``) and the
            like. ``l2_reg`` takes the place of ``embedding_regularizer``.

    Raises:
        TypeError: an option of the wrong type.
        ValueError: a negative or infinite ``l2_reg``, a distance that is no dot product, or both
            ``l2_reg`` and ``embedding_regularizer``.

    Gradient:
        To the ends of the largest of all products, one of them where several tie under None and
        arcs, shared equally under samples and segments.

    Precision:
        That of the embeddings, at least float32.

    Memory:
        The inner products of the rows, :math:`n \times n` (:math:`n \times m` with m references),
        and blocks of as many similarities of curves. Where there are more similarities than that,
        each block is computed again for the gradient.

    Source:
        Sohn, "Improved deep metric learning with multi-class N-pair loss objective" (NeurIPS 2016),
        equation 7 with one pair per class, and section 3.2.2 for ``l2_reg``; Embedding Expansion
        (CVPR 2020) and LoOp (ICCV 2021) for the synthetic similarities.

    Example:
        >>> import torch
        >>> from loopml import LoOpMiner
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> NPairLoss()(embeddings, labels)
        tensor(0.7201)
        >>> NPairLoss(synthesizer=LoOpMiner())(embeddings, labels)
        tensor(1.0032)
    """

    def __init__(
        self,
        *,
        synthesizer: Synthesizer | None = None,
        l2_reg: float = 0.0,
        **base_loss_kwargs: Any,
    ) -> None:
        self.l2_reg = check_nonnegative("l2_reg", l2_reg)
        if self.l2_reg:
            if base_loss_kwargs.get("embedding_regularizer") is not None:
                raise ValueError(
                    "l2_reg is an embedding_regularizer of its own; give one of the two"
                )
            base_loss_kwargs["embedding_regularizer"] = mean_squared_length()
            base_loss_kwargs["embedding_reg_weight"] = self.l2_reg
        super().__init__(**base_loss_kwargs)
        self.synthesizer = check_synthesizer(synthesizer, optional=True)
        space_of(self.distance)
        properties = properties_of(self.distance)
        if not properties.is_similarity or properties.power != 1:
            raise ValueError(
                "distance must be DotProductSimilarity or CosineSimilarity with power=1 for "
                f"NPairLoss, got {type(self.distance).__name__}(power={properties.power}): "
                "N-pair is a loss on dot products"
            )

    def default_distance(self) -> Distance:
        """The raw dot product."""
        return dot_product()

    def elements(self, batch: Batch) -> Elements | None:
        """One element per positive pair; it counts where there is a negative."""
        synthesizer = self.synthesizer
        space = space_of(self.distance)
        points = points_of(space, CORNERS, batch)
        seen = points.seen.unit
        pairing = "auto" if synthesizer is None else synthesizer.pairing
        rows, cols = pair_up(pairing, batch, points.nearness(batch, similarity=True))[:2]
        if len(rows.first) == 0 or len(cols.first) == 0:
            return None
        if synthesizer is None:
            products = Products(seen, _products_of_ends)
        else:
            kind = synthesizer.curve_in(space)
            products = kind.products(kind.place(seen), batch.offset())
        # Whether there is a negative: the labels of the columns are not all the row's.
        valid = (rows.label != cols.label.amin()) | (rows.label != cols.label.amax())
        if batch.ref_emb is not None:  # a row joined with itself
            valid &= rows.first != rows.second
        positive = (seen[rows.first] * seen[rows.second]).sum(1)

        def excess_of(some: slice, source: Tensor, positive: Tensor) -> Tensor:
            excess = products.of(source, rows.take(some), cols) - positive.unsqueeze(1)
            # A row without negatives has no finite logsumexp; it keeps one, and is left out later.
            own = (rows.label[some].unsqueeze(1) == cols.label) & valid[some].unsqueeze(1)
            return excess.masked_fill(own, -torch.inf).logsumexp(1)

        step = max(1, max(_BLOCK, points.gram.inner.numel()) // len(cols.first))
        blocks = [slice(start, start + step) for start in range(0, len(rows.first), step)]
        # One block is kept as it is.
        keep = recomputed if len(blocks) > 1 else _called
        excess = [
            keep(partial(excess_of, some), products.source, positive[some]) for some in blocks
        ]
        losses = torch.nn.functional.softplus(torch.cat(excess))
        return Elements(losses, valid, (rows.first, rows.second - batch.offset()), "pos_pair")

    def extra_repr(self) -> str:
        """The options, for ``repr``."""
        return f"l2_reg={self.l2_reg}"


def _products_of_ends(seen: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
    """The products of anchors with the second samples of the other curves."""
    return seen[rows.first] @ seen[cols.second].T


def _called(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    return function(*tensors)
