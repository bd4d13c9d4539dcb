"""Hypothesis strategies: two batches of curves, with the exact answer wherever one is known.

`exact_problems` builds the answer first: pick the closest points and the direction between them,
then extend curves around them so that they stay the closest (the Karush-Kuhn-Tucker conditions).
`family_curves` draws the ordinary and the degenerate families, without an answer.

Hypothesis draws the family, the dimension, the scale and a seed; NumPy fills in the vectors, a
few rows at a time, because a search by brute force costs the same for one row as for eight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.oracles.brute_force import Kind, unit

BATCH = 8
DIMS = (2, 3, 4, 5, 8, 32, 128, 512)
SCALES = (1e-6, 1e-3, 1.0, 1e3, 1e6)  # of segments; arcs are of directions

Rng = np.random.Generator
Family = Callable[[Rng, int, int], np.ndarray]  # rng, batch, dim -> curves (4, b, d)


@dataclass(frozen=True, repr=False)
class Problem:
    """Two batches of curves. Distance (b,), s, t (b,) and gradient (4, b, d) where known."""

    kind: Kind
    name: str
    seed: int
    curves: np.ndarray  # (4, b, d): p0, p1, q0, q1
    distance: np.ndarray | None = None
    gradient: np.ndarray | None = None  # NaN or None where the minimiser is not unique

    def __repr__(self) -> str:
        """Short: the seed says it all."""
        dim, size = self.curves.shape[-1], np.abs(self.curves).max()
        return f"Problem({self.kind}, {self.name}, dim={dim}, seed={self.seed}, max={size:.1e})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What hypothesis prints; it would spell out the arrays."""
        printer.text(repr(self))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row-wise product (b, 1)."""
    return np.sum(a * b, axis=-1, keepdims=True)


def _column(rng: Rng, batch: int, low: float, high: float) -> np.ndarray:
    """Uniform numbers (b, 1)."""
    return rng.uniform(low, high, (batch, 1))


def orthonormal(rng: Rng, batch: int, dim: int, count: int) -> np.ndarray:
    """Random orthonormal vectors (count, b, d), `count` <= `dim`."""
    basis, _ = np.linalg.qr(rng.normal(size=(batch, dim, count)))
    return np.moveaxis(basis, -1, 0)


# --- Segments, the answer first ---------------------------------------------------------------

PLACES = ("start", "inside", "end")  # where on its curve the closest point lies


def _place(rng: Rng, place: str, batch: int) -> np.ndarray:
    """The fraction (b, 1) of a closest point at `place`."""
    if place == "inside":
        return _column(rng, batch, 0.1, 0.9)
    return np.full((batch, 1), float(place == "end"))


def _extend(rng: Rng, point: np.ndarray, place: str, outward: np.ndarray) -> tuple[np.ndarray, ...]:
    """A segment through `point` that comes no nearer in direction `outward`: start, end, s.

    A point inside its segment needs the segment perpendicular to `outward`, an end needs it to
    point away; the problem is convex, so that is all there is to being closest.
    """
    s = _place(rng, place, len(point))
    along = unit(rng.normal(size=point.shape))
    rise = _dot(along, outward)
    away = rise if place == "inside" else rise + np.abs(rise)  # lay it flat, or mirror it outside
    along = unit(along - away * outward) * _column(rng, len(point), 0.2, 2)
    along = -along if place == "end" else along
    return point - s * along, point + (1 - s) * along, s


def kkt_segments(rng: Rng, batch: int, dim: int, at_p: str, at_q: str) -> tuple[np.ndarray, ...]:
    """Segments whose closest points are known: curves, distance, gradient."""
    normal = unit(rng.normal(size=(batch, dim)))
    distance = _column(rng, batch, 0.1, 2)
    point_p = rng.normal(size=(batch, dim)) / dim**0.5
    p0, p1, s = _extend(rng, point_p, at_p, normal)
    q0, q1, t = _extend(rng, point_p + distance * normal, at_q, -normal)
    gradient = np.stack([-(1 - s) * normal, -s * normal, (1 - t) * normal, t * normal])
    if "inside" in (at_p, at_q):  # on nearly parallel lines the closest points are ill-determined
        parallel = np.abs(_dot(unit(p1 - p0), unit(q1 - q0)))[:, 0] > 0.95
        gradient[:, parallel] = np.nan
    return np.stack([p0, p1, q0, q1]), distance[:, 0], gradient


def _interval_gap(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The gap (b,) between the intervals of two numbers (b, 2) each."""
    return np.maximum(0, np.maximum(p.min(1) - q.max(1), q.min(1) - p.max(1)))


