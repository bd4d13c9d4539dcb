"""A double of pytorch-metric-learning 3: its documented contract only; not the library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ._guesses import guess

DOUBLE = True

__all__ = ["MPerClassSampler"]


class MPerClassSampler(Sampler[list[int]]):
    """Whole batches, m rows of each of some classes, for ``DataLoader(batch_sampler=...)``."""

    def __init__(
        self,
        labels: Tensor | Sequence[int],
        m: int,
        batch_size: int,
        num_batches: int | None = None,
    ) -> None:
        labels = torch.as_tensor(labels)
        self._rows = [torch.where(labels == label)[0] for label in labels.unique()]
        self._m, self._classes = m, batch_size // m
        if batch_size % m or self._classes > len(self._rows):
            raise ValueError("batch_size must be a multiple of m, and of no more classes than are")
        # So that the largest class is gone through once.
        visits = math.ceil(max(map(len, self._rows)) / m)
        enough = math.ceil(visits * len(self._rows) / self._classes)
        self._num_batches = enough if num_batches is None else num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[list[int]]:
        classes = _Passes(torch.arange(len(self._rows)))
        rows = [_Passes(rows) for rows in self._rows]
        for _ in range(self._num_batches):
            batch = [rows[of].take(self._m) for of in classes.take(self._classes)]
            if not guess("classes_in_runs"):
                batch = [list(turn) for turn in zip(*batch, strict=True)]
            yield [row for part in batch for row in part]


class _Passes:
    """Shuffled passes through some values; no value twice in one take, if there are enough."""

    def __init__(self, values: Tensor) -> None:
        self._values, self._left = values, []

    def take(self, count: int) -> list[int]:
        """The next values."""
        taken: list[int] = []
        while len(taken) < count:
            if not self._left:
                shuffled = self._values[torch.randperm(len(self._values))].tolist()
                self._left = sorted(shuffled, key=taken.__contains__)
            taken.append(self._left.pop(0))
        return taken
