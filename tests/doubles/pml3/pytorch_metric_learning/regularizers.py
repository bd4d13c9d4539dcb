"""A double of pytorch-metric-learning 3: its documented contract only; not the library."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DOUBLE = True

__all__ = ["BaseRegularizer", "LpRegularizer"]


class BaseRegularizer(nn.Module):
    """A penalty for each embedding."""

    def forward(self, embeddings: Tensor) -> Tensor:
        """(n,) one for each row."""
        raise NotImplementedError


class LpRegularizer(BaseRegularizer):
    """A power of the p-norm of each embedding."""

    def __init__(self, p: float = 2, power: float = 1) -> None:
        super().__init__()
        self.p, self.power = p, power

    def forward(self, embeddings: Tensor) -> Tensor:
        """(n,) one for each row."""
        return torch.linalg.vector_norm(embeddings, self.p, dim=1) ** self.power
