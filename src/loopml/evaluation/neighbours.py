"""Exact nearest neighbours of some rows at a time; without a matrix of distances."""

from __future__ import annotations

from collections.abc import Callable

import faiss
import torch
from torch import Tensor


class BlockKNN:
    """An exact k-nn function that can be asked for some of the queries at a time."""

    def __call__(
        self, query: Tensor, k: int, reference: Tensor, ref_includes_query: bool = False
    ) -> tuple[Tensor, Tensor]:
        """As the k-nn functions of pytorch-metric-learning."""
        search = self.searcher(query, k, reference, ref_includes_query)
        return search(torch.arange(len(query), device=query.device))

    def searcher(
        self, query: Tensor, k: int, reference: Tensor, excluded: bool
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Squared distances and indices of the k nearest; row i is not its own if excluded."""
        center = reference.mean(dim=0, dtype=torch.float64).to(reference.dtype)
        index = faiss.IndexFlatL2(reference.shape[1])
        for part in torch.split(reference, 1 << 14):
            index.add((part - center).cpu().numpy())

        def search(rows: Tensor) -> tuple[Tensor, Tensor]:
            found = index.search((query[rows] - center).cpu().numpy(), k + excluded)
            distances, indices = (torch.as_tensor(x, device=rows.device) for x in found)
            if (indices < 0).any():  # on CUDA nobody has looked at the values yet
                raise ValueError("query and reference must be finite, got NaN or infinity")
            if not excluded:
                return distances, indices
            drop = indices == rows[:, None]
            # A row with so many duplicates that it is not in its own list: drop the farthest.
            drop[:, -1] |= ~drop.any(dim=1)
            shape = (len(rows), k)
            return distances[~drop].view(shape), indices[~drop].view(shape)

        return search
