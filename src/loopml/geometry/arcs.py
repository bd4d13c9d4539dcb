r"""The minimum chord distance between two great-circle arcs.

Where they come nearest is solved in closed form, in ``cones``; here are the vectors that go in and
the points that come out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loopml._checks import check_endpoints, check_nonzero
from loopml._types import Closest
from loopml.geometry.cones import (
    candidates,
    choose,
    cones_of,
    fraction_of,
    least_square,
    weights_at,
)
from loopml.geometry.lengths import direction_of, distance_between, normalized, power_of_two
from loopml.geometry.packing import by_curve, mixed, narrowed, stacked, wide


def sum_and_difference(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """``unit(start) + unit(end)`` and ``unit(end) - unit(start)`` of directions (..., d)."""
    first, last = normalized(start), normalized(end)
    total, difference = first + last, last - first
    return total + rounding_of_sum(start, end, total, difference), difference


@torch.no_grad()
def rounding_of_sum(start: Tensor, end: Tensor, total: Tensor, difference: Tensor) -> Tensor:
    """What is missing in the sum of two nearly opposite unit vectors, and 0 for any others.

    The rounding of unit vectors, 1e-16, turns a sum of length 1e-9 by 1e-7. The sum is a multiple
    of ``start + r end`` with r the ratio of their lengths, less what is along the difference, which
    it is orthogonal to. That takes away an error of r, so r may have few digits, and its products
    with both halves of the digits of ``end`` are exact.
    """
    first, last = (x / power_of_two(x) for x in (start, end))
    length = first.norm(dim=-1, keepdim=True)
    ratio = (length / last.norm(dim=-1, keepdim=True)).float().to(last.dtype)
    high = last.float().to(last.dtype)
    exact = (first + ratio * high) + ratio * (last - high)
    along = normalized(difference)
    exact = exact - (exact * along).sum(-1, keepdim=True) * along
    # Its direction alone: how long the sum is, the error of r changes and rounding hardly does.
    exact = normalized(exact) * total.norm(dim=-1, keepdim=True)
    opposite = difference.square().sum(-1, keepdim=True) > 3.75
    return torch.where(opposite, exact - total, 0)


def products_of(vectors: Tensor) -> Tensor:
    """The inner products of vectors (..., 4, d) in float64: (..., 4, 4).

    In float32 the products of curves that nearly touch would all be the same.
    """
    vectors = wide(vectors)
    return vectors @ vectors.mT


@torch.no_grad()
def nearest_on_arcs(vectors: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where two arcs come nearest to each other.

    Args:
        vectors: (..., 4, d) p0 + p1, p1 - p0, q0 + q1, q1 - q0 of unit endpoints and zero rows.
            Sums and differences taken first keep the digits of near endpoints.
        least: squared length of a sum under which the endpoints are opposite.

    Returns:
        Half of the angle of both arcs (2, ...), the angles of the nearest points from their middles
        (2, ...), and the weights (..., 4) of ``vectors`` in those points.
    """
    products = products_of(vectors).movedim((-2, -1), (0, 1))  # (4, 4, ...)
    p, q = (
        cones_of(products[i, i], products[i + 1, i + 1], products[i, i + 1], least) for i in (0, 2)
    )
    a, b = candidates(products[:2, 2:], p, q)
    weights = torch.cat([weights_at(a, p), weights_at(b, q)])  # (4, 5, ...)
    # A cosine tells chords apart to 1.5e-8, a difference to 1e-16.
    signed = torch.cat([weights[:2], -weights[2:]]).movedim((1, 0), (-2, -1))  # (..., 5, 4)
    distance = (signed @ vectors).norm(dim=-1).movedim(-1, 0)
    a, b, *chosen = choose(distance, 1, a, b, *weights)
    return torch.stack([p.half, q.half]), torch.stack([a, b]), torch.stack(chosen, -1)


