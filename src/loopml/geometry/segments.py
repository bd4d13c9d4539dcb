r"""The minimum distance between two straight segments, in closed form.

With unit directions u, v, lengths l, m and r = p0 - q0, minimise
``|r + x u - y v|^2`` over ``0 <= x <= l, 0 <= y <= m``: a convex quadratic on a box. Its
unconstrained minimiser is ``x = -(w . r') / (w . w)``, with ``w = u - (u . v) v`` and r' what of u
and r is orthogonal to v. Clamp x, answer with the best y, clamp that, and answer with the best x:
on a box this is the exact minimum (Ericson, Real-Time Collision Detection, 2005, section 5.1.9).
Parallel and zero-length segments are ordinary inputs: their w is zero and x starts at 0.

Taking w and r' as vectors is what keeps nearly parallel segments exact: ``1 - (u . v)^2``, which is
``w . w``, loses all digits at an angle of 1e-8, and the rounding of w times all of r as many.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from loopml._checks import check_endpoints
from loopml._types import Closest
from loopml.geometry.lengths import distance_of, over
from loopml.geometry.packing import mixed, narrowed, stacked, wide


class Differences(NamedTuple):
    """Two segments as vectors, in units that leave their squares in range."""

    p: Tensor  # (..., d) p1 - p0
    q: Tensor  # (..., d) q1 - q0
    starts: Tensor  # (..., d) p0 - q0
    p_unit: Tensor  # (..., 1) the unit of p over the unit of the starts
    q_unit: Tensor
    unit: Tensor  # (..., 1) the unit of the starts


def differences_of(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Differences:
    """The vectors of segments whose endpoints (..., d) broadcast.

    Differences come first, and keep what segments far from the origin tell. Those of halves do not
    overflow.
    """
    p0, p1, q0, q1 = (x / 2 for x in (p0, p1, q0, q1))
    p_unit, q_unit = largest_of(p0, p1), largest_of(q0, q1)
    unit = torch.maximum(p_unit, q_unit)
    return Differences(
        (p1 - p0) / p_unit, (q1 - q0) / q_unit, (p0 - q0) / unit, p_unit / unit, q_unit / unit, unit
    )


def largest_of(x: Tensor, y: Tensor) -> Tensor:
    """The largest coordinate of two points, but at least the least normal number: (..., 1)."""
    largest = torch.maximum(*(z.detach().abs().amax(-1, keepdim=True) for z in (x, y)))
    return largest.clamp(min=torch.finfo(x.dtype).tiny)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner products along the last axis, which stays, with length 1."""
    # Unlike a product and its sum this has no (p, q, d) tensor for curves of a (p, 1) and a (q,).
    return torch.einsum("...d,...d->...", x, y).unsqueeze(-1)


def length_and_direction(difference: Tensor) -> tuple[Tensor, Tensor]:
    """Length (..., 1) and unit direction (..., d), zero where the segment is a point."""
    length = difference.norm(dim=-1, keepdim=True)
    return length, over(difference, length)


@torch.no_grad()
def solve_box(segments: Differences) -> tuple[Tensor, Tensor]:
    """Fractions (s, t) of the nearest points of two segments: (..., 1) each."""
    p_length, u = length_and_direction(segments.p)
    q_length, v = length_and_direction(segments.q)
    p_length, q_length = p_length * segments.p_unit, q_length * segments.q_unit
    r = segments.starts
    uv, vr = dot(u, v), dot(v, r)
    # The parts of u and of r that are orthogonal to v.
    w, across = torch.addcmul(u, uv, v, value=-1), torch.addcmul(r, vr, v, value=-1)
    ww, wr = w.norm(dim=-1, keepdim=True) ** 2, (w * across).sum(-1, keepdim=True)
    # Below this w is the rounding of u and v: any x is as good as another.
    skew = ww > torch.finfo(ww.dtype).eps ** 2
    x = torch.where(skew, -wr / torch.where(skew, ww, 1), 0)
    x = torch.minimum(x.clamp(min=0), p_length)
    y = torch.minimum((vr + uv * x).clamp(min=0), q_length)
    x = torch.minimum((uv * (y - vr) - wr).clamp(min=0), p_length)
    return over(x, p_length), over(y, q_length)


def nearest_on_segments(endpoints: Tensor) -> tuple[Tensor, Tensor]:
    """Fractions (s, t) of the nearest points, from the endpoints p0, p1, q0, q1: (..., 4, d)."""
    s, t = solve_box(differences_of(*endpoints.detach().unbind(-2)))
    return s.squeeze(-1), t.squeeze(-1)


def measure_segments(
    p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Fractions s, t and the distance (...) of segments whose endpoints (..., d) broadcast."""
    segments = differences_of(p0, p1, q0, q1)
    s, t = solve_box(segments)
    p, q, starts, p_unit, q_unit, unit = segments
    difference = torch.addcmul(starts, s * p_unit, p)
    difference = torch.addcmul(difference, t * q_unit, q, value=-1)
    # The rounding of a distance is beside what was added up for it.
    lengths = (x.detach().norm(dim=-1, keepdim=True) * y for x, y in ((p, p_unit), (q, q_unit)))
    sq_size = torch.maximum(*lengths).square().squeeze(-1)
    distance = distance_of(difference, sq_size) * (2 * unit).squeeze(-1)
    return s.squeeze(-1), t.squeeze(-1), distance


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
        the longer one's length) have distance 0 and gradient 0. Where the minimiser is not unique
        it is the gradient at the one returned.

    Precision:
        Computed in float64 and returned in the dtype of the arguments. In float64 the error is
        below 1e-14 of the segments' lengths and the distance, how parallel they may be and how far
        from the origin, beside the cut to 0 of segments that touch; one rounding in float32,
        float16 and bfloat16. Gradients need coordinates below 1e307.

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
    endpoints = wide(stacked(p0, p1, q0, q1))
    s, t, distance = measure_segments(*endpoints.unbind(-2))
    point_p, point_q = mixed(torch.stack([1 - s, s, 1 - t, t], -1), endpoints).unbind(-2)
    return narrowed(Closest(s, t, point_p, point_q, distance), p0.dtype)


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
