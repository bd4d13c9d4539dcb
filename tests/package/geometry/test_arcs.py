"""What holds of arcs alone: only directions count, and antipodal ends have no arc between them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loopml.geometry import arc_distance, closest_on_arcs
from loopml.geometry.arcs import arc_weights
from loopml.geometry.cones import least_square
from tests.oracles.brute_force import brute_force, unit
from tests.oracles.checks import DTYPES, array, assert_near, sound_gradient, tensors
from tests.oracles.strategies import (
    FAMILIES,
    UNIQUE_ARC_FAMILIES,
    family_curves,
    kkt_arcs,
    same_circle_arcs,
    seeds,
)


def degrees(*angles: float) -> np.ndarray:
    """Directions (1, 2) in the plane, stacked."""
    radians = np.deg2rad(np.array(angles))
    return np.stack([np.cos(radians), np.sin(radians)], axis=-1)[:, None]


@given(data=st.data())
def test_length_of_a_direction_does_not_matter(data: st.DataObject) -> None:
    """Positive factors, one per endpoint, change no distance and divide the gradient."""
    problem = data.draw(family_curves("arc", names=UNIQUE_ARC_FAMILIES))
    factors = np.random.default_rng(problem.seed).uniform(0.1, 10, (4, len(problem.curves[0]), 1))
    curves, scaled = tensors(problem.curves), tensors(problem.curves * factors)
    one, other = arc_distance(*curves), arc_distance(*scaled)
    assert_near("arc", other, one, problem.curves)
    sound_gradient("arc", one, curves)
    sound_gradient("arc", other, scaled)


@pytest.mark.parametrize("power", [-600, 600])
def test_squares_of_directions_may_overflow(power: int) -> None:
    """A direction as short as 1e-181, or as long as 1e181, is a direction."""
    near = FAMILIES["random"](np.random.default_rng(0), 8, 5)
    curves = tensors(near * 2.0**power)
    distance = arc_distance(*curves)
    assert_near("arc", distance, arc_distance(*tensors(near)), near)
    grads = torch.autograd.grad(distance.sum(), curves)
    assert all(grad.isfinite().all() for grad in grads)


@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_gradient_is_tangential(data: st.DataObject, dtype: torch.dtype) -> None:
    """Moving an endpoint along its own direction changes nothing: the gradient has no such part.

    Measured against the gradient's own size, which is large for nearly antipodal arcs: 2e-16 and
    1e-7, the rounding of the dtype.
    """
    problem = data.draw(family_curves("arc"))
    curves = tensors(problem.curves, dtype)
    gradient = sound_gradient("arc", arc_distance(*curves), curves)
    radial = np.sum(gradient * unit(array(curves)), axis=-1)
    size = np.linalg.norm(gradient, axis=-1).max()
    assert (np.abs(radial) <= 20 * torch.finfo(dtype).eps * size).all()


@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_points_stay_on_the_sphere(data: st.DataObject, dtype: torch.dtype) -> None:
    """|point| = 1, whatever the endpoints do: its square has no gradient."""
    problem = data.draw(family_curves("arc", names=("random", "clustered", "crossing", "opposed")))
    curves = tensors(problem.curves, dtype)
    closest = closest_on_arcs(*curves)
    eps = 20 * torch.finfo(dtype).eps  # sums of d squares: measured 3 eps
    for point, ends in ((closest.point_p, curves[:2]), (closest.point_q, curves[2:])):
        square = point.square().sum(-1)
        np.testing.assert_allclose(array(square), 1, rtol=0, atol=eps)
        reach = np.linalg.norm(array(ends), axis=-1).min()
        for grad in torch.autograd.grad(square.sum(), ends, retain_graph=True):
            np.testing.assert_allclose(array(grad), 0, rtol=0, atol=100 * eps / reach)


@pytest.mark.parametrize(
    ("dtype", "lengths", "deviation"),
    [
        pytest.param(torch.float32, (1.0, 1.0), 0.0, id="exactly, float32"),
        pytest.param(torch.float64, (1.0, 1.0), 0.0, id="exactly, float64"),
        pytest.param(torch.float64, (0.1, 10.0), 0.0, id="up to rounding"),
        pytest.param(torch.float64, (0.1, 10.0), 1e-12, id="but for 1e-12"),
    ],
)
@given(seed=seeds(), dim=st.sampled_from((2, 3, 8, 512)))
def test_antipodal_arc_is_its_two_endpoints(
    dtype: torch.dtype, lengths: tuple[float, float], deviation: float, seed: int, dim: int
) -> None:
    """Without a unique great circle the curve is its endpoints: s is 0 or 1, never between."""
    rng = np.random.default_rng(seed)
    opposite = FAMILIES["both_antipodal"](rng, 8, dim)
    opposite = opposite + deviation * rng.normal(size=opposite.shape) / dim
    curves = tensors(opposite * rng.uniform(*lengths, (4, 8, 1)), dtype)
    closest = closest_on_arcs(*curves)
    assert torch.isin(torch.stack([closest.s, closest.t]), torch.tensor([0.0, 1.0])).all()
    p0, p1, q0, q1 = unit(array(curves))
    corners = [np.linalg.norm(p - q, axis=-1) for p in (p0, p1) for q in (q0, q1)]
    assert_near("arc", closest.distance, np.min(corners, axis=0), array(curves))
    sound_gradient("arc", closest.distance, curves)


@given(seed=seeds(), exponent=st.floats(-5.9, -0.5), dim=st.sampled_from((3, 4, 64)))
def test_almost_antipodal_arc_is_whole(seed: int, exponent: float, dim: int) -> None:
    """An arc 1e-6 short of half a turn still passes through its middle."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(dim, 3)))
    east, north, up = basis.T
    angle = 10**exponent
    p1 = np.sin(angle) * north - np.cos(angle) * east  # passes through north (nearly) on its way
    touched = unit(north + 0.3 * up)[None]
    curves = tensors(np.stack([east[None], p1[None], touched, touched]))
    closest = closest_on_arcs(*curves)
    expected = 2 * np.sin(np.arctan(0.3) / 2)
    # Rounding an endpoint (1e-16) turns the arc by 1e-10.
    assert closest.distance.item() == pytest.approx(expected, abs=1e-9)
    assert closest.s.item() == pytest.approx(np.pi / 2 / (np.pi - angle), abs=1e-9)
    sound_gradient("arc", closest.distance, curves)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("p0", "p1", "q0", "q1", "gap"),
    [
        pytest.param(0, 90, 120, 170, 30, id="apart"),
        pytest.param(0, 90, 45, 135, 0, id="overlapping"),
        pytest.param(0, 90, 30, 60, 0, id="one inside the other"),
        pytest.param(170, -170, 100, 180, 0, id="across the cut"),
        pytest.param(0, 0, 100, 180, 100, id="point behind the arc"),
        pytest.param(0, 0, 180, 180, 180, id="opposite points"),
        pytest.param(0, 10, 180, 190, 170, id="opposite arcs"),
        pytest.param(0, 100, 100, 200, 0, id="shared endpoint"),
        pytest.param(0, 175, 265, 275, 85, id="long arc below the horizon"),
        pytest.param(50, 50, 0, 90, 0, id="point on the arc"),
        pytest.param(-90, -90, 0, 90, 90, id="point beside the arc"),
    ],
)
def test_plane_by_hand(
    p0: float, p1: float, q0: float, q1: float, gap: float, dtype: torch.dtype
) -> None:
    """In the plane all arcs are on one circle: the distance is a gap of angles, in degrees."""
    curves = tensors(degrees(p0, p1, q0, q1), dtype)
    distance = arc_distance(*curves)
    assert_near("arc", distance, 2 * np.sin(np.deg2rad([gap]) / 2), array(curves))
    sound_gradient("arc", distance, curves)


