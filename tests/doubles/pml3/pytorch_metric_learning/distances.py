"""A double of pytorch-metric-learning 3: its documented contract only; not the library."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._guesses import guess

DOUBLE = True

__all__ = ["BaseDistance", "CosineSimilarity", "DotProductSimilarity", "LpDistance", "SNRDistance"]


class BaseDistance(nn.Module):
    """Calls give the matrix of all distances; ``margin(x, y)`` is how much farther x is than y."""

    def __init__(self, *, normalize: bool, p: float, power: float, inverted: bool) -> None:
        super().__init__()
        self._normalize, self._p, self._power, self._inverted = normalize, p, power, inverted
        if guess("distance_attributes"):
            self.normalize_embeddings, self.p, self.power = normalize, p, power
            self.is_inverted = inverted

    def forward(self, query_emb: Tensor, ref_emb: Tensor | None = None) -> Tensor:
        """(n, m), or (n, n) without references."""
        if self._normalize:
            query_emb = nn.functional.normalize(query_emb, p=self._p, dim=1)
            if ref_emb is not None:
                ref_emb = nn.functional.normalize(ref_emb, p=self._p, dim=1)
        mat = self._matrix(query_emb, query_emb if ref_emb is None else ref_emb)
        return mat if self._power == 1 else mat**self._power

    def _matrix(self, x: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError

    def margin(self, x: Tensor | float, y: Tensor | float) -> Tensor | float:
        """Positive where x is farther than y."""
        return y - x if self._inverted else x - y


class LpDistance(BaseDistance):
    """The p-norm of the difference."""

    def __init__(
        self, *, normalize_embeddings: bool = True, p: float = 2, power: float = 1
    ) -> None:
        super().__init__(normalize=normalize_embeddings, p=p, power=power, inverted=False)

    def _matrix(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cdist(x, y, p=self._p)


class DotProductSimilarity(BaseDistance):
    """The inner product, of rows as they are by default."""

    def __init__(self, *, normalize_embeddings: bool = False, power: float = 1) -> None:
        super().__init__(normalize=normalize_embeddings, p=2, power=power, inverted=True)

    def _matrix(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ y.T


class CosineSimilarity(DotProductSimilarity):
    """The inner product of normalised rows."""

    def __init__(self, *, power: float = 1) -> None:
        super().__init__(normalize_embeddings=True, power=power)


class SNRDistance(BaseDistance):
    """A name."""

    def __init__(self) -> None:
        raise NotImplementedError("not in the double")
