r"""Where two great-circle arcs come nearest to each other, from inner products: the closed form.

Each arc is an angle on either side of its middle. Let ``e = unit(p0 + p1)`` and
``f = unit(p1 - p0)``, which are orthogonal for unit endpoints. The points of the arc are
``cos(a) e + sin(a) f`` for ``|a| <= h``. The inner product of a point of each arc is then
``x^T M y``: M is the 2 x 2 matrix of the inner products of the two frames, and x and y are unit
vectors in two cones about the first axis. It is largest in one of two places. If the first singular
vectors of M are in their cones, they are the place. Else one of the vectors is at an end of its
cone, and the other is the best answer to it. There is no other case.

So five candidates are compared: both ends of either cone and the first left singular vector, each
with the best answer of the other arc. Each candidate is two points of the arcs, so none can be
better than the truth. Rounding can only lose the last digits, never invent a nearer point.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Cones(NamedTuple):
    """What is known of arcs on their own; everything broadcasts."""

    per: Tensor  # (2, ...) one over the lengths of p0 + p1 and p1 - p0, 0 where there is no axis
    half: Tensor  # (...) of the arc's angle
    skew: Tensor  # (...) how much of p0 + p1 is in p1 - p0: rounding, but not beside a short one
    lean: Tensor | float  # (...) what a product with f must exceed to be nearer to p1 than to p0


def least_square(dtype: torch.dtype) -> float:
    """The squared length under which a sum of unit vectors of ``dtype`` is but their rounding.

    eps^1.25: a length of 1.6e-10 in float64 and of 4.7e-5 in float32.
    """
    return float(torch.finfo(dtype).eps ** 1.25)


def inverse_length(sq_length: Tensor, least: Tensor | float) -> Tensor:
    """``1 / sqrt(sq_length)``, and 0 where that is at most ``least``."""
    return torch.where(sq_length > least, sq_length.clamp(min=least).rsqrt(), 0)


def lengths_of(sq_sum: Tensor, sq_difference: Tensor, least: float) -> Tensor:
    """``per`` of :class:`Cones` from the squares of p0 + p1 and p1 - p0; no sum below ``least``."""
    # The weight on a sum has no bound, so its length must be known; that on a difference has.
    rounding = torch.finfo(sq_sum.dtype).eps ** 2
    return torch.stack([inverse_length(sq_sum, least), inverse_length(sq_difference, rounding)])


def cones_of(sq_sum: Tensor, sq_difference: Tensor, inner: Tensor, least: float) -> Cones:
    """The cones of arcs between unit vectors or zero rows.

    A zero row has no direction, and opposite ends have no arc: such a curve is its two ends.

    Args:
        sq_sum: (...) square of p0 + p1.
        sq_difference: (...) square of p1 - p0.
        inner: (...) their product, ``|p1|^2 - |p0|^2``.
        least: the square under which a sum is rounding.
    """
    per = lengths_of(sq_sum, sq_difference, least)
    per_sum = torch.where(inner.abs() < 0.5, per[0], 0)
    half = torch.atan2(per[1] * sq_difference, per_sum * sq_sum)
    lean = torch.where(per_sum > 0, 0, inner / 2 * per[1])
    return Cones(torch.stack([per_sum, per[1]]), half, inner * per_sum**2, lean)


def angle_of(x: Tensor, y: Tensor) -> Tensor:
    """The angle of the vector (x, y) to the first axis, in (-pi, pi]; pi for (0, 0).

    Two opposite endpoints have no middle: both products of a point with their frame's first axis
    are then 0, and where the second is 0 too, atan2 would answer 0, the middle that is not there.
    The angle pi lies outside of every cone, so its clamp to the cone is an end of the arc.
    """
    return torch.atan2(y, x - torch.finfo(x.dtype).tiny)


def on_frame(products: Tensor, cones: Cones) -> tuple[Tensor, Tensor]:
    """The products of points with e and f, from those (2, ...) with p0 + p1 and p1 - p0."""
    of_sum, of_difference = products
    return of_sum * cones.per[0], (of_difference - cones.skew * of_sum) * cones.per[1]


def frame_products(products: Tensor, p: Cones, q: Cones) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The entries of M, row by row, from the ``products`` of :func:`candidates`."""
    x, y = on_frame(products.transpose(0, 1), q)  # (2, ...) of p's sum and difference
    (xx, yx), (xy, yy) = on_frame(x, p), on_frame(y, p)
    return xx, xy, yx, yy


