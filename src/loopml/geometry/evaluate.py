r"""Measure two curves at fixed fractions: points, and a distance that is safe to differentiate.

The gradient of a minimum is the gradient with the minimiser held fixed (envelope theorem), so the
search for the fractions runs without grad and only what is here is differentiated. Everything is
computed in float64: on the chosen pairs that costs O(p d), and it is what makes the distance of two
nearly touching float32 curves mean something.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loopml._types import Closest


def wide(x: Tensor) -> Tensor:
    """``x`` in float64, or in float32 on a device (MPS) that has no float64."""
    return x.float() if x.device.type == "mps" else x.double()


def touch_tolerance(dtype: torch.dtype) -> float:
    """Distance, relative to the size of the points, under which two curves touch.

    eps^(3/4): 1.8e-12 in float64. Rounding leaves crossing curves about 1e-15 apart, and a
    direction between points that near is noise.
    """
    return float(torch.finfo(dtype).eps ** 0.75)


def distance_between(point_p: Tensor, point_q: Tensor) -> Tensor:
    """Euclidean distance along the last axis; 0 with a zero gradient where the points touch."""
    difference = point_p - point_q  # (..., d)
    sq_distance = difference.square().sum(-1)
    with torch.no_grad():
        sq_size = torch.maximum(point_p.square().sum(-1), point_q.square().sum(-1))
        apart = sq_distance > touch_tolerance(sq_distance.dtype) ** 2 * sq_size
    # The inner where keeps sqrt'(0) = inf out of the graph, the outer one sets the value.
    return torch.where(apart, torch.where(apart, sq_distance, 1).sqrt(), 0)


def point_on_segment(s: Tensor, p0: Tensor, p1: Tensor) -> Tensor:
    """The point ``(1 - s) p0 + s p1``, exact at both ends."""
    s = s.unsqueeze(-1)
    return (1 - s) * p0 + s * p1


def point_on_arc(s: Tensor, p0: Tensor, p1: Tensor) -> Tensor:
    """The point at the fraction ``s`` of the angle from ``p0`` to ``p1`` (unit vectors).

    The weights are constants, and renormalising makes the gradient that of a point which stays on
    the sphere. Where the endpoints are the same or opposite (no arc, or no unique one), the weights
    are ``(1 - s, s)``.
    """
    with torch.no_grad():
        angle = 2 * torch.atan2((p1 - p0).norm(dim=-1), (p1 + p0).norm(dim=-1))
        sine = angle.sin()
        unique = sine > touch_tolerance(sine.dtype)
        sine = torch.where(unique, sine, 1)
        w0 = torch.where(unique, ((1 - s) * angle).sin() / sine, 1 - s).unsqueeze(-1)
        w1 = torch.where(unique, (s * angle).sin() / sine, s).unsqueeze(-1)
    return normalized(w0 * p0 + w1 * p1)


def normalized(x: Tensor) -> Tensor:
    """``x`` over its length along the last axis; a zero vector stays zero, with a zero gradient."""
    # Dividing by the largest coordinate first keeps the squares of 1e-200 and 1e200 representable.
    largest = x.detach().abs().amax(-1, keepdim=True)
    x = x / torch.where(largest > 0, largest, 1)
    return x / torch.where(largest > 0, x.square().sum(-1, keepdim=True), 1).sqrt()


def closest(s: Tensor, t: Tensor, point_p: Tensor, point_q: Tensor) -> Closest:
    """Bundle the fractions, the points at them and the distance between those."""
    return Closest(s, t, point_p, point_q, distance_between(point_p, point_q))


def narrowed(result: Closest, dtype: torch.dtype) -> Closest:
    """``result`` in the dtype of the caller's tensors."""
    return Closest(*(x.to(dtype) for x in result))
