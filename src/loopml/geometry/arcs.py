r"""The minimum chord distance between two great-circle arcs, in closed form.

Each arc is an angle on either side of its middle: with ``e = unit(p0 + p1)`` and
``f = unit(p1 - p0)``, which are orthogonal for unit endpoints, its points are
``cos(a) e + sin(a) f`` for ``|a| <= h``. The inner product of a point of each arc is then
``x^T M y`` with M the 2 x 2 matrix of frame products, and x and y unit vectors in two cones about
the first axis. Its largest value lies at the top singular pair of M if both vectors are in their
cones, and else on one of the four edges of the box, where one of the vectors is at an end of its
cone and the other answers it best. There is no other case.

So five candidates are compared, each of them feasible by construction: the top left singular vector
and both ends of either cone, each with the best answer of the other arc. Since none of them can
score better than the truth, rounding can only lose the last digits, never invent a nearer point.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from loopml._checks import check_endpoints, check_nonzero
from loopml._types import Closest
from loopml.geometry.evaluate import (
    by_curve,
    distance_between,
    mixed,
    narrowed,
    normalized,
    stacked,
    wide,
)
from loopml.geometry.lengths import direction_of


class Cone(NamedTuple):
    """An arc in its own frame: unit vectors (x, y) with ``|y| cos_half <= x sin_half``."""

    cos_half: Tensor
    sin_half: Tensor

    def half(self) -> Tensor:
        """Half of the arc's angle, in radians."""
        return torch.atan2(self.sin_half, self.cos_half)


class Span(NamedTuple):
    """An arc without its vectors: its cone, and the scales of its frame."""

    cone: Cone
    per_middle: Tensor  # 1 / |p0 + p1|, 0 where the endpoints are opposite
    per_along: Tensor  # 1 / |p1 - p0|, 0 where they coincide


def solve_cones(
    xx: Tensor, xy: Tensor, yx: Tensor, yy: Tensor, p_half: Tensor, q_half: Tensor
) -> tuple[Tensor, Tensor]:
    """The angles of unit vectors of two cones that maximise ``x^T [[xx, xy], [yx, yy]] y``.

    The best answer of a cone to a vector is the vector's angle, clamped to the cone.
    """
    p_half, q_cos, q_sin = p_half.expand_as(xx), q_half.cos(), q_half.sin()
    # On the arc of p: both ends, the answers to both ends of q, and the top left singular vector,
    # which is the half angle of M M^T.
    x_mid, x_side, y_mid, y_side = xx * q_cos, xy * q_sin, yx * q_cos, yy * q_sin
    to_last = angle_of(x_mid + x_side, y_mid + y_side)
    to_first = angle_of(x_mid - x_side, y_mid - y_side)
    cosine = (xx * xx + xy * xy) - (yx * yx + yy * yy)
    singular = angle_of(cosine, 2 * (xx * yx + xy * yy)) / 2
    a = torch.stack([p_half, -p_half, to_last, to_first, singular])  # (5, ...)
    a = torch.clamp(a, -p_half, p_half)
    # The answer of q to each.
    a_cos, a_sin = a.cos(), a.sin()
    x, y = xx * a_cos + yx * a_sin, xy * a_cos + yy * a_sin
    b = torch.clamp(angle_of(x, y), -q_half, q_half)
    value = x * b.cos() + y * b.sin()
    # An end of an arc is exact, the singular vector is rounded: it has to be better by more.
    value[-1] -= 2 * torch.finfo(value.dtype).eps
    best = value.argmax(0, keepdim=True)
    return a.gather(0, best)[0], b.gather(0, best)[0]


def angle_of(x: Tensor, y: Tensor) -> Tensor:
    """The angle of (x, y); that of (0, 0) is pi, so that its answer is an end of the cone.

    The frame of opposite endpoints has no middle, and an angle between its ends is no point.
    """
    return torch.atan2(y, x - torch.finfo(x.dtype).tiny)


def fraction_of(angle: Tensor, half: Tensor) -> Tensor:
    """The fraction of an arc at an angle from its middle; 0 on a point."""
    return torch.where(half > 0, (angle / half + 1) / 2, 0)


def least_square(dtype: torch.dtype) -> float:
    """The squared length under which a sum of unit vectors of ``dtype`` is but their rounding.

    eps^1.25: a length of 1.6e-10 in float64 and of 4.7e-5 in float32.
    """
    return float(torch.finfo(dtype).eps ** 1.25)


def inverse_length(sq_length: Tensor, least: Tensor | float) -> Tensor:
    """``1 / sqrt(sq_length)``, and 0 where that is at most ``least``."""
    return torch.where(sq_length > least, sq_length.clamp(min=least).rsqrt(), 0)


def span(sq_middle: Tensor, sq_along: Tensor, least: float) -> Span:
    """The span of an arc, from ``|p0 + p1|^2`` and ``|p1 - p0|^2``, which are 0 up to ``least``.

    The same endpoints make a point, a cone without width. Opposite ones have no unique arc: their
    middle counts as zero, which leaves the two endpoints alone.
    """
    per_middle, per_along = inverse_length(sq_middle, least), inverse_length(sq_along, least)
    return Span(Cone(per_middle * sq_middle / 2, per_along * sq_along / 2), per_middle, per_along)


def middles_and_differences(ends: Tensor) -> Tensor:
    """p0 + p1, p1 - p0, q0 + q1, q1 - q0 from the endpoints p0, p1, q0, q1: (..., 4, d)."""
    start, end = by_curve(ends).unbind(-2)  # (..., 2, d) each
    return torch.stack([start + end, end - start], -2).flatten(-3, -2)


