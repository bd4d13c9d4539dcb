"""All curves of one set against all of another, measured and differentiable.

The (p, q) distances come from inner products of endpoints in float64, so nothing has the shape
(p, q, d), and blocks of rows bound the (p, q) temporaries.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from loopml._checks import check_endpoints, check_same_length
from loopml.geometry.arcs import (
    directions,
    fraction_of,
    inverse_length,
    least_square,
    solve_cones,
)
from loopml.geometry.evaluate import wide
from loopml.geometry.segments import Products, length_and_direction, solve_box

# Entries of one (rows, q) temporary; a few dozen of them live at once.
_BLOCK = 1 << 18


def pairwise_segment_distance(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    """The minimum distance between each of p segments and each of q segments.

    Args:
        p0: (p, d) starts of the first segments.
        p1: (p, d) their ends.
        q0: (q, d) starts of the second segments.
        q1: (q, d) their ends.

    Returns:
        (p, q) Euclidean distances, differentiable, in the dtype of the arguments.

    Raises:
        TypeError: an argument is no floating point tensor, or the dtypes differ.
        ValueError: the shapes do not fit, or a value is NaN or infinite.

    Gradient:
        The envelope form of :func:`closest_on_segments`; 0 where the distance is within rounding
        (1.2e-7 of the size of the centred points) of 0.

    Precision:
        Inner products in float64: 1e-7 of the size of the centred points. For the last digits of
        a small distance use :func:`segment_distance`.

    Source:
        As :func:`closest_on_segments`.

    Example:
        >>> import torch
        >>> p0, p1 = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
        >>> q0, q1 = torch.tensor([[0.5, 2.0], [4.0, 0.0]]), torch.tensor([[0.5, 3.0], [5.0, 0.0]])
        >>> pairwise_segment_distance(p0, p1, q0, q1).round(decimals=6)
        tensor([[2., 3.]])
    """
    _check_sets(p0, p1, q0, q1)
    points = [wide(x) for x in (p0, p1, q0, q1)]
    # Distances do not change, and the rounding of inner products shrinks to the spread.
    center = torch.cat(points).detach().mean(0) if len(p0) + len(q0) else 0
    return _in_blocks(_all_segments, *(x - center for x in points)).to(p0.dtype)


def pairwise_arc_distance(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    """The minimum chord distance between each of p great-circle arcs and each of q arcs.

    Args:
        p0: (p, d) starts of the first arcs, as directions: they are divided by their lengths.
        p1: (p, d) their ends.
        q0: (q, d) starts of the second arcs.
        q1: (q, d) their ends.

    Returns:
        (p, q) distances in [0, 2], differentiable, in the dtype of the arguments.

    Raises:
        TypeError: an argument is no floating point tensor, or the dtypes differ.
        ValueError: the shapes do not fit, a vector is zero, or a value is NaN or infinite.

    Gradient:
        The envelope form of :func:`closest_on_arcs`; 0 where the distance is under 1.2e-7, which
        is rounding.

    Precision:
        Inner products in float64: 1e-7 absolute. For the last digits of a small distance use
        :func:`arc_distance`.

    Source:
        As :func:`closest_on_arcs`.

    Example:
        >>> import torch
        >>> x, y, z = torch.eye(3).split(1)
        >>> pairwise_arc_distance(x, y, torch.cat([z, x + z]), torch.cat([z, x - z]))
        tensor([[1.4142, 0.0000]])
    """
    _check_sets(p0, p1, q0, q1)
    return _in_blocks(_all_arcs, *directions(p0=p0, p1=p1, q0=q0, q1=q1)).to(p0.dtype)


def _check_sets(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> None:
    check_endpoints({"p0": p0, "p1": p1, "q0": q0, "q1": q1}, ndim=2)
    check_same_length({"p0": p0, "p1": p1})
    check_same_length({"q0": q0, "q1": q1})


def _in_blocks(
    measure: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    p0: Tensor,
    p1: Tensor,
    q0: Tensor,
    q1: Tensor,
) -> Tensor:
    rows = max(1, _BLOCK // max(1, len(q0)))
    blocks = zip(torch.split(p0, rows), torch.split(p1, rows), strict=True)
    return torch.cat([measure(block0, block1, q0, q1) for block0, block1 in blocks])


def _all_segments(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    with torch.no_grad():
        p_length, u = length_and_direction(p0, p1)
        q_length, v = length_and_direction(q0, q1)
        uv = u @ v.T
        ur = (u * p0).sum(1, keepdim=True) - u @ q0.T
        vr = p0 @ v.T - (v * q0).sum(1)
        # |u|^2 is 1, but 0 on a segment without length.
        ww = (p_length > 0).to(uv.dtype).unsqueeze(1) - uv * uv
        s, t = solve_box(
            Products(uv, ur, vr, ww, ur - uv * vr),
            p_length.unsqueeze(1).expand_as(uv),
            q_length.expand_as(uv),
        )
    sq_p = _sq_on_segment(s, p0, p1, (-1, 1))
    sq_q = _sq_on_segment(t, q0, q1, (1, -1))
    inner = (1 - s) * ((1 - t) * (p0 @ q0.T) + t * (p0 @ q1.T))
    inner = inner + s * ((1 - t) * (p1 @ q0.T) + t * (p1 @ q1.T))
    p_size, q_size = (
        torch.stack(ends).detach().square().sum(-1).amax(0) for ends in ((p0, p1), (q0, q1))
    )
    return _distance(sq_p + sq_q - 2 * inner, torch.maximum(p_size.unsqueeze(1), q_size))


def _sq_on_segment(s: Tensor, p0: Tensor, p1: Tensor, shape: tuple[int, int]) -> Tensor:
    """Squares of the points at ``s`` (p, q), where ``shape`` is (p, 1) or (1, q)."""
    sq0, dot, sq1 = ((a * b).sum(1).view(shape) for a, b in ((p0, p0), (p0, p1), (p1, p1)))
    return (1 - s) ** 2 * sq0 + 2 * s * (1 - s) * dot + s**2 * sq1


def _all_arcs(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    inner = arc_cosines(p0, p1, q0, q1)
    return _distance(2 - 2 * inner, torch.ones_like(inner))


def arc_cosines(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    """The largest inner product of a point on each of p arcs with one on each of q: (p, q).

    Takes float64 unit vectors (p, d) and (q, d) as they are, and stores (p, q) temporaries.
    """
    p_half, p_middle, p_along, p_skew = _frame(p0, p1)
    q_half, q_middle, q_along, q_skew = _frame(q0, q1)
    p_half = p_half.unsqueeze(1)
    xx, xy = p_middle @ q_middle.T, p_middle @ q_along.T  # (p, q)
    yx, yy = p_along @ q_middle.T, p_along @ q_along.T
    with torch.no_grad():
        matrix = torch.stack([torch.stack([xx, xy]), torch.stack([yx, yy])])
        a, b = solve_cones(matrix, p_half, q_half)
        s, t = fraction_of(a, p_half), fraction_of(b, q_half)
    # The angles move with the endpoints, so that an end of an arc stays one.
    a, b = (2 * s - 1) * p_half, (2 * t - 1) * q_half
    inner = a.cos() * (xx * b.cos() + xy * b.sin()) + a.sin() * (yx * b.cos() + yy * b.sin())
    sq_p, sq_q = 1 + (2 * a).sin() * p_skew.unsqueeze(1), 1 + (2 * b).sin() * q_skew
    # They are 1 but for rounding, and far less only where an endpoint is a zero row of a batch.
    return inner / (sq_p.clamp(min=0.5) * sq_q.clamp(min=0.5)).sqrt()


def _frame(p0: Tensor, p1: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Half of each arc's angle (p,), its unit middle and direction (p, d), and their product (p,).

    That is 0 for unit vectors, and up to 1e-16 over the length of the middle for rounded ones.
    """
    middle, along = p0 + p1, p1 - p0
    sq_middle, sq_along = middle.square().sum(1), along.square().sum(1)
    least = least_square(p0.dtype)
    per_middle, per_along = inverse_length(sq_middle, least), inverse_length(sq_along, least)
    middle_length, along_length = per_middle * sq_middle, per_along * sq_along
    # Between two zero rows of a batch there is no angle, and torch 2.4 has a NaN for its gradient.
    is_point = middle_length + along_length == 0
    half = torch.atan2(along_length, middle_length.masked_fill(is_point, 1))
    middle, along = middle * per_middle.unsqueeze(1), along * per_along.unsqueeze(1)
    return half, middle, along, (middle * along).sum(1)


def _distance(sq_distance: Tensor, sq_size: Tensor) -> Tensor:
    """Square root; 0 with a zero gradient where the square is the rounding of ``sq_size``."""
    with torch.no_grad():
        apart = ~(sq_distance <= 64 * torch.finfo(sq_distance.dtype).eps * sq_size)  # or NaN
    return torch.where(apart, torch.where(apart, sq_distance, 1).sqrt(), 0)
