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


def angle_of(x: Tensor, y: Tensor) -> Tensor:
    """The angle of (x, y); that of (0, 0) is pi, so that its answer is an end of the arc.

    The frame of opposite endpoints has no middle, and an angle between its ends is no point.
    """
    return torch.atan2(y, x - torch.finfo(x.dtype).tiny)


def solve_cones(matrix: Tensor, p_half: Tensor, q_half: Tensor) -> Tensor:
    """The angles of unit vectors of two cones that maximise ``x^T M y``.

    The best answer of a cone to a vector is the vector's angle, clamped to the cone.

    Args:
        matrix: (2, 2, ...) M.
        p_half: (...) half of the cone of x, to broadcast.
        q_half: (...) half of the cone of y, to broadcast.

    Returns:
        (2, ...) angles from the first axis.
    """
    # On the arc of p: both ends, the answers to both ends of q, and the top left singular vector,
    # which is the half angle of M M^T.
    middle, side = matrix[:, 0] * q_half.cos(), matrix[:, 1] * q_half.sin()  # (2, ...)
    last, first = middle + side, middle - side
    sq = (matrix * matrix).sum(1)
    double = torch.stack([sq[0] - sq[1], 2 * (matrix[0] * matrix[1]).sum(0)])
    answers = angle_of(*torch.stack([last, first, double], 1))  # (3, ...)
    answers[2] /= 2
    limit = p_half.expand_as(answers[0])
    a = torch.cat([torch.stack([limit, -limit]), answers]).clamp(-limit, limit)  # (5, ...)
    # The answer of q to each.
    x, y = matrix[0].unsqueeze(1) * a.cos() + matrix[1].unsqueeze(1) * a.sin()
    b = angle_of(x, y).clamp(-q_half, q_half)
    value = x * b.cos() + y * b.sin()
    # An end of an arc is exact, the singular vector is rounded: it has to be better by more.
    value[4] -= 2 * torch.finfo(value.dtype).eps
    best = value.argmax(0, keepdim=True)
    return torch.cat([a.gather(0, best), b.gather(0, best)])


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


def middles_and_differences(ends: Tensor) -> Tensor:
    """p0 + p1, p1 - p0, q0 + q1, q1 - q0 from the endpoints p0, p1, q0, q1: (..., 4, d)."""
    start, end = by_curve(ends).unbind(-2)  # (..., 2, d) each
    return torch.stack([start + end, end - start], -2).flatten(-3, -2)


def products_of(vectors: Tensor) -> Tensor:
    """The inner products of vectors (..., 4, d) in float64: (..., 4, 4).

    In float32 those of curves that nearly touch would all be the same.
    """
    vectors = wide(vectors)
    return vectors @ vectors.mT


@torch.no_grad()
def nearest_on_arcs(products: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where two arcs come nearest to each other.

    Args:
        products: (..., 4, 4) inner products of p0 + p1, p1 - p0, q0 + q1 and q1 - q0, of unit
            endpoints. Sums and differences taken first keep the digits of near endpoints.
        least: squared length of a sum under which the endpoints are opposite.

    Returns:
        Half of the angle of both arcs (2, ...), the angles of the nearest points from their middles
        (2, ...), and the weights (2, 2, ...) of the sums and of the differences in them.
    """
    products = products.movedim((-2, -1), (0, 1))  # (4, 4, ...)
    sq = products.diagonal().movedim(-1, 0)  # (4, ...)
    # The weight on a middle has no bound, so its length must be known; that on a difference has.
    per = torch.cat(
        [inverse_length(sq[0::2], least), inverse_length(sq[1::2], least_square(sq.dtype))]
    )
    half = torch.atan2(per[2:] * sq[1::2], per[:2] * sq[0::2])  # (2, ...) of p and q
    per_p, per_q = per[0::2], per[1::2]  # of the middle and the difference
    matrix = per_p.unsqueeze(1) * products[:2, 2:] * per_q
    angles = solve_cones(matrix, *half)
    weights = per.view(2, 2, *half.shape[1:]) * torch.stack([angles.cos(), angles.sin()])
    return half, angles, weights


def arc_weights(ends: Tensor, least: float) -> Tensor:
    """The weights of the endpoints p0, p1, q0, q1 in the nearest points of two arcs: (..., 4).

    At an end of an arc they are exactly 1 and 0: rounding in place of the 0 would be a point of its
    own where the other weight is on a vector of length 0.

    Args:
        ends: (..., 4, d) float64 unit vectors.
        least: squared length of a sum under which the endpoints are opposite.
    """
    vectors = middles_and_differences(ends)
    half, angles, (middle, along) = nearest_on_arcs(products_of(vectors), least)
    at_end = torch.where(angles.abs() >= half, angles.sign(), 0)
    # On a point, of which both ends are one, the first.
    start = torch.where((at_end < 0) | (half == 0), 1, torch.where(at_end > 0, 0, middle - along))
    end = torch.where((at_end < 0) | (half == 0), 0, torch.where(at_end > 0, 1, middle + along))
    return torch.stack([start, end], -1).movedim(0, -2).flatten(-2)


def kept_unit(x: Tensor) -> Tensor:
    """``x``, unit vectors, over their lengths: the gradient is that of a point on the sphere.

    Where a row of the caller's is zero, and so is ``x``, it stays zero.
    """
    return direction_of(x, torch.finfo(x.dtype).tiny)


def measure_arcs(ends: Tensor) -> Closest:
    """``closest_on_arcs`` without checks, on unit vectors (..., 4, d) in their own dtype."""
    vectors = middles_and_differences(ends)
    half, angles, weights = nearest_on_arcs(products_of(vectors), least_square(ends.dtype))
    s, t = fraction_of(angles, half).to(ends.dtype)
    on_vectors = weights.transpose(0, 1).flatten(0, 1).movedim(0, -1).to(ends.dtype)
    point_p, point_q = kept_unit(mixed(on_vectors, vectors)).unbind(-2)
    return Closest(s, t, point_p, point_q, distance_between(point_p, point_q, sq_size=1))


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
        :class:`~loopml.geometry.Closest` with fractions ``s``, ``t`` of the arcs' angles (...),
        unit points (..., d) and their chord distance (...), which is Euclidean: an angle g apart
        is a distance ``2 sin(g / 2)``.

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
