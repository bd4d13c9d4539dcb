"""Lengths and directions, with a gradient that is zero at zero and takes few passes.

PyTorch's own gradients of a norm and of a quotient read and write a batch a dozen times and mask
it once, which is a good part of a small step. Here they are written out, and differentiate twice.
A compiler fuses PyTorch's own as well, and ``torch.func`` has rules for them, so both keep those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def _norm(x: Tensor, *, keepdim: bool = False) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=keepdim)
    return norm


class _Direction(torch.autograd.Function):
    """``x / max(|x|, least)``, and what ``x`` was multiplied by."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, least: float) -> tuple[Tensor, Tensor]:
        length = _norm(x, keepdim=True)
        scale = torch.where(length > 0, 1 / length.clamp(min=least), 0)
        unit = x * scale
        ctx.save_for_backward(unit, scale, length >= least)
        return unit, scale

    @staticmethod
    def backward(ctx: Any, of_unit: Tensor, of_scale: Tensor) -> tuple[Tensor, None]:
        unit, scale, scale_moves = ctx.saved_tensors
        along = (of_unit * unit).sum(-1, keepdim=True) + of_scale * scale
        along = torch.where(scale_moves, along, 0)  # below the least length the scale is constant
        return torch.addcmul(of_unit, unit, along, value=-1).mul_(scale), None


class _Length(torch.autograd.Function):
    """``|x|``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = _norm(x)
        ctx.save_for_backward(x, length)
        return length

    @staticmethod
    def backward(ctx: Any, of_length: Tensor) -> Any:
        x, length = ctx.saved_tensors
        return x * (of_length / torch.where(length > 0, length, torch.inf)).unsqueeze(-1)


def is_traced(x: Tensor) -> bool:
    """Whether a compiler or a transform looks at what is done to ``x``."""
    return torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x)


def numbers(values: Sequence[float], *, like: Tensor) -> Tensor:
    """The ``values`` with the dtype and device of ``like``.

    Not ``like.new_tensor``, which ``torch.func`` cannot wrap before torch 2.5.
    """
    return torch.tensor(list(values), dtype=like.dtype, device=like.device)


def direction_of(x: Tensor, least: float) -> Tensor:
    """``x / max(|x|, least)`` along the last axis; a zero vector stays zero, without a gradient."""
    if is_traced(x):
        length = _norm(x, keepdim=True)
        return x / torch.where(length > 0, length.clamp(min=least), torch.inf)
    unit: Tensor = _Direction.apply(x, least)[0]  # type: ignore[no-untyped-call,unused-ignore]
    return unit


def length_of(x: Tensor) -> Tensor:
    """``|x|`` along the last axis, with a zero gradient at zero."""
    if is_traced(x):
        return _norm(x)
    length: Tensor = _Length.apply(x)  # type: ignore[no-untyped-call,unused-ignore]
    return length
