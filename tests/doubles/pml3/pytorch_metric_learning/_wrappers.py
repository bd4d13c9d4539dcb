"""A double of pytorch-metric-learning 3: its documented contract only; not the library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ._guesses import guess
from ._tuples import pairs_of
from .types import IndicesTuple, PairIndices

DOUBLE = True

_NAMES = ("embeddings", "labels", "indices_tuple", "ref_emb", "ref_labels")


def _call(module: nn.Module, *arguments: Any) -> Any:
    """Call a loss or a miner, by name or not: it must take both."""
    if guess("calls_by_name"):
        return module(**dict(zip(_NAMES, arguments, strict=False)))
    return module(*arguments)


def _without(pairs: PairIndices, own: Tensor) -> PairIndices:
    """The pairs but those of row i with its own copy, the reference own[i]."""
    kept = own[pairs.pos_anchors] != pairs.positives
    return pairs._replace(pos_anchors=pairs.pos_anchors[kept], positives=pairs.positives[kept])


class MultipleLosses(nn.Module):
    """The weighted sum of several losses, some with a miner of their own. Nests."""

    def __init__(
        self,
        losses: Mapping[str, nn.Module] | Sequence[nn.Module],
        miners: Mapping[str, nn.Module] | Sequence[nn.Module | None] | None = None,
        weights: Mapping[str, float] | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        parts = [_by_name(given) for given in (losses, miners, weights)]
        self.losses = nn.ModuleDict(parts[0])
        self.miners = nn.ModuleDict({k: v for k, v in parts[1].items() if v is not None})
        self.weights = {name: parts[2].get(name, 1) for name in self.losses}

    def forward(self, embeddings, labels=None, indices_tuple=None, ref_emb=None, ref_labels=None):
        """A loss with a miner gets what that mines, the others the tuple itself."""
        total: Any = 0
        for name, loss in self.losses.items():
            indices = indices_tuple
            if name in self.miners:
                indices = _call(
                    self.miners[name], embeddings, labels, indices_tuple, ref_emb, ref_labels
                )
            value = _call(loss, embeddings, labels, indices, ref_emb, ref_labels)
            total = total + self.weights[name] * value
        return total


def _by_name(given: Any) -> dict[str, Any]:
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    if not guess("lists_of_losses"):
        raise TypeError("MultipleLosses takes dicts")
    return {str(number): value for number, value in enumerate(given)}


class CrossBatchMemory(nn.Module):
    """The batch against a memory of the rows before it, and the batch itself."""

    def __init__(
        self,
        loss: nn.Module,
        embedding_size: int,
        memory_size: int = 1024,
        miner: nn.Module | None = None,
        *,
        label_dtype: torch.dtype = torch.long,
        label_shape: tuple[int, ...] = (),
        pair_function: Any = None,
    ) -> None:
        super().__init__()
        if label_shape or pair_function is not None:
            raise NotImplementedError("label_shape and pair_function: not in the double")
        self.loss, self.miner, self.memory_size = loss, miner, memory_size
        self.register_buffer("_rows", torch.empty(0, embedding_size))
        self.register_buffer("_labels", torch.empty(0, dtype=label_dtype))
        self._next = 0

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: IndicesTuple | None = None,
        enqueue_mask: Tensor | None = None,
    ) -> Tensor:
        """Without a mask each row is stored and an anchor, with one it is either."""
        self._check(embeddings, labels, enqueue_mask)
        if indices_tuple is not None:
            raise NotImplementedError("indices_tuple of a memory: not in the double")
        stored = slice(None) if enqueue_mask is None else enqueue_mask
        rows, at = self._written(embeddings[stored].detach(), self._rows.to(embeddings))
        row_labels, _ = self._written(labels[stored], self._labels)
        if enqueue_mask is not None:
            embeddings, labels = embeddings[~enqueue_mask], labels[~enqueue_mask]
        if len(embeddings) == 0 or len(rows) == 0:
            value = (embeddings * 0).sum()
        else:
            pairs: Any = pairs_of(None, labels, row_labels)
            if enqueue_mask is None:
                pairs = _without(pairs, at)
            if self.miner is not None:
                pairs = _call(self.miner, embeddings, labels, pairs, rows, row_labels)
            value = self.loss(embeddings, labels, pairs, ref_emb=rows, ref_labels=row_labels)
        self._rows, self._labels = rows, row_labels
        self._next = (self._next + len(at)) % self.memory_size
        return value

    def _check(self, embeddings: Tensor, labels: Tensor, mask: Tensor | None) -> None:
        error = guess("bad_batch")
        if embeddings.ndim != 2 or embeddings.shape[1] != self._rows.shape[1]:
            raise error(f"embeddings must be (n, {self._rows.shape[1]})")
        if labels.shape != embeddings.shape[:1] or labels.dtype != self._labels.dtype:
            raise error(f"labels must be ({len(embeddings)},) of {self._labels.dtype}")
        if mask is not None and (mask.shape != labels.shape or mask.dtype != torch.bool):
            raise error(f"enqueue_mask must be ({len(embeddings)},) of booleans")
        count = len(embeddings) if mask is None else int(mask.sum())
        if count > self.memory_size:
            raise ValueError(f"{count} rows do not fit into a memory of {self.memory_size}")

    def _written(self, new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
        """The memory with new rows in the place of the oldest, and where they are."""
        order = torch.arange(len(new), device=new.device)
        if guess("new_rows_last"):
            kept = torch.cat([old, new])[-self.memory_size :]
            return kept, len(kept) - len(new) + order
        size = min(self.memory_size, max(len(old), self._next + len(new)))
        at = (self._next + order) % self.memory_size
        ring = torch.cat([old, old.new_empty(size - len(old), *old.shape[1:])])
        ring[at] = new
        return ring, at


class SelfSupervisedLoss(nn.Module):
    """Views of the same samples: row i of each is a positive of row i of the others."""

    def __init__(self, loss: nn.Module, symmetric: bool = True) -> None:
        super().__init__()
        self.loss, self.symmetric = loss, symmetric

    def forward(self, embeddings: Tensor, ref_emb: Tensor, *other_views: Tensor) -> Tensor:
        """All rows as one batch or, not symmetric, the first view against the others."""
        views = (embeddings, ref_emb, *other_views)
        if any(view.ndim != 2 or view.shape != embeddings.shape for view in views):
            raise ValueError("views must be (n, d), all of one shape")
        labels = torch.arange(len(embeddings), device=embeddings.device)
        if self.symmetric:
            return self.loss(torch.cat(views), labels.repeat(len(views)))
        rest = labels.repeat(len(views) - 1)
        return self.loss(embeddings, labels, ref_emb=torch.cat(views[1:]), ref_labels=rest)


class LocalAnchor(nn.Module):
    """Stands in for the wrapper of the distributed module, in one process.

    The batch is one rank's; the rows of another are given. All are references, and the tuple that
    the loss gets has all pairs of the batch with them but those of a row with its own copy.
    """

    def __init__(self, loss: nn.Module, other: Tensor, other_labels: Tensor) -> None:
        super().__init__()
        self.loss, self.other, self.other_labels = loss, other, other_labels

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of the batch against the gathered rows."""
        own = torch.arange(len(embeddings), device=embeddings.device)
        ranks = [(embeddings, labels), (self.other, self.other_labels)]
        if not guess("own_rows_first"):
            ranks.reverse()
            own = own + len(self.other)
        rows, row_labels = (torch.cat(part) for part in zip(*ranks, strict=True))
        pairs = _without(pairs_of(None, labels, row_labels), own)
        return _call(self.loss, embeddings, labels, pairs, rows, row_labels)