@given(seed=seeds(), dim=st.sampled_from((2, 3, 8, 512)))
def test_a_singleton_is_a_point_not_a_circle(seed: int, dim: int) -> None:
    """An arc of length zero is as far as its point is, also from curves behind it."""
    rng = np.random.default_rng(seed)
    point, q0, q1 = rng.normal(size=(3, 8, dim))
    curves = tensors(np.stack([point, 3 * point, q0, q1]))  # up to rounding, one direction
    distance = arc_distance(*curves)
    expected = brute_force("arc", np.stack([point, point, q0, q1])).distance
    assert_near("arc", distance, expected, array(curves))
    sound_gradient("arc", distance, curves)


def parts(start: np.ndarray, end: np.ndarray) -> list[np.ndarray]:
    """A curve (2, d) as its arc, or beside a zero row as its two ends, arcs without length."""
    if start.any() and end.any():
        return [np.stack([start, end])]
    return [np.stack([x, x]) for x in (start, end)]


def distances_with_zeros(ends: np.ndarray) -> np.ndarray:
    """Between pairs of curves (b, 4, d) of unit vectors and zero rows, a zero row being 0: (b,)."""
    found = np.full(len(ends), np.inf)
    rows, curves = [], []
    for row, (p0, p1, q0, q1) in enumerate(ends):
        for one, other in product(parts(p0, p1), parts(q0, q1)):
            if one.any() and other.any():
                rows.append(row)
                curves.append(np.concatenate([one, other]))
            else:
                found[row] = min(found[row], float(one.any() or other.any()))
    if curves:
        np.minimum.at(found, rows, brute_force("arc", np.stack(curves, 1)).distance)
    return found


