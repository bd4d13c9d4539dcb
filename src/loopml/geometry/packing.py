"""How the exact functions pack their arguments: in float64, four endpoints as one tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from loopml._checks import check_broadcast
from loopml._types import Closest


def wide(x: Tensor) -> Tensor:
    """``x`` in float64, or in float32 on a device (MPS) that has no float64."""
    return x.float() if x.device.type == "mps" else x.double()


def narrowed(result: Closest, dtype: torch.dtype) -> Closest:
    """``result`` in the dtype of the caller's tensors."""
    return Closest(*(x.to(dtype) for x in result))


def mixed(weights: Tensor, vectors: Tensor) -> Tensor:
    """Points (..., 2, d) from constant ``weights`` (..., 4) on two vectors of each curve."""
    terms = weights.unsqueeze(-1) * vectors
    return by_curve(terms).sum(-2)


def by_curve(vectors: Tensor) -> Tensor:
    """Four vectors (..., 4, d) as two of each curve: (..., 2, 2, d)."""
    return vectors.reshape(*vectors.shape[:-2], 2, 2, vectors.shape[-1])


def stacked(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    """Four endpoints (..., d) as one tensor (..., 4, d), after broadcasting."""
    check_broadcast({"p0": p0, "p1": p1, "q0": q0, "q1": q1})
    return torch.stack(torch.broadcast_tensors(p0, p1, q0, q1), -2)  # type: ignore[no-untyped-call]
