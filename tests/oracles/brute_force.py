"""Brute force: the distance between two curves, searched for straight from its definition.

Nothing here is shared with the library: no Gram matrix, no singular vectors, no edges or corners,
no autograd. A curve is a function from a fraction in [0, 1] to a point; the distance is the
smallest gap between two points, found by a grid that zooms in on itself.

Accuracy, measured in `test_brute_force.py` against problems whose answer is known by construction:
better than 1e-11 of the largest endpoint, touching curves included, because a gap is the norm of
a difference and never a difference of squares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["segment", "arc"]
KINDS: tuple[Kind, ...] = ("segment", "arc")
Curve = Callable[[np.ndarray], np.ndarray]  # fractions (b, n) -> points (b, n, d)

# Unit endpoints with |a + b| below this have no unique great circle that float64 could tell.
ANTIPODAL = 1e-10

_ZOOM = np.linspace(0.0, 1.0, 9)  # a round keeps two of eight cells, so it shrinks four times
_ROUNDS = 20  # 4**-20 = 9e-13 of a curve
_INNER_ROUNDS = 4  # to 2e-3 of a curve; then parabolas
_SIDES = np.array([-1.0, 0.0, 1.0])
_OUTER_CELLS = 32  # the first grid, fine enough to tell the local minima of two arcs apart
_STARTS = 2  # valleys that are refined (one sufficed on 1600 pairs of long arcs, d 2..6)


class Minimum(NamedTuple):
    """The smallest gap between two curves, and the fractions at which it was found: (b,) each."""

    distance: np.ndarray
    s: np.ndarray
    t: np.ndarray


def unit(vectors: np.ndarray) -> np.ndarray:
    """`vectors` (..., d) at length one; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length == 0, 1.0, length)


def size_of(kind: Kind, curves: np.ndarray) -> float:
    """What errors are relative to: the largest endpoint, or one where they are directions."""
    return 1.0 if kind == "arc" else float(np.linalg.norm(curves, axis=-1).max())


def segment(start: np.ndarray, end: np.ndarray) -> Curve:
    """The straight segments from `start` to `end`, (b, d) each."""

    def points(fraction: np.ndarray) -> np.ndarray:
        weight = fraction[..., None]
        return (1 - weight) * start[:, None] + weight * end[:, None]

    return points


def arc(start: np.ndarray, end: np.ndarray) -> Curve:
    """The shorter great-circle arcs between two directions, (b, d) each, at constant speed.

    Turns from the middle of the arc towards its end, so that tiny angles (the sum is long) and
    angles near pi (the difference is long) are both free of cancellation. Antipodal endpoints
    have no unique arc: the curve is then its two endpoints.
    """
    start, end = unit(start), unit(end)
    total, difference = start + end, end - start
    cos_half, sin_half = np.linalg.norm(total, axis=-1), np.linalg.norm(difference, axis=-1)
    antipodal = (cos_half < ANTIPODAL)[:, None]  # (b, 1)
    half_angle = np.arctan2(sin_half, cos_half)[:, None]  # (b, 1)
    middle, across = unit(total)[:, None], unit(difference)[:, None]  # (b, 1, d)

    def points(fraction: np.ndarray) -> np.ndarray:
        fraction = np.where(antipodal, fraction > 0.5, fraction)
        turn = ((2 * fraction - 1) * half_angle)[..., None]
        return np.cos(turn) * middle + np.sin(turn) * across

    return points


CURVES: dict[Kind, Callable[[np.ndarray, np.ndarray], Curve]] = {"segment": segment, "arc": arc}


