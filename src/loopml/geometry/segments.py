r"""The minimum distance between two straight segments, in closed form.

Let :math:`u` and :math:`v` be the unit directions of the segments, :math:`\ell` and :math:`m` their
lengths, and :math:`r = p_0 - q_0`. Minimise :math:`\lVert r + x u - y v \rVert^2` over
:math:`0 \le x \le \ell` and :math:`0 \le y \le m`, a convex quadratic on a box. Let :math:`w` and
:math:`r_\perp` be the parts of :math:`u` and :math:`r` that are orthogonal to :math:`v`. Without
the box the minimum is at :math:`x = -\langle w, r_\perp \rangle / \langle w, w \rangle`. Clamp this
:math:`x`, take the best :math:`y` for it, clamp this :math:`y`, and take and clamp the best
:math:`x` for it. That is the minimum on the box (Ericson, Real-Time Collision Detection, 2005,
section 5.1.9). Parallel segments and segments of length zero have :math:`w = 0`, and start at
:math:`x = 0`.

Nearly parallel segments need :math:`w` and :math:`r_\perp` as vectors. On paper
:math:`\langle w, w \rangle = 1 - \langle u, v \rangle^2`, but that loses all digits at an angle of
1e-8. And :math:`r` in place of :math:`r_\perp` would multiply the rounding of :math:`w`.
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
    r"""The nearest points of the straight segments from ``p0`` to ``p1`` and ``q0`` to ``q1``.

    .. math:: \min_{s, t \in [0, 1]} \lVert (1-s) p_0 + s p_1 - (1-t) q_0 - t q_1 \rVert

    Args:
        p0: (..., d) start of the first segment. Leading axes broadcast over all four arguments.
        p1: (..., d) end of the first segment.
        q0: (..., d) start of the second segment.
        q1: (..., d) end of the second segment.

    Returns:
        A :class:`~loopml._types.Closest` with the fractions ``s`` and ``t`` (...) of the segments'
        lengths, the two points (..., d) and their Euclidean distance (...).

        - Equal ends: the segment is a point, and its fraction is 0.
        - Parallel segments: ``s`` and ``t`` are one of many solutions. The distance is unique.

    Raises:
        TypeError: an argument is no floating point tensor, or the dtypes differ.
        ValueError: the shapes do not fit, or a value is NaN or infinite. Values are checked on the
            CPU. Elsewhere they are checked with ``LOOPML_CHECK_VALUES=1``.

    Gradient:
        The gradient of the minimum: ``s`` and ``t`` are constants. With :math:`n` the unit vector
        from the second point to the first, the gradient by ``p0`` is :math:`(1 - s)\, n`, by
        ``p1`` :math:`s\, n`, by ``q0`` :math:`-(1 - t)\, n` and by ``q1`` :math:`-t\, n`.

        - Segments that touch (nearer than 1.8e-12 of the longer one's length): distance 0,
          gradient 0.
        - Several nearest pairs of points, as on parallel segments: the gradient at the pair that is
          returned.
        - Equal ends: all of the gradient goes to the first of the two, ``p0`` or ``q0``.

    Precision:
        Computed in float64 and returned in the dtype of the arguments.

        - float64: the error is below 1e-14 of the segments' lengths and the distance, however
          parallel the segments are and however far from the origin.
        - Segments that touch: their distance is cut to 0.
        - float32, float16 and bfloat16: one rounding more.
        - Gradients need coordinates below 1e307.

    Source:
        Ericson, Real-Time Collision Detection (2005), section 5.1.9. The use as hardest negatives,
        for embeddings that are not normalised, is LoOp (Vasudeva et al., ICCV 2021), section 3.

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
    """The minimum Euclidean distance of two segments: ``closest_on_segments(...).distance``.

    Args:
        p0: (..., d) start of the first segment. Leading axes broadcast over all four arguments.
        p1: (..., d) end of the first segment.
        q0: (..., d) start of the second segment.
        q1: (..., d) end of the second segment.

    Returns:
        (...) distances, differentiable.

    Raises:
        TypeError: as :func:`closest_on_segments`.
        ValueError: as :func:`closest_on_segments`.

    Gradient:
        As :func:`closest_on_segments`.

    Precision:
        As :func:`closest_on_segments`.

    Source:
        As :func:`closest_on_segments`.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0])
        >>> segment_distance(a, b, torch.tensor([3.0, 0.0]), torch.tensor([3.0, 5.0])).item()
        2.0
    """
    return closest_on_segments(p0, p1, q0, q1).distance
