"""A double of pytorch-metric-learning 3: its documented contract only; not the library."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ._guesses import guess
from ._tuples import as_indices, check_batch, pairs_of
from .distances import BaseDistance, LpDistance
from .types import IndicesTuple, PairIndices, TripletIndices

DOUBLE = True

__all__ = ["BaseMiner"]


class BaseMiner(nn.Module):
    """Subclasses write ``mine``; without references it gets None, not the batch."""

    def __init__(
        self, *, distance: BaseDistance | None = None, tuples_per_anchor: Any = None
    ) -> None:
        super().__init__()
        if tuples_per_anchor is not None:
            raise NotImplementedError("tuples_per_anchor: not in the double")
        self.distance = LpDistance() if distance is None else distance

    def mine(self, *args: Any) -> Any:
        """The tuples of a batch: (embeddings, labels, [candidates,] ref_emb, ref_labels)."""
        raise NotImplementedError

    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        """The mined tuples, out of the candidates where there are any."""
        check_batch(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        candidates = as_indices(indices_tuple)
        to_mine = (candidates,) if guess("mine_gets_candidates") else ()
        with torch.no_grad():
            mined = as_indices(self.mine(embeddings, labels, *to_mine, ref_emb, ref_labels))
        if mined is None:
            raise TypeError("mine must return three or four index tensors")
        if candidates is None or guess("mine_gets_candidates"):
            return mined
        shape = (len(embeddings), len(embeddings if ref_emb is None else ref_emb))
        return _among(mined, candidates, shape)


def _among(mined: IndicesTuple, candidates: IndicesTuple, shape: tuple[int, int]) -> IndicesTuple:
    """The mined tuples whose pairs are pairs of the candidates."""
    pairs = pairs_of(candidates, None, None)
    masks = torch.zeros(2, *shape, dtype=torch.bool, device=pairs.positives.device)
    masks[0, pairs.pos_anchors, pairs.positives] = True
    masks[1, pairs.neg_anchors, pairs.negatives] = True
    rows = pairs_of(mined, None, None)
    positive = masks[0, rows.pos_anchors, rows.positives]
    negative = masks[1, rows.neg_anchors, rows.negatives]
    if isinstance(mined, TripletIndices):
        return TripletIndices(*(index[positive & negative] for index in mined))
    kept = [index[positive] for index in rows[:2]] + [index[negative] for index in rows[2:]]
    return PairIndices(*kept)