@pytest.mark.parametrize(
    "zeros", [(), (0,), (1,), (0, 2), (1, 2), (0, 3), (0, 1), (0, 1, 2), (0, 1, 2, 3)]
)
@given(seed=seeds(), dim=st.sampled_from((2, 3, 16)))
def test_weights_beside_zero_rows(zeros: tuple[int, ...], seed: int, dim: int) -> None:
    """A zero row is a point at distance 1 of all directions; beside it weights are 0 and 1."""
    rng = np.random.default_rng(seed)
    ends = unit(rng.normal(size=(8, 4, dim)))
    ends[:4] = unit(ends[:4] + 2 * ends[:4, :1])  # some within reach of each other, ...
    ends[4:6, 1] = -ends[4:6, 0]  # ... and arcs that are their ends
    ends[:, list(zeros)] = 0
    half, angles, weights = arc_weights(torch.as_tensor(ends), least_square(torch.float64))
    assert half.shape == angles.shape == (2, 8)
    w = array(weights)
    point_p = np.einsum("be,bed->bd", w[:, :2], ends[:, :2])
    point_q = np.einsum("be,bed->bd", w[:, 2:], ends[:, 2:])
    found = np.linalg.norm(point_p - point_q, axis=-1)
    # Largest error measured: 1e-15.
    np.testing.assert_allclose(found, distances_with_zeros(ends), atol=1e-11)
    for curve in {zero // 2 for zero in zeros}:
        own = w[:, 2 * curve : 2 * curve + 2]
        np.testing.assert_array_equal(np.sort(own, 1), np.broadcast_to([0.0, 1.0], own.shape))


@pytest.mark.parametrize("at_p", ["start", "end"])
@pytest.mark.parametrize("at_q", ["start", "end"])
@given(seed=seeds(), dim=st.sampled_from((2, 3, 16)))
def test_weights_at_an_end_are_exact(at_p: str, at_q: str, seed: int, dim: int) -> None:
    """The answer is an end of both arcs: weights 0 and 1 without a rounding."""
    curves, *_ = kkt_arcs(np.random.default_rng(seed), 8, dim, at_p, at_q)
    ends = torch.as_tensor(unit(curves)).transpose(0, 1).contiguous()
    weights = arc_weights(ends, least_square(torch.float64))[2]
    wanted = [float(at_p == "start"), float(at_p == "end")]
    wanted += [float(at_q == "start"), float(at_q == "end")]
    np.testing.assert_array_equal(array(weights), np.broadcast_to(wanted, (8, 4)))


@given(seed=seeds(), dim=st.sampled_from((3, 16)))
def test_a_weight_is_not_a_rounding(seed: int, dim: int) -> None:
    """A point straight above an end of an arc: the other end has no weight, or one that counts."""
    rng = np.random.default_rng(seed)
    p0, p1, above = unit(rng.normal(size=(3, 200, dim)))
    for axis in (p0, unit(p1 - (p0 * p1).sum(-1, keepdims=True) * p0)):
        above = above - (above * axis).sum(-1, keepdims=True) * axis
    q = unit(p0 + above)
    ends = torch.as_tensor(np.stack([p0, p1, q, q], 1))
    weights = array(arc_weights(ends, least_square(torch.float64))[2])
    other = weights[:, 1] / weights[:, 0]
    assert ((other == 0) | (other > 4 * np.finfo(float).eps)).all()
    assert (other == 0).any()


@given(seed=seeds(), dim=st.sampled_from((2, 3, 16)))
def test_of_equally_near_points_an_end_is_taken(seed: int, dim: int) -> None:
    """Overlapping arcs of one great circle meet in many points, and ends are exact."""
    curves, distance, _ = same_circle_arcs(np.random.default_rng(seed), 50, dim)
    ends = torch.as_tensor(curves[:, distance == 0]).transpose(0, 1).contiguous()
    weights = array(arc_weights(ends, least_square(torch.float64))[2])
    assert (weights == 0).any(-1).all()
