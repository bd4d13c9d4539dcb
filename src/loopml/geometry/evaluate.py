r"""Measure two curves at fixed fractions: points, and a distance that is safe to differentiate.

The gradient of a minimum is the gradient with the minimiser held fixed (envelope theorem), so the
search for the fractions runs without grad and only what is here is differentiated. The public
functions compute in float64, which makes the distance of two nearly touching float32 curves mean
something; the losses measure in the dtype of their embeddings, at least float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loopml._checks import check_broadcast
from loopml._types import Closest
from loopml.geometry.lengths import length_of

# Integers of a width with a floating point type, and the bits that are its exponent.
_EXPONENT = {
    torch.float64: (torch.int64, 0x7FF << 52),
    torch.float32: (torch.int32, 0xFF << 23),
}


def wide(x: Tensor) -> Tensor:
    """``x`` in float64, or in float32 on a device (MPS) that has no float64."""
    return x.float() if x.device.type == "mps" else x.double()


def power_of_two(x: Tensor) -> Tensor:
    """The power of two below the largest coordinate of ``x`` (..., d): (..., 1), a constant.

    Dividing by it rounds nothing. It is never below the least normal number.
    """
    # The bits of the exponent alone: exp2 of a whole number is rounded on some devices.
    bits, exponent = _EXPONENT[x.dtype]
    largest = x.detach().abs().amax(-1, keepdim=True)
    return (largest.view(bits) & exponent).view(x.dtype).clamp(min=torch.finfo(x.dtype).tiny)


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
    size = sq_size.sqrt() if isinstance(sq_size, Tensor) else sq_size**0.5
    return torch.where(distance <= touch_tolerance(distance.dtype) * size, 0, distance)  # NaN stays


def normalized(x: Tensor) -> Tensor:
    """``x`` over its length along the last axis; a zero vector stays zero, with a zero gradient."""
    # Dividing by the largest coordinate first keeps the squares of 1e-200 and 1e200 representable.
    largest = x.detach().abs().amax(-1, keepdim=True)
    x = x / torch.where(largest > 0, largest, 1)
    return x / torch.where(largest > 0, x.square().sum(-1, keepdim=True), 1).sqrt()


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


def narrowed(result: Closest, dtype: torch.dtype) -> Closest:
    """``result`` in the dtype of the caller's tensors."""
    return Closest(*(x.to(dtype) for x in result))
