r"""The minimum distance between two straight segments, in closed form.

With unit directions u, v, lengths l, m and r = p0 - q0, minimise
``|r + x u - y v|^2`` over ``0 <= x <= l, 0 <= y <= m``: a convex quadratic on a box. Its
unconstrained minimiser is ``x = -(w . r) / (w . w)`` with ``w = u - (u . v) v``, the part of u that
is orthogonal to v. Clamp x, answer with the best y, clamp that, and answer with the best x: on a
box this is the exact minimum (Ericson, Real-Time Collision Detection, 2005, section 5.1.9).
Parallel and zero-length segments are ordinary inputs: their w is zero and x starts at 0.

Taking w as a vector instead of ``w . w = 1 - (u . v)^2`` is what keeps nearly parallel segments
exact: that difference loses all digits at an angle of 1e-8.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from loopml._checks import check_endpoints
from loopml._types import Closest
from loopml.geometry.evaluate import distance_between, mixed, narrowed, stacked, wide


class Products(NamedTuple):
    """The inner products that fix the nearest points of two segments."""

    uv: Tensor
    ur: Tensor
    vr: Tensor
    ww: Tensor
    wr: Tensor


def solve_box(products: Products, p_length: Tensor, q_length: Tensor) -> tuple[Tensor, Tensor]:
    """Fractions (s, t) of the nearest points of two segments."""
    uv, ur, vr, ww, wr = products
    zero = torch.zeros_like(ur)
    # Below this w is the rounding of u and v: any x is as good as another.
    skew = ww > torch.finfo(ww.dtype).eps ** 2
    x = torch.where(skew, -wr / torch.where(skew, ww, 1), zero)
    x = torch.minimum(x.clamp(min=0), p_length)
    y = torch.minimum((vr + uv * x).clamp(min=0), q_length)
    x = torch.minimum((uv * y - ur).clamp(min=0), p_length)
    return fraction(x, p_length), fraction(y, q_length)


def fraction(x: Tensor, length: Tensor) -> Tensor:
    """``x / length`` for x in [0, length]; 0 on a segment without length."""
    return x / torch.where(length > 0, length, 1)


def length_and_direction(p0: Tensor, p1: Tensor) -> tuple[Tensor, Tensor]:
    """Length (...) and unit direction (..., d), zero where the segment is a point."""
    difference = p1 - p0
    length = difference.norm(dim=-1)
    return length, difference / torch.where(length > 0, length, 1).unsqueeze(-1)


@torch.no_grad()
def nearest_on_segments(ends: Tensor) -> tuple[Tensor, Tensor]:
    """Fractions (s, t) of the nearest points, from the endpoints p0, p1, q0, q1: (..., 4, d)."""
    p0, p1, q0, q1 = ends.unbind(-2)
    p_length, u = length_and_direction(p0, p1)
    q_length, v = length_and_direction(q0, q1)
    r = p0 - q0
    uv = (u * v).sum(-1)
    w = u - uv.unsqueeze(-1) * v
    products = Products(uv, (u * r).sum(-1), (v * r).sum(-1), (w * w).sum(-1), (w * r).sum(-1))
    return solve_box(products, p_length, q_length)


def measure_segments(ends: Tensor) -> Closest:
    """``closest_on_segments`` without checks, on endpoints (..., 4, d) in their own dtype."""
    s, t = nearest_on_segments(ends)
    point_p, point_q = mixed(torch.stack([1 - s, s, 1 - t, t], -1), ends).unbind(-2)
    sq_size = ends.detach().square().sum(-1).amax(-1)
    return Closest(s, t, point_p, point_q, distance_between(point_p, point_q, sq_size))


def closest_on_segments(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Closest:
    r"""The nearest points of the segment from ``p0`` to ``p1`` and that from ``q0`` to ``q1``.

    .. math:: \min_{s, t \in [0, 1]} \lVert (1-s) p_0 + s p_1 - (1-t) q_0 - t q_1 \rVert

    Args:
        p0: (..., d) start of the first segment; leading axes broadcast over all four arguments.
        p1: (..., d) its end; equal to ``p0`` it is a point.
        q0: (..., d) start of the second segment.
        q1: (..., d) its end.

    Returns:
        :class:`~loopml._types.Closest` with fractions ``s``, ``t`` of shape (...), the points of
        shape (..., d) and their Euclidean distance (...). On parallel segments s and t are one of
        many minimisers; the distance is unique.

    Raises:
        TypeError: an argument is no floating point tensor, or the dtypes differ.
        ValueError: the shapes do not fit, or a value is NaN or infinite (values are checked on
            the CPU only unless ``LOOPML_CHECK_VALUES=1``).

    Gradient:
        The envelope form: s and t are constants, so ``d distance / d p0 = (1 - s) n`` with n the
        unit vector from the second point to the first. Segments that touch (nearer than 1.8e-12 of
        the size of their points) have distance 0 and gradient 0. Where the minimiser is not unique
        it is the gradient at the one returned.

    Precision:
        Computed in float64 and returned in the dtype of the arguments; 1e-8 of the scale in
        float64, one rounding in float32, float16 and bfloat16.

    Source:
        Ericson, Real-Time Collision Detection (2005), section 5.1.9; the use as hardest negatives
        is LoOp (Vasudeva et al., ICCV 2021), section 3, for embeddings that are not normalised.

    Example:
        >>> import torch
        >>> p0, p1 = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 1.0])
        >>> q0, q1 = torch.tensor([0.0, -1.0, 0.0]), torch.tensor([0.0, 3.0, 0.0])
        >>> s, t, point_p, point_q, distance = closest_on_segments(p0, p1, q0, q1)
        >>> s.item(), t.item(), distance.item()
        (0.5, 0.25, 1.0)
    """
    check_endpoints({"p0": p0, "p1": p1, "q0": q0, "q1": q1})
    return narrowed(measure_segments(wide(stacked(p0, p1, q0, q1))), p0.dtype)


def segment_distance(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    """The minimum Euclidean distance between two segments: ``closest_on_segments(...).distance``.

    Args:
        p0: (..., d) start of the first segment; leading axes broadcast.
        p1: (..., d) its end.
        q0: (..., d) start of the second segment.
        q1: (..., d) its end.

    Returns:
        (...) distances, differentiable; errors, gradient, precision and source as
        :func:`closest_on_segments`.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0])
        >>> segment_distance(a, b, torch.tensor([3.0, 0.0]), torch.tensor([3.0, 5.0])).item()
        2.0
    """
    return closest_on_segments(p0, p1, q0, q1).distance
