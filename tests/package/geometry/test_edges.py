"""Where doubles run out: nearly parallel, huge, tiny, nearly opposite, short and crossing curves.

The oracles compute in 60 digits, from the very doubles that the functions are given. Torch brings
mpmath.
"""

from typing import Any

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loopml.geometry import (
    arc_distance,
    closest_on_arcs,
    closest_on_segments,
    pairwise_arc_distance,
    pairwise_segment_distance,
    segment_distance,
)
from loopml.geometry.lengths import direction_of, length_of
from loopml.geometry.recompute import recomputed
from tests.oracles.checks import FUNCTIONS

mp.mp.dps = 60
Point = list[Any]


def dot(a: Point, b: Point) -> Any:
    return mp.fsum(x * y for x, y in zip(a, b, strict=True))


def exact(ends: np.ndarray) -> list[Point]:
    return [[mp.mpf(float(x)) for x in end] for end in ends]


def least_by_search(f: Any, low: Any, high: Any) -> Any:
    """The least value of a function with one valley, by golden sections."""
    golden = (mp.sqrt(5) - 1) / 2
    a, b = low, high
    for _ in range(260):
        c, d = b - golden * (b - a), a + golden * (b - a)
        a, b = (a, d) if f(c) < f(d) else (c, b)
    return min(f(low), f(high), f((a + b) / 2))


def exact_segment_distance(ends: np.ndarray) -> float:
    """The square is convex in both fractions: a search within a search."""
    p0, p1, q0, q1 = exact(ends)

    def gap(s: Any) -> Any:
        p = [x + s * (y - x) for x, y in zip(p0, p1, strict=True)]
        v, r = ([y - x for x, y in zip(q0, q, strict=True)] for q in (q1, p))
        vv = dot(v, v)
        t = min(mp.mpf(1), max(mp.mpf(0), dot(v, r) / vv)) if vv else mp.mpf(0)
        return mp.sqrt(mp.fsum((x - t * y) ** 2 for x, y in zip(r, v, strict=True)))

    return float(least_by_search(gap, mp.mpf(0), mp.mpf(1)))


def exact_arc_point_distance(x: Point, start: Point, end: Point) -> Any:
    """From a unit vector to an arc: to where it turns to the vector, or to an end."""
    cosine = dot(start, end)
    side = [y - cosine * z for y, z in zip(end, start, strict=True)]
    length = mp.sqrt(dot(side, side))
    ends = [mp.sqrt(mp.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True))) for y in (start, end)]
    if length:
        side = [y / length for y in side]
        angle = mp.atan2(dot(x, side), dot(x, start))
        if 0 <= angle <= mp.atan2(length, cosine):
            foot = [mp.cos(angle) * a + mp.sin(angle) * b for a, b in zip(start, side, strict=True)]
            ends.append(mp.sqrt(mp.fsum((a - b) ** 2 for a, b in zip(x, foot, strict=True))))
    return min(ends)


def unit(x: Point) -> Point:
    length = mp.sqrt(dot(x, x))
    return [y / length for y in x]


def tensors(ends: np.ndarray, *, grad: bool = False) -> list[Tensor]:
    return [torch.tensor(end, dtype=torch.float64, requires_grad=grad) for end in ends]


def nearly_parallel(rng: np.random.Generator, tilt: float) -> np.ndarray:
    """Long segments along one axis that cross or pass each other at a tiny angle."""
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    ends = np.zeros((4, 3))
    ends[:, 0] = [-1, 1, -1, 1] + 0.3 * rng.normal(size=4)
    ends[:, 1] = tilt * rng.normal(size=4)
    return ends @ turn