@torch.no_grad()
def nearest_on_arcs(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fractions (s, t) of the nearest points of two arcs, and their weights on ``vectors``.

    Args:
        vectors: (..., 4, d) the sums and differences of unit endpoints. Taking these before
            products keeps the digits of near endpoints.

    Returns:
        s (...), t (...) and weights (..., 4).
    """
    products = wide(vectors @ vectors.mT)  # (..., 4, 4)
    sq = products.diagonal(dim1=-2, dim2=-1)  # (..., 4)
    # The weight on a middle has no bound, so its length must be known; that on a difference has.
    middle, along = least_square(vectors.dtype), least_square(sq.dtype)
    per = inverse_length(sq, sq.new_tensor([middle, along, middle, along]))
    lengths = per * sq / 2  # (..., 4) cosine and sine of half of each arc
    half = torch.atan2(lengths[..., 1::2], lengths[..., 0::2])  # (..., 2)
    matrix = per[..., :2].unsqueeze(-1) * products[..., :2, 2:] * per[..., 2:].unsqueeze(-2)
    xx, xy, yx, yy = matrix.flatten(-2).unbind(-1)
    angles = torch.stack(solve_cones(xx, xy, yx, yy, *half.unbind(-1)), -1)  # (..., 2)
    weights = per * torch.stack([angles.cos(), angles.sin()], -1).flatten(-2)
    s, t = fraction_of(angles, half).to(vectors.dtype).unbind(-1)
    return s, t, weights.to(vectors.dtype)


def kept_unit(x: Tensor) -> Tensor:
    """``x``, unit vectors, over their lengths: the gradient is that of a point on the sphere.

    Where a row of the caller's is zero, and so is ``x``, it stays zero.
    """
    return direction_of(x, torch.finfo(x.dtype).tiny)


def measure_arcs(ends: Tensor) -> Closest:
    """``closest_on_arcs`` without checks, on unit vectors (..., 4, d) in their own dtype."""
    vectors = middles_and_differences(ends)
    s, t, weights = nearest_on_arcs(vectors)
    point_p, point_q = kept_unit(mixed(weights, vectors)).unbind(-2)
    return Closest(s, t, point_p, point_q, distance_between(point_p, point_q, sq_size=1))


def weights_of_ends(weights: Tensor) -> Tensor:
    """Weights (..., 4) on p0 + p1, p1 - p0, q0 + q1, q1 - q0 as weights on p0, p1, q0, q1."""
    middle, along = weights[..., 0::2], weights[..., 1::2]  # (..., 2)
    return torch.stack([middle - along, middle + along], -1).flatten(-2)


def directions(**points: Tensor) -> tuple[Tensor, ...]:
    """The named tensors as float64 unit vectors."""
    check_endpoints(points)
    for name, x in points.items():
        check_nonzero(name, x)
    return tuple(normalized(wide(x)) for x in points.values())


def closest_on_arcs(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Closest:
    r"""The nearest points of the great-circle arcs from ``p0`` to ``p1`` and ``q0`` to ``q1``.

    .. math:: \min_{s, t \in [0, 1]} \lVert \gamma_p(s) - \gamma_q(t) \rVert,
        \quad \gamma_p(s) = \frac{\sin((1-s)\theta)\, p_0 + \sin(s\theta)\, p_1}{\sin\theta}

    Args:
        p0: (..., d) start of the first arc, a direction: it is divided by its length. Leading axes
            broadcast over all four arguments.
        p1: (..., d) its end. Equal to ``p0`` the arc is a point. Opposite to ``p0`` (within
            1.6e-10) there is no unique arc, and the curve is the two endpoints alone, which all
            arcs between them share.
        q0: (..., d) start of the second arc.
        q1: (..., d) its end.

    Returns:
        :class:`~loopml._types.Closest` with fractions ``s``, ``t`` of the arcs' angles (...), unit
        points (..., d) and their chord distance (...), which is Euclidean: an angle g apart is a
        distance ``2 sin(g / 2)``.

    Raises:
        TypeError: an argument is no floating point tensor, or the dtypes differ.
        ValueError: the shapes do not fit, a vector is zero, or a value is NaN or infinite (values
            are checked on the CPU only unless ``LOOPML_CHECK_VALUES=1``).

    Gradient:
        The envelope form, through the normalisation of the endpoints, so it is tangential. Arcs
        that touch have distance 0 and gradient 0. Where the minimiser is not unique (arcs of one
        great circle, say) it is the gradient at the one returned.

    Precision:
        Computed in float64 and returned in the dtype of the arguments; 1e-7 absolute in float64,
        one rounding in float32, float16 and bfloat16.

    Source:
        LoOp (Vasudeva et al., ICCV 2021), section 3.2; the closed form here is our own and needs
        none of the paper's case analysis.

    Example:
        >>> import torch
        >>> x, y, z = torch.eye(3)
        >>> s, t, point_p, point_q, distance = closest_on_arcs(x + y, x - y, x + z, z)
        >>> round(s.item(), 6), round(t.item(), 6), round(distance.item(), 6)
        (0.5, 0.0, 0.765367)
    """
    return narrowed(measure_arcs(stacked(*directions(p0=p0, p1=p1, q0=q0, q1=q1))), p0.dtype)


def arc_distance(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    """The minimum chord distance between two great-circle arcs: ``closest_on_arcs(...).distance``.

    Args:
        p0: (..., d) start of the first arc, a direction; leading axes broadcast.
        p1: (..., d) its end.
        q0: (..., d) start of the second arc.
        q1: (..., d) its end.

    Returns:
        (...) distances in [0, 2], differentiable; errors, gradient, precision and source as
        :func:`closest_on_arcs`.

    Example:
        >>> import torch
        >>> x, y, z = torch.eye(3)
        >>> round(arc_distance(x, y, z, z).item(), 6)
        1.414214
    """
    return closest_on_arcs(p0, p1, q0, q1).distance