def parallel_segments(
    rng: Rng, batch: int, dim: int, offset: float = 1.0
) -> tuple[np.ndarray, np.ndarray, None]:
    """Segments on two parallel lines `offset` apart; 0: on one line."""
    along, across = orthonormal(rng, batch, dim, 2)
    p, q = rng.uniform(-1, 1, (2, batch, 2))
    base = rng.normal(size=(batch, dim)) / dim**0.5
    ends = [base + x[:, i, None] * along for x in (p, q) for i in (0, 1)]
    curves = np.stack(ends) + offset * np.stack([0 * across, 0 * across, across, across])
    return curves, np.hypot(offset, _interval_gap(p, q)), None


def collinear_segments(rng: Rng, batch: int, dim: int) -> tuple[np.ndarray, np.ndarray, None]:
    """Segments on one line, overlapping or not."""
    return parallel_segments(rng, batch, dim, offset=0.0)


# --- Arcs, the answer first -------------------------------------------------------------------


def _turn(point: np.ndarray, tangent: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """The direction `angle` (b, 1) away from `point` towards its unit `tangent`."""
    return np.cos(angle) * point + np.sin(angle) * tangent


def kkt_arcs(rng: Rng, batch: int, dim: int, at_p: str, at_q: str) -> tuple[np.ndarray, ...]:
    """Arcs whose closest points x and y are known: curves, distance, gradient.

    Let x.y = c > 0, and let the arcs leave x and y along tangents a and b. Then the cosine is
    `c cos cos + (x.b) cos sin + (a.y) sin cos + (a.b) sin sin` of the two angles, and c is its
    largest value wherever x.b <= 0, a.y <= 0 (zero for a point inside its arc), |a.b| <= c and
    both angles stay below pi / 2. One point inside needs d >= 3, two need d >= 4.
    """
    inside = (at_p == "inside") + (at_q == "inside")
    gap = _column(rng, batch, 0.05, 1.2)
    cos = np.cos(gap)
    x, u, *across = orthonormal(rng, batch, dim, min(dim, 4))
    y, v = _turn(x, u, gap), np.cos(gap) * u - np.sin(gap) * x  # v at y: straight on, away from x
    side_p = across[0] if dim > 2 else 0 * x
    side_q = side_p * rng.choice([-1, 1], (batch, 1))
    if dim > 3:
        side_q = _turn(across[1], side_p, _column(rng, batch, -1, 1) * np.arcsin(0.9 * cos))

    def tangent(place: str, away: np.ndarray, side: np.ndarray) -> np.ndarray:
        sine = 1.0 if place == "inside" else _column(rng, batch, 0, 0.9) * cos * (dim > 2)
        return sine * side + np.sqrt(1 - sine**2) * away

    def extend(point: np.ndarray, place: str, along: np.ndarray) -> tuple[np.ndarray, ...]:
        before, after = _column(rng, batch, 0.05, 1.5), _column(rng, batch, 0.05, 1.5)
        before, after = before * (place != "start"), after * (place != "end")
        along = -along if place == "end" else along
        return _turn(point, along, -before), _turn(point, along, after), before, after

    def weights(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.sin(after) / np.sin(before + after), np.sin(before) / np.sin(before + after)

    assert inside <= max(dim - 2, 0), "too few dimensions for closest points inside both arcs"
    p0, p1, *turns_p = extend(x, at_p, tangent(at_p, -u, side_p))
    q0, q1, *turns_q = extend(y, at_q, tangent(at_q, v, side_q))
    # d(chord) along the great circle from x to y is cos(gap / 2); a point is a weighted sum.
    (p0_weight, p1_weight), (q0_weight, q1_weight) = weights(*turns_p), weights(*turns_q)
    pull = np.stack([-p0_weight * u, -p1_weight * u, q0_weight * v, q1_weight * v])
    length = rng.uniform(0.5, 2, (4, batch, 1))  # directions come at any length
    curves = np.stack([p0, p1, q0, q1]) * length
    return curves, 2 * np.sin(gap / 2)[:, 0], np.cos(gap / 2) * pull / length


def same_circle_arcs(rng: Rng, batch: int, dim: int) -> tuple[np.ndarray, np.ndarray, None]:
    """Arcs on one great circle, overlapping or not: the gap is a gap of angles."""
    x, y = orthonormal(rng, batch, dim, 2)
    centre, half = rng.uniform(-np.pi, np.pi, (2, batch, 1)), rng.uniform(0.01, 1.5, (2, batch, 1))
    half *= rng.choice([-1, 1], half.shape)  # in either sense of rotation
    ends = [_turn(x, y, centre[i] + sign * half[i]) for i in (0, 1) for sign in (-1, 1)]
    between = np.abs((centre[1] - centre[0] + np.pi) % (2 * np.pi) - np.pi)
    gap = np.maximum(0, between - np.abs(half).sum(0))[:, 0]
    return np.stack(ends), 2 * np.sin(gap / 2), None


# --- Families: ordinary and degenerate, for either kind ---------------------------------------


def _random(rng: Rng, batch: int, dim: int) -> np.ndarray:
    return rng.normal(size=(4, batch, dim)) / dim**0.5


def _clustered(rng: Rng, batch: int, dim: int, spread: float = 0.1) -> np.ndarray:
    return _random(rng, batch, dim)[:1] + spread * _random(rng, batch, dim)


def _opposed(rng: Rng, batch: int, dim: int) -> np.ndarray:
    """Clusters on opposite sides of zero: every angle between them is obtuse."""
    return _clustered(rng, batch, dim, spread=0.5) * np.array([1, 1, -1, -1])[:, None, None]


def _nearly_collapsed(rng: Rng, batch: int, dim: int) -> np.ndarray:
    return _clustered(rng, batch, dim, spread=1e-6)


def _collapsed(rng: Rng, batch: int, dim: int) -> np.ndarray:
    return _clustered(rng, batch, dim, spread=0.0)


def _parallel(rng: Rng, batch: int, dim: int, noise: float = 0.0) -> np.ndarray:
    p0, p1, away, _ = _random(rng, batch, dim)
    q0, stretch = p0 + away, _column(rng, batch, -2, 2)
    q1 = q0 + stretch * (p1 - p0) + noise * _random(rng, batch, dim)[0]
    return np.stack([p0, p1, q0, q1])


def _nearly_parallel(rng: Rng, batch: int, dim: int) -> np.ndarray:
    return _parallel(rng, batch, dim, noise=1e-7)


def _collinear(rng: Rng, batch: int, dim: int) -> np.ndarray:
    return collinear_segments(rng, batch, dim)[0]


def _same_circle(rng: Rng, batch: int, dim: int) -> np.ndarray:
    return same_circle_arcs(rng, batch, dim)[0]


def _shared_endpoint(rng: Rng, batch: int, dim: int, noise: float = 0.0) -> np.ndarray:
    curves, (i, j) = _random(rng, batch, dim), rng.integers(0, 2, 2)
    curves[2 + j] = curves[i] + noise * curves[2 + j]
    return curves


def _nearly_shared_endpoint(rng: Rng, batch: int, dim: int) -> np.ndarray:
    return _shared_endpoint(rng, batch, dim, noise=1e-9)


def _point(rng: Rng, batch: int, dim: int, noise: float = 0.0) -> np.ndarray:
    curves, i = _random(rng, batch, dim), 2 * rng.integers(0, 2)
    curves[i + 1] = curves[i] + noise * curves[i + 1]
    return curves


def _nearly_point(rng: Rng, batch: int, dim: int) -> np.ndarray:
    return _point(rng, batch, dim, noise=1e-8)


def _two_points(rng: Rng, batch: int, dim: int) -> np.ndarray:
    return _random(rng, batch, dim)[[0, 0, 1, 1]]


def _point_on_curve(rng: Rng, batch: int, dim: int) -> np.ndarray:
    p0, p1, *_ = _random(rng, batch, dim)
    middle = (p0 + p1) / 2
    return np.stack([p0, p1, middle, middle])


def _identical(rng: Rng, batch: int, dim: int) -> np.ndarray:
    p0, p1, *_ = _random(rng, batch, dim)
    q = [p0, p1] if rng.integers(2) else [p1, p0]
    return np.stack([p0, p1, *q])


def _crossing(rng: Rng, batch: int, dim: int) -> np.ndarray:
    meet, a, b, _ = 2 * _random(rng, batch, dim)  # further from zero than the arms are long
    s, t = _column(rng, batch, 0.1, 0.9), _column(rng, batch, 0.1, 0.9)
    a, b = a / 3, b / 3
    return np.stack([meet - s * a, meet + (1 - s) * a, meet - t * b, meet + (1 - t) * b])


def _orthogonal(rng: Rng, batch: int, dim: int) -> np.ndarray:
    axes = orthonormal(rng, batch, dim, min(dim, 4))
    picked = axes[np.arange(4) % len(axes)]  # in d = 2, 3 an axis returns, in either sense
    return picked * rng.choice([-1, 1], (4, batch, 1))


def _antipodal(rng: Rng, batch: int, dim: int) -> np.ndarray:
    curves, i = _random(rng, batch, dim), 2 * rng.integers(0, 2)
    curves[i + 1] = -curves[i]
    return curves


def _both_antipodal(rng: Rng, batch: int, dim: int) -> np.ndarray:
    p0, _, q0, _ = _random(rng, batch, dim)
    return np.stack([p0, -p0, q0, -q0])


def _nearly_antipodal(rng: Rng, batch: int, dim: int) -> np.ndarray:
    curves, i = _random(rng, batch, dim), 2 * rng.integers(0, 2)
    deviation = 10 ** _column(rng, batch, -5.7, -1)  # 2e-6 and up
    start = curves[i]
    side = curves[i + 1] - _dot(curves[i + 1], start) / _dot(start, start) * start
    curves[i + 1] = deviation * np.linalg.norm(start, axis=-1, keepdims=True) * unit(side) - start
    return curves


def _long_crossing(rng: Rng, batch: int, dim: int) -> np.ndarray:
    """An arc 2e-6 or more short of half a turn, and another one through a point inside it."""
    x, y = orthonormal(rng, batch, dim, 2)
    whole = np.pi - 10 ** _column(rng, batch, -5.7, -1)
    meet, along = _turn(x, y, _column(rng, batch, 0.1, 0.9) * whole), _random(rng, batch, dim)[0]
    curves = np.stack([x, _turn(x, y, whole), meet - along / 3, meet + along / 3])
    return np.roll(curves, 2 * rng.integers(0, 2), axis=0)  # either one first


FAMILIES: dict[str, Family] = {
    family.__name__.removeprefix("_"): family
    for family in (
        _random,
        _clustered,
        _opposed,
        _nearly_collapsed,
        _collapsed,
        _parallel,
        _nearly_parallel,
        _collinear,
        _same_circle,
        _shared_endpoint,
        _nearly_shared_endpoint,
        _point,
        _nearly_point,
        _two_points,
        _point_on_curve,
        _identical,
        _crossing,
        _orthogonal,
        _antipodal,
        _both_antipodal,
        _nearly_antipodal,
        _long_crossing,
    )
}
# In these an arc ends where it has no unique great circle, up to a rounding.
ANTIPODAL_FAMILIES = ("antipodal", "both_antipodal", "orthogonal")
UNIQUE_ARC_FAMILIES = tuple(name for name in FAMILIES if name not in ANTIPODAL_FAMILIES)

# Curves that touch somewhere, up to a rounding: their distance is zero. The segments from x to -x
# meet in zero, where a point has no size that a rounding could be relative to.
_TOUCHING = ("collapsed", "shared_endpoint", "point_on_curve", "identical", "crossing")
TOUCHING_FAMILIES: dict[Kind, tuple[str, ...]] = {
    "segment": (*_TOUCHING, "both_antipodal"),
    "arc": _TOUCHING,
}


# --- Hypothesis -------------------------------------------------------------------------------


def seeds() -> st.SearchStrategy[int]:
    """A seed for NumPy."""
    return st.integers(0, 2**32 - 1)


@st.composite
def family_curves(
    draw: st.DrawFn,
    kind: Kind,
    names: tuple[str, ...] = tuple(FAMILIES),
    dims: tuple[int, ...] = DIMS,
    batch: int = BATCH,
    scales: tuple[float, ...] = SCALES,
) -> Problem:
    """Curves of one of the families `names`, at any scale."""
    name, dim, seed = draw(st.sampled_from(names)), draw(st.sampled_from(dims)), draw(seeds())
    rng = np.random.default_rng(seed)
    curves = FAMILIES[name](rng, batch, dim)
    if kind == "segment":
        curves = curves * draw(st.sampled_from(scales))
    else:  # powers of two keep coincident and antipodal directions exactly so
        curves = curves * 2.0 ** rng.integers(-3, 4, (4, batch, 1))
    return Problem(kind, name, seed, curves)


@st.composite
def exact_problems(
    draw: st.DrawFn,
    kind: Kind,
    dims: tuple[int, ...] = DIMS,
    batch: int = BATCH,
    scales: tuple[float, ...] = SCALES,
    smooth: bool = False,
) -> Problem:
    """Curves with their distance, and, always if `smooth`, with their gradient."""
    flat = {"segment": (parallel_segments, collinear_segments), "arc": (same_circle_arcs,)}[kind]
    kkt = {"segment": kkt_segments, "arc": kkt_arcs}[kind]
    dim, seed = draw(st.sampled_from(dims)), draw(seeds())
    at = draw(st.sampled_from([(p, q) for p in PLACES for q in PLACES]))
    rng = np.random.default_rng(seed)
    free = dim - 2 if kind == "arc" else 2  # how many closest points can be inside
    if not smooth and draw(st.integers(0, 3)) == 0:
        build = draw(st.sampled_from(flat))
        name, (curves, distance, gradient) = build.__name__, build(rng, batch, dim)
    else:
        if at.count("inside") > free:
            at = ("start", "inside") if free else ("start", "end")
        name, (curves, distance, gradient) = "-".join(at), kkt(rng, batch, dim, *at)
    if kind == "segment":
        scale = draw(st.sampled_from(scales))
        curves, distance = curves * scale, distance * scale
    return Problem(kind, name, seed, curves, distance, gradient)