@pytest.mark.parametrize("tilt", [1e-4, 1e-6, 1e-8, 1e-10])
def test_nearly_parallel_segments(tilt: float) -> None:
    """To 1e-15 of the size, and never farther than from an end to the other segment."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        ends = nearly_parallel(rng, tilt)
        wanted = exact_segment_distance(ends)
        p0, p1, q0, q1 = tensors(ends)
        pairs = ((p0, p0, q0, q1), (p1, p1, q0, q1), (p0, p1, q0, q0), (p0, p1, q1, q1))
        edge = min(segment_distance(*pair).item() for pair in pairs)
        all_pairs = pairwise_segment_distance(*(x[None] for x in (p0, p1, q0, q1)))
        for found in (segment_distance(p0, p1, q0, q1), all_pairs[0, 0]):
            # Largest error measured: 4e-16.
            assert abs(found.item() - wanted) < 4e-15
            assert found.item() <= edge + 4e-15


@pytest.mark.parametrize("tilt", [1e-2, 1e-3, 1e-5, 1e-8])
def test_nearly_parallel_segments_far_apart(tilt: float) -> None:
    """Products are enough for a large distance, but not for where nearly parallel ones have it."""
    rng = np.random.default_rng(1)
    curves = np.stack([nearly_parallel(rng, tilt) for _ in range(20)], 1)  # (4, 20, 3)
    curves = np.pad(curves, ((0, 0), (0, 0), (0, 1)))
    curves[2:, :, 3] = 0.01
    wanted = [exact_segment_distance(ends) for ends in np.moveaxis(curves, 1, 0)]
    found = pairwise_segment_distance(*tensors(curves)).diagonal()
    # Largest error measured: 1e-14, of products.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["closest", "pairwise"])
@pytest.mark.parametrize("power", [-320, -300, -200, -165, -100, 100, 154, 200, 300])
def test_segments_of_any_scale(kind: str, power: int) -> None:
    """A distance scales with its segments, and its gradient stays a direction."""
    shape = np.array([[0.0, 0, 0], [4, 1, 0], [1, 3, 2], [3, -1, 2.5]])
    wanted = exact_segment_distance(shape)
    ends = tensors(shape * 10.0**power, grad=True)
    if kind == "closest":
        found = closest_on_segments(*ends).distance
    else:
        found = pairwise_segment_distance(*(x[None] for x in ends))[0, 0]
    # Numbers below 1e-308 have few digits.
    rel = 1e-3 if power < -308 else 1e-12
    assert found.item() == pytest.approx(wanted * 10.0**power, rel=rel)
    gradients = torch.autograd.grad(found, ends)
    size = torch.stack(gradients).square().sum().sqrt()
    assert 0.5 < size < 1.5


@pytest.mark.parametrize("kind", ["segment", "arc"])
@given(seed=st.integers(0, 2**32 - 1), far=st.sampled_from([1e4, 1e9, 1e20, 1e150]))
def test_pairs_are_facts_of_their_own(kind: Any, seed: int, far: float) -> None:
    """Other curves change no digit of an entry, and each is that of the two curves alone."""
    rng = np.random.default_rng(seed)
    curves = rng.normal(size=(4, 3, 5))
    other = far * rng.normal(size=(2, 1, 5))
    distance, pairwise = FUNCTIONS[kind].distance, FUNCTIONS[kind].pairwise
    p0, p1, q0, q1 = tensors(curves)
    alone = pairwise(p0, p1, q0, q1)
    more = (torch.cat([x, torch.tensor(y)]) for x, y in zip((q0, q1), other, strict=True))
    beside = pairwise(p0, p1, *more)[:, :3]
    # What is not measured again has 1e-9 of itself from products; largest seen 2e-10.
    torch.testing.assert_close(beside, alone, rtol=1e-8, atol=1e-15)
    single = distance(p0[:, None], p1[:, None], q0, q1)
    torch.testing.assert_close(alone, single, rtol=1e-8, atol=1e-15)


@pytest.mark.parametrize("gap", [2e-10, 1e-9, 1e-8, 1e-6, 1e-3])
def test_arcs_with_nearly_opposite_ends(gap: float) -> None:
    """The middle of a short sum is known from the doubles given, whatever their lengths."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        base = np.linalg.qr(rng.normal(size=(4, 4)))[0]
        ends = np.stack([base[0], gap * base[1] - base[0], base[2], base[2]])
        ends[2:] += 0.5 * base[1] + 0.2 * base[0]
        ends *= rng.uniform(0.3, 3, (4, 1))
        p0, p1, q0, _ = (unit(x) for x in exact(ends))
        wanted = float(exact_arc_point_distance(q0, p0, p1))
        ends[3] = ends[2]
        found = arc_distance(*tensors(ends)).item()
        all_pairs = pairwise_arc_distance(*(x[None] for x in tensors(ends)))[0, 0].item()
        # Largest errors measured: 1.3e-14, at the shortest gap.
        assert abs(found - wanted) < 1e-13
        assert abs(all_pairs - wanted) < 1e-13


@pytest.mark.parametrize("length", [1.6e-8, 1e-6, 1e-3])
def test_short_arcs_that_cross(length: float) -> None:
    """Crossing arcs of ten centimetres on Earth meet; they came out their whole length apart."""
    rng = np.random.default_rng(6)
    for _ in range(20):
        x, u, v = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        a, b = u, np.cos(1.0) * u + np.sin(1.0) * v
        s, t = rng.uniform(0.2, 0.8, 2)
        ends = np.stack([x - s * length * a, x + (1 - s) * length * a,
                         x - t * length * b, x + (1 - t) * length * b])  # fmt: skip
        found = closest_on_arcs(*tensors(ends))
        # Doubles around 1 are 1e-16 apart.
        assert found.distance.item() < 1e-15
        assert found.s.item() == pytest.approx(s, abs=1e-15 / length + 1e-6)
        assert found.t.item() == pytest.approx(t, abs=1e-15 / length + 1e-6)


@pytest.mark.parametrize("scale", [0.0, 0.2, 0.999, 1.0, 3.0])
@pytest.mark.parametrize("least", [1e-12, 0.7])
def test_direction_below_its_least_length(scale: float, least: float) -> None:
    """Its gradient is that of x over a constant there, compiled and not, and twice."""
    x = torch.tensor([[0.6, 0.0, -0.8], [0.0, 0.0, 0.0]], dtype=torch.float64) * scale
    x.requires_grad_()
    wanted = x / torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True).clamp(min=least)
    torch.testing.assert_close(direction_of(x, least).detach(), wanted.detach())
    pull = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    (eager,) = torch.autograd.grad(direction_of(x, least) @ pull @ pull.new_ones(2), x)
    traced = torch.func.grad(lambda z: (direction_of(z, least) @ pull).sum())(x.detach())
    torch.testing.assert_close(eager, traced)
    if scale < least:
        torch.testing.assert_close(
            eager, (pull / least).expand(2, 3) * (x.detach() != 0).any(1, True)
        )
    if scale not in (0.0, 0.999, 1.0):
        row = x.detach()[:1].requires_grad_()
        torch.autograd.gradgradcheck(lambda z: direction_of(z, least), row)
        torch.autograd.gradgradcheck(length_of, row)


def test_recomputed_is_the_function_itself() -> None:
    """Value and both gradients, also where one argument comes from another."""
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)

    def function(a: Tensor, b: Tensor) -> Tensor:
        return (a * b.sum(0)).sin().sum(1)

    found = []
    for call in (function, lambda a, b: recomputed(function, a, b)):
        y = call(x, x.square())
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.square().sum(), x)
        found.append((y, slope, curvature))
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(again, plain)
    with torch.no_grad():
        assert not recomputed(function, x, x).requires_grad