def arc_weights(endpoints: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where two arcs come nearest to each other, as weights of their endpoints.

    A curve with a zero row has no arc between its ends and is these two. Nearness is Euclidean: a
    zero row is at distance 1 of each unit vector, and at 0 of another zero row.

    Args:
        endpoints: (..., 4, d) p0, p1, q0, q1 in float64: unit vectors or zero rows.
        least: squared length of a sum under which the endpoints are opposite.

    Returns:
        Half of the angle of both arcs (2, ...), the angles of the nearest points from their middles
        (2, ...), and the weights (..., 4) of the endpoints in those points: exactly 0 and 1 at an
        end of an arc.
    """
    start, end = by_curve(endpoints).unbind(-2)  # (..., 2, d) each
    vectors = torch.stack([start + end, end - start], -2).flatten(-3, -2)
    half, angles, weights = nearest_on_arcs(vectors, least)
    middle, along = weights[..., 0::2], weights[..., 1::2]  # (..., 2) each
    return half, angles, torch.stack([middle - along, middle + along], -1).flatten(-2)


def kept_unit(x: Tensor) -> Tensor:
    """``x``, unit vectors, over their lengths, so that the gradient is tangential to the sphere.

    Where a row of the caller's is zero, and so is ``x``, it stays zero.
    """
    return direction_of(x, torch.finfo(x.dtype).tiny)


def measure_arcs(endpoints: Tensor) -> Closest:
    """``closest_on_arcs`` without checks, on directions (..., 4, d) in their own dtype."""
    vectors = torch.stack(sum_and_difference(*by_curve(endpoints).unbind(-2)), -2).flatten(-3, -2)
    half, angles, weights = nearest_on_arcs(vectors, least_square(endpoints.dtype))
    s, t = fraction_of(angles, half)
    point_p, point_q = kept_unit(mixed(weights, vectors)).unbind(-2)
    return Closest(s, t, point_p, point_q, distance_between(point_p, point_q, sq_size=1))


def check_directions(points: dict[str, Tensor], ndim: int | None = None) -> None:
    """Raise unless the named endpoints are directions that fit each other."""
    check_endpoints(points, ndim)
    for name, x in points.items():
        check_nonzero(name, x)


def closest_on_arcs(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Closest:
    r"""The nearest points of the great-circle arcs from ``p0`` to ``p1`` and ``q0`` to ``q1``.

    .. math:: \min_{s, t \in [0, 1]} \lVert \gamma_p(s) - \gamma_q(t) \rVert,
        \quad \gamma_p(s) = \frac{\sin((1-s)\omega)\, p_0 + \sin(s\omega)\, p_1}{\sin\omega}

    Here :math:`p_0` and :math:`p_1` are the ends divided by their lengths, and :math:`\omega` is
    the angle between them. The curve :math:`\gamma_q` is the same for ``q0`` and ``q1``.

    Args:
        p0: (..., d) start of the first arc. It is a direction: its length does not matter. Leading
            axes broadcast over all four arguments.
        p1: (..., d) end of the first arc.
        q0: (..., d) start of the second arc.
        q1: (..., d) end of the second arc.

    Returns:
        A :class:`~loopml.geometry.Closest` with the fractions ``s`` and ``t`` (...) of the arcs'
        angles, the two points (..., d), which are unit vectors, and their Euclidean distance (...).
        Two points at an angle :math:`\gamma` are :math:`2 \sin(\gamma / 2)` apart.

        - Equal ends: the arc is a point, and its fraction is 0.
        - Opposite ends (their unit vectors have a sum shorter than 1.6e-10): there is no unique
          arc. The curve is the two ends alone, which all arcs between them share.

    Raises:
        TypeError: an argument is no floating point tensor, or the dtypes differ.
        ValueError: the shapes do not fit, a vector is zero, or a value is NaN or infinite. Values
            are checked on the CPU. Elsewhere they are checked with ``LOOPML_CHECK_VALUES=1``.

    Gradient:
        The gradient of the minimum: the weights of the ends in both points are constants. It goes
        through the division by the lengths, so it is tangential to the sphere.

        - Arcs that touch: distance 0, gradient 0.
        - Several nearest pairs of points, as on arcs of one great circle: the gradient at the pair
          that is returned.
        - Equal ends: all of the gradient goes to the first of the two, ``p0`` or ``q0``.
        - Opposite ends: all of the gradient goes to the end that is nearer to the other curve.

    Precision:
        Computed in float64 and returned in the dtype of the arguments.

        - float64: the error is 1e-15 over the angle between the two great circles, and 1e-8 at
          most.
        - float64, ends that are opposite but for a gap (down to 1.6e-10): another 1e-23 over the
          gap.
        - Arcs nearer than 1.8e-12 touch: their distance is 0.
        - float32, float16 and bfloat16: one rounding more.

    Source:
        LoOp (Vasudeva et al., ICCV 2021), section 3.2. The closed form here is our own. It needs
        none of the paper's case analysis.

    Example:
        >>> import torch
        >>> x, y, z = torch.eye(3)
        >>> s, t, point_p, point_q, distance = closest_on_arcs(x + y, x - y, x + z, z)
        >>> round(s.item(), 6), round(t.item(), 6), round(distance.item(), 6)
        (0.5, 0.0, 0.765367)
    """
    check_directions({"p0": p0, "p1": p1, "q0": q0, "q1": q1})
    return narrowed(measure_arcs(wide(stacked(p0, p1, q0, q1))), p0.dtype)


def arc_distance(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    """The minimum Euclidean distance of two great-circle arcs: ``closest_on_arcs(...).distance``.

    Args:
        p0: (..., d) start of the first arc. It is a direction: its length does not matter. Leading
            axes broadcast over all four arguments.
        p1: (..., d) end of the first arc.
        q0: (..., d) start of the second arc.
        q1: (..., d) end of the second arc.

    Returns:
        (...) distances in [0, 2], differentiable.

    Raises:
        TypeError: as :func:`closest_on_arcs`.
        ValueError: as :func:`closest_on_arcs`.

    Gradient:
        As :func:`closest_on_arcs`.

    Precision:
        As :func:`closest_on_arcs`.

    Source:
        As :func:`closest_on_arcs`.

    Example:
        >>> import torch
        >>> x, y, z = torch.eye(3)
        >>> round(arc_distance(x, y, z, z).item(), 6)
        1.414214
    """
    return closest_on_arcs(p0, p1, q0, q1).distance
