"""A double of pytorch-metric-learning 3: its documented contract only; not the library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._guesses import guess
from .types import IndicesTuple, PairIndices, TripletIndices

DOUBLE = True


def check_batch(
    embeddings: Tensor, labels: Any, indices_tuple: Any, ref_emb: Any, ref_labels: Any
) -> None:
    """Raise unless shapes, devices and the combination of references fit."""
    error = guess("bad_batch")
    for rows, of_rows in ((embeddings, labels), (ref_emb, ref_labels)):
        if rows is not None and rows.ndim != 2:
            raise error(f"embeddings must be 2-D, got {rows.ndim}-D")
        if of_rows is None:
            continue
        if rows is None:
            raise error("ref_labels need ref_emb")
        if of_rows.ndim != 1 or len(of_rows) != len(rows):
            raise error(f"labels must be ({len(rows)},), got {tuple(of_rows.shape)}")
        if of_rows.device != embeddings.device:
            raise error(f"labels are on {of_rows.device}, embeddings on {embeddings.device}")
    if ref_emb is None:
        return
    if ref_emb.device != embeddings.device or ref_emb.shape[1] != embeddings.shape[1]:
        raise error("ref_emb must fit embeddings in device and dimension")
    if ref_labels is None and (labels is not None or indices_tuple is None):
        raise error("ref_emb needs ref_labels")


def as_indices(indices_tuple: Any) -> IndicesTuple | None:
    """A given tuple, checked, as one of the two types. Ranges are the caller's."""
    if indices_tuple is None:
        return None
    if not isinstance(indices_tuple, (tuple, list)):
        raise TypeError(f"indices_tuple must be a tuple, got {type(indices_tuple).__name__}")
    if len(indices_tuple) not in (3, 4):
        raise ValueError(f"indices_tuple must have 3 or 4 tensors, got {len(indices_tuple)}")
    for index in indices_tuple:
        if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
            raise TypeError("indices must be int64 or int32 tensors")
        if index.ndim != 1:
            raise ValueError(f"indices must be 1-D, got {index.ndim}-D")
    sizes = [len(index) for index in indices_tuple]
    halves = [sizes] if len(sizes) == 3 else [sizes[:2], sizes[2:]]
    if any(len(set(half)) > 1 for half in halves):
        raise ValueError(f"indices must be of equal length, got {sizes}")
    return (TripletIndices if len(sizes) == 3 else PairIndices)(*indices_tuple)


def _masks(labels: Tensor | None, ref_labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Who is a positive, who a negative. The batch against itself: no row is its own positive."""
    if labels is None:
        raise ValueError("labels or indices_tuple are needed")
    same = labels.unsqueeze(1) == (labels if ref_labels is None else ref_labels)
    return (same.clone().fill_diagonal_(False) if ref_labels is None else same), ~same


def pairs_of(
    indices_tuple: IndicesTuple | None, labels: Tensor | None, ref_labels: Tensor | None
) -> PairIndices:
    """The given pairs, or those of the triplets, or all pairs."""
    if indices_tuple is None:
        positive, negative = _masks(labels, ref_labels)
        return PairIndices(*torch.where(positive), *torch.where(negative))
    if isinstance(indices_tuple, PairIndices):
        return indices_tuple
    anchors, positives, negatives = indices_tuple
    return PairIndices(anchors, positives, anchors, negatives)


def triplets_of(
    indices_tuple: IndicesTuple | None, labels: Tensor | None, ref_labels: Tensor | None
) -> TripletIndices:
    """The given triplets, or each two pairs with the same anchor, or all triplets."""
    if indices_tuple is None:
        positive, negative = _masks(labels, ref_labels)
        return TripletIndices(*torch.where(positive.unsqueeze(2) & negative.unsqueeze(1)))
    if isinstance(indices_tuple, TripletIndices):
        return indices_tuple
    pos_anchors, positives, neg_anchors, negatives = indices_tuple
    p, n = torch.where(pos_anchors.unsqueeze(1) == neg_anchors)
    return TripletIndices(pos_anchors[p], positives[p], negatives[n])