def points_on(kind: Kind, start: np.ndarray, end: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """The points of the curves (b, d) at `fraction` (b,) or (b, n): (b, d) or (b, n, d)."""
    points = CURVES[kind](start, end)(fraction.reshape(len(start), -1))
    return points.reshape(*fraction.shape, start.shape[-1])


def coordinates(kind: Kind, curves: np.ndarray) -> np.ndarray:
    """The endpoints (4, b, d) in an orthonormal basis of their span: the same shape, d <= 4."""
    curves = unit(curves) if kind == "arc" else curves - curves[:1]
    if curves.shape[-1] <= 4:
        return curves
    return np.moveaxis(np.linalg.qr(np.moveaxis(curves, 0, -1), mode="r"), -1, 0)


def _nearest(points: np.ndarray, curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """The gap from `points` (b, n, d) to a curve each, and its fraction: (b, n), (b, n).

    One zoom is enough: along an arc of at most half a turn, or a segment, the gap to a point
    either has one minimum inside or is smallest at an end, and the first grid holds both ends.
    Once it is near, the minimum is where a parabola through three squares has it, which the second
    parabola knows to a rounding. Where rounding hides a parabola the zoom has found all there is.
    """
    centre, step = np.full(points.shape[:2], 0.5), 1 / 8
    gap, at = np.full_like(centre, np.inf), centre

    def squares(fractions: np.ndarray) -> np.ndarray:
        """Of the gaps at fractions (b, n, k)."""
        found = curve(fractions.reshape(len(fractions), -1)).reshape(*fractions.shape, -1)
        found -= points[:, :, None]
        return np.einsum("bnkd,bnkd->bnk", found, found)

    def keep(square: np.ndarray, fraction: np.ndarray) -> None:
        nonlocal gap, at
        found = np.sqrt(square)
        at, gap = np.where(found < gap, fraction, at), np.minimum(found, gap)

    rows = np.ogrid[: len(centre), : centre.shape[1]]
    for _ in range(_INNER_ROUNDS):
        fractions = np.clip(centre[..., None] + 8 * step * (_ZOOM - 0.5), 0, 1)  # (b, n, 9)
        square = squares(fractions)
        best = (*rows, square.argmin(-1))
        centre = fractions[best]
        keep(square[best], centre)
        step /= 4
    for width in (4 * step, 1e-5):
        low, here, high = np.moveaxis(squares(centre[..., None] + width * _SIDES), -1, 0)
        bend = low - 2 * here + high
        shift = np.divide(low - high, 2 * bend, out=np.zeros_like(bend), where=bend > 0)
        centre = np.clip(centre + width * np.clip(shift, -1, 1), 0, 1)
        keep(squares(centre[..., None])[..., 0], centre)
    return gap, at


def brute_force(kind: Kind, curves: np.ndarray) -> Minimum:
    """The minimum distance of curve (p0, p1) and curve (q0, q1), of `curves` (4, b, d)."""
    p0, p1, q0, q1 = coordinates(kind, curves)
    curve_p, curve_q = CURVES[kind](p0, p1), CURVES[kind](q0, q1)
    batch = len(p0)

    # The gap as a function of s alone, and every valley of it.
    grid = np.broadcast_to(np.linspace(0, 1, _OUTER_CELLS + 1), (batch, _OUTER_CELLS + 1))
    gap, _ = _nearest(curve_p(grid), curve_q)
    walled = np.pad(gap, ((0, 0), (1, 1)), constant_values=np.inf)
    is_valley = (gap <= walled[:, :-2]) & (gap <= walled[:, 2:])
    starts = np.argsort(np.where(is_valley, gap, np.inf), axis=1, kind="stable")[:, :_STARTS]

    centre, width = starts / _OUTER_CELLS, 2 / _OUTER_CELLS  # (b, starts)
    best = Minimum(np.full(batch, np.inf), np.zeros(batch), np.zeros(batch))
    for _ in range(_ROUNDS - 2):  # the first grid was worth two rounds
        s = np.clip(centre[..., None] + width * (_ZOOM - 0.5), 0, 1).reshape(batch, -1)
        gap, t = _nearest(curve_p(s), curve_q)
        inside = gap.reshape(*centre.shape, -1).argmin(-1)[..., None]
        centre = np.take_along_axis(s.reshape(*centre.shape, -1), inside, -1)[..., 0]
        width /= 4
        winner = (np.arange(batch), gap.argmin(1))
        better = gap[winner] < best.distance
        found = Minimum(gap[winner], s[winner], t[winner])
        best = Minimum(*(np.where(better, new, old) for new, old in zip(found, best, strict=True)))
    return best


def slopes(
    kind: Kind, curves: np.ndarray, directions: np.ndarray, step: float = 1e-6
) -> tuple[np.ndarray, np.ndarray]:
    """How fast the brute-force minimum changes along `directions` (k, 4, b, d).

    Central differences: the slopes (k, b), and whether they can be trusted (b,). They can where
    - the curves do not touch: there the search is off by its 1e-12, which is a slope of 1e-6;
    - the slopes on the two sides hardly differ: they differ by much, however small the step, where
      the minimiser is not unique, and by some where it runs along nearly parallel curves;
    - a smaller step gives the same: not where the minimiser reaches an endpoint within the step.

    Measured for endpoints around one: 96 % of the segments and 86 % of the arcs in general position
    can be trusted (many arcs in the plane touch); their slopes are off by 5e-9 at most. Steps of
    1e-5 and 1e-7 are worse: truncation and the noise of 3e-16 in the minimum balance at 1e-6.
    """
    steps = np.array([step, -step, step / 4, -step / 4])[:, None, None, None, None]
    moved = curves + steps * directions  # (4, k, 4, b, d)
    rows = np.moveaxis(moved, 2, 0).reshape(4, -1, curves.shape[-1])  # (4, 4kb, d)
    up, down, near_up, near_down = brute_force(kind, rows).distance.reshape(4, len(directions), -1)
    here = brute_force(kind, curves).distance
    slope, near_slope = (up - down) / (2 * step), (near_up - near_down) / (step / 2)
    same_on_both_sides = np.abs(up + down - 2 * here) / step < 1e-4
    same_nearby = np.abs(slope - near_slope) < 5e-9
    return slope, (same_on_both_sides & same_nearby).all(0) & (here > step)