def answer(x: Tensor, y: Tensor, cones: Cones) -> Tensor:
    """The angle at which an arc comes nearest to a point whose products with its frame are x, y.

    The best answer of a cone to a vector is the vector's angle, clamped to the cone.
    """
    return angle_of(x, y - cones.lean).clamp(-cones.half, cones.half)


def candidates(products: Tensor, p: Cones, q: Cones) -> tuple[Tensor, Tensor]:
    """Five pairs of angles, one of which is where two arcs come nearest: (5, ...) of p and of q.

    Args:
        products: (2, 2, ...) of p0 + p1 and p1 - p0 with q0 + q1 and q1 - q0.
        p: of the first arcs.
        q: of the second arcs.
    """
    at_p, at_q = (
        torch.stack([total + difference, total - difference], 1) / 2  # (2, 2, ...), end by end
        for total, difference in (products, products.transpose(0, 1))
    )
    to_p, to_q = answer(*on_frame(at_p, q), q), answer(*on_frame(at_q, p), p)
    xx, xy, yx, yy = frame_products(products, p, q)
    # The top left singular vector is the half angle of M M^T.
    a = angle_of(xx * xx + xy * xy - yx * yx - yy * yy, 2 * (xx * yx + xy * yy)) / 2
    a = a.clamp(-p.half, p.half)
    b = answer(xx * a.cos() + yx * a.sin(), xy * a.cos() + yy * a.sin(), q)
    p_end, q_end = p.half.expand_as(a), q.half.expand_as(a)
    return torch.stack([p_end, -p_end, *to_q, a]), torch.stack([*to_p, q_end, -q_end, b])


def fraction_of(angle: Tensor, half: Tensor) -> Tensor:
    """The fraction of an arc at an angle from its middle; 0 on a point."""
    return torch.where(half > 0, (angle / half + 1) / 2, 0)


def weights_at(angle: Tensor, cones: Cones) -> Tensor:
    """The weights (2, ...) of p0 + p1 and p1 - p0 in the point at an angle from the middle.

    Their difference and their sum are the weights of p0 and p1. At an end of the arc, and within
    rounding of it, these are 0 and 1 exactly: beside a zero row the rounding would be all there is.
    """
    middle, along = cones.per[0] * angle.cos(), cones.per[1] * angle.sin()
    rounding = 8 * torch.finfo(angle.dtype).eps
    at_start = (angle <= -cones.half) | (middle + along <= rounding * (middle - along))
    at_end = (angle >= cones.half) | (middle - along <= rounding * (middle + along))
    middle = torch.where(at_start | at_end, 0.5, middle)
    # A point is its start.
    along = torch.where(at_start, -0.5, torch.where(at_end, 0.5, along))
    return torch.stack([middle, along])


def choose(value: Tensor, size: Tensor | float, *options: Tensor) -> list[Tensor]:
    """Of each of ``options`` (5, ...) what has the least ``value`` (5, ...).

    An end of an arc is exact, the singular vector is rounded: it has to be better by more than the
    rounding of numbers of this ``size``.
    """
    rounding = 2 * torch.finfo(value.dtype).eps * size
    best = torch.cat([value[:4], value[4:] + rounding]).argmin(0, keepdim=True)
    return [x.gather(0, best).squeeze(0) for x in options]
