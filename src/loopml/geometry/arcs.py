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
from loopml.geometry.evaluate import closest, narrowed, normalized, point_on_arc, wide


class Cone(NamedTuple):
    """An arc in its own frame: unit vectors (x, y) with ``|y| cos_half <= x sin_half``."""

    cos_half: Tensor
    sin_half: Tensor

    def answer(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The unit vector of the cone with the largest inner product with (x, y)."""
        # Strict, so that a cone that is a single direction is never "inside": with x < 0 its
        # value is x, not |x|.
        inside = y.abs() * self.cos_half < x * self.sin_half
        length = torch.where(inside, torch.hypot(x, y), 1)
        end = torch.copysign(self.sin_half.expand_as(y), y)
        return torch.where(inside, x / length, self.cos_half), torch.where(inside, y / length, end)

    def fraction(self, x: Tensor, y: Tensor) -> Tensor:
        """The fraction of the arc's angle at which its point (x, y) lies; 0 on a point."""
        half = self.half()
        angle = torch.atan2(y, x)
        return torch.where(half > 0, (angle / torch.where(half > 0, half, 1) + 1) / 2, 0)

    def half(self) -> Tensor:
        """Half of the arc's angle, in radians."""
        return torch.atan2(self.sin_half, self.cos_half)


class Frame(NamedTuple):
    """Orthonormal frame of an arc: its middle and its direction there."""

    middle: Tensor  # (..., d)
    along: Tensor  # (..., d)
    cone: Cone


def top_left_singular(xx: Tensor, xy: Tensor, yx: Tensor, yy: Tensor) -> tuple[Tensor, Tensor]:
    """The top left singular vector of [[xx, xy], [yx, yy]], not normalised, first entry >= 0.

    It is the half angle of ``M M^T``, taken so that nothing cancels.
    """
    cosine = (xx * xx + xy * xy) - (yx * yx + yy * yy)
    sine = 2 * (xx * yx + xy * yy)
    radius = torch.hypot(cosine, sine)
    right = cosine >= 0
    x = torch.where(right, radius + cosine, sine.abs())
    y = torch.where(right, sine, torch.copysign(radius - cosine, sine))
    return x, y


def solve_cones(
    xx: Tensor, xy: Tensor, yx: Tensor, yy: Tensor, p: Cone, q: Cone
) -> tuple[Tensor, Tensor]:
    """Fractions (s, t) that maximise ``x^T [[xx, xy], [yx, yy]] y`` over two cones."""

    def q_answers(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return q.answer(xx * x + yx * y, xy * x + yy * y)

    def p_answers(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return p.answer(xx * x + xy * y, yx * x + yy * y)

    like = torch.zeros_like(xx)
    starts = [
        p.answer(*top_left_singular(xx, xy, yx, yy)),
        (p.cos_half + like, p.sin_half + like),
        (p.cos_half + like, -p.sin_half + like),
    ]
    candidates = [(*u, *q_answers(*u)) for u in starts]
    for v in ((q.cos_half + like, q.sin_half + like), (q.cos_half + like, -q.sin_half + like)):
        candidates.append((*p_answers(*v), *v))
    px, py, qx, qy = (torch.stack(axis, -1) for axis in zip(*candidates, strict=True))
    xx, xy, yx, yy = (entry.unsqueeze(-1) for entry in (xx, xy, yx, yy))
    best = (px * (xx * qx + xy * qy) + py * (yx * qx + yy * qy)).argmax(-1, keepdim=True)
    px, py, qx, qy = (axis.gather(-1, best).squeeze(-1) for axis in (px, py, qx, qy))
    return p.fraction(px, py), q.fraction(qx, qy)


def frame(p0: Tensor, p1: Tensor) -> Frame:
    """The frame of the arc between two unit vectors.

    The same endpoints make a point: ``along`` is zero and the cone has no width. Opposite ones
    have no unique arc: ``middle`` is zero, which leaves the two endpoints alone.
    """
    middle, along = p0 + p1, p1 - p0
    cos_half, sin_half = middle.norm(dim=-1) / 2, along.norm(dim=-1) / 2
    # The direction of a sum shorter than this is the rounding of its terms.
    opposite = cos_half <= torch.finfo(cos_half.dtype).eps ** 0.625
    cos_half = torch.where(opposite, 0, cos_half)
    middle = middle / torch.where(opposite, torch.inf, 2 * cos_half).unsqueeze(-1)
    along = along / torch.where(sin_half > 0, 2 * sin_half, 1).unsqueeze(-1)
    return Frame(middle, along, Cone(cos_half, sin_half))


@torch.no_grad()
def nearest_on_arcs(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> tuple[Tensor, Tensor]:
    """Fractions (s, t) of the nearest points, from explicit unit vectors."""
    p, q = frame(p0, p1), frame(q0, q1)
    xx, xy = (p.middle * q.middle).sum(-1), (p.middle * q.along).sum(-1)
    yx, yy = (p.along * q.middle).sum(-1), (p.along * q.along).sum(-1)
    return solve_cones(xx, xy, yx, yy, p.cone, q.cone)


def measure_arcs(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Closest:
    """``closest_on_arcs`` without checks, on float64 unit vectors."""
    s, t = nearest_on_arcs(p0, p1, q0, q1)
    return closest(s, t, point_on_arc(s, p0, p1), point_on_arc(t, q0, q1))


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
        p1: (..., d) its end. Equal to ``p0`` the arc is a point. Opposite to ``p0`` (within 1.6e-10
            in float64) there is no unique arc, and the curve is the two endpoints alone, which all
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
    return narrowed(measure_arcs(*directions(p0=p0, p1=p1, q0=q0, q1=q1)), p0.dtype)


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
