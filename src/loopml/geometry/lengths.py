"""Lengths, distances and directions, with a gradient that is zero at zero and takes few passes.

The gradient of a minimum is the gradient with the minimiser held fixed (envelope theorem). So the
search for the nearest points runs without grad, and what is here measures the points found.

PyTorch's own gradients of a norm and of a quotient read and write a batch a dozen times and mask
it once, which is a good part of a small step. Here they are written out, and differentiate twice.
A compiler fuses PyTorch's own as well, and ``torch.func`` has rules for them, so both keep those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loopml._devices import onto

# Integers of a width with a floating point type, and the bits that are its exponent.
_EXPONENT = {
    torch.float64: (torch.int64, 0x7FF << 52),
    torch.float32: (torch.int32, 0xFF << 23),
}


def _norm(x: Tensor, *, keepdim: bool = False) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=keepdim)
    return norm


class _Direction(torch.autograd.Function):
    """``x / max(|x|, least)``, and what ``x`` was multiplied by."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, least: float) -> tuple[Tensor, Tensor]:
        length = _norm(x, keepdim=True)
        scale = length.clamp(min=least).reciprocal_()
        unit = x * scale
        ctx.save_for_backward(unit, scale, length)
        ctx.least = least
        return unit, scale

    @staticmethod
    def backward(ctx: Any, of_unit: Tensor, of_scale: Tensor) -> tuple[Tensor, None]:
        unit, scale, length = ctx.saved_tensors
        along = (of_unit * unit).sum(-1, keepdim=True) + of_scale * scale
        along = along.masked_fill(length < ctx.least, 0)  # there the scale is constant
        moved = torch.addcmul(of_unit, unit, along, value=-1)
        return moved * scale.masked_fill(length == 0, 0), None


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
    return onto(like.device, torch.tensor(list(values), dtype=like.dtype, device="cpu"))


def over(x: Tensor, length: Tensor) -> Tensor:
    """``x / length``; ``x`` itself, which is 0 then, where the length is 0."""
    return x / torch.where(length > 0, length, 1)


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


def power_of_two(x: Tensor) -> Tensor:
    """The power of two below the largest coordinate of ``x`` (..., d): (..., 1), a constant.

    Dividing by it rounds nothing. It is never below the least normal number.
    """
    largest = x.detach().abs().amax(-1, keepdim=True)
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        # Before torch 2.5 vmap cannot see the bits of a number.
        mantissa = torch.frexp(largest)[0]
        power = torch.where(largest > 0, largest / (2 * mantissa), 0)
    else:
        # The bits of the exponent alone: exp2 of a whole number is rounded on some devices.
        bits, exponent = _EXPONENT[x.dtype]
        power = (largest.view(bits) & exponent).view(x.dtype)
    return power.clamp(min=torch.finfo(x.dtype).tiny)


def touch_tolerance(dtype: torch.dtype) -> float:
    """Distance, relative to the size of the points, under which two curves touch.

    eps^(3/4): 1.8e-12 in float64. Rounding leaves crossing curves about 1e-15 apart, and a
    direction between points that near is noise.
    """
    return float(torch.finfo(dtype).eps ** 0.75)


def distance_between(point_p: Tensor, point_q: Tensor, sq_size: Tensor | float = 0) -> Tensor:
    """Euclidean distance along the last axis; 0 with a zero gradient where the points touch.

    They touch where the distance is 0, or rounding beside points of the square ``sq_size``.
    """
    return distance_of(point_p - point_q, sq_size)


def distance_of(difference: Tensor, sq_size: Tensor | float = 0) -> Tensor:
    """The distance of two points from their difference, as :func:`distance_between`."""
    distance = length_of(difference)
    return torch.where(touches(distance, sq_size), 0, distance)


def touches(distance: Tensor, sq_size: Tensor | float) -> Tensor:
    """Whether points of the square ``sq_size`` touch at a ``distance``; not where it is NaN."""
    size = sq_size.sqrt() if isinstance(sq_size, Tensor) else sq_size**0.5
    return distance <= touch_tolerance(distance.dtype) * size


def normalized(x: Tensor) -> Tensor:
    """``x`` over its length along the last axis; a zero vector stays zero, with a zero gradient."""
    # Dividing by the largest coordinate first keeps the squares of 1e-200 and 1e200 representable.
    largest = x.detach().abs().amax(-1, keepdim=True)
    x = over(x, largest)
    return x / torch.where(largest > 0, x.square().sum(-1, keepdim=True), 1).sqrt()
