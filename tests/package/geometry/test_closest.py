"""The value: against answers known by construction and against brute force, for every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.brute_force import KINDS, Kind, brute_force, points_on, size_of
from tests.oracles.checks import (
    DTYPES,
    FUNCTIONS,
    TOLERANCE,
    array,
    assert_near,
    sound_gradient,
    tensors,
)
from tests.oracles.strategies import FAMILIES, exact_problems, family_curves

dtypes = st.sampled_from(DTYPES)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), dtype=dtypes)
def test_distance_known_by_construction(
    kind: Kind, data: st.DataObject, dtype: torch.dtype
) -> None:
    """Closest points chosen first, at corners, on edges and inside, give back their distance."""
    problem = data.draw(exact_problems(kind))
    curves = tensors(problem.curves, dtype)
    distance = FUNCTIONS[kind].distance(*curves)
    assert distance.dtype == dtype
    assert_near(kind, distance, problem.distance, problem.curves)
    sound_gradient(kind, distance, curves)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), dtype=dtypes)
def test_brute_force_agrees(
    kind: Kind, family: str, data: st.DataObject, dtype: torch.dtype
) -> None:
    """The distance is the brute-force one, and s, t and the points are where it is attained."""
    problem = data.draw(family_curves(kind, names=(family,)))
    curves = tensors(problem.curves, dtype)
    rounded = array(curves)
    expected = brute_force(kind, rounded).distance
    s, t, point_p, point_q, distance = closest = FUNCTIONS[kind].closest(*curves)

    assert_near(kind, distance, expected, rounded)
    assert all(value.dtype == dtype for value in closest)
    assert s.shape == t.shape == distance.shape == (len(expected),)
    assert point_p.shape == point_q.shape == curves[0].shape
    assert ((s >= 0) & (s <= 1) & (t >= 0) & (t <= 1)).all()

    # The points are the curves' own, and distance is the gap between them. Measured: a float32
    # fraction places a point of a long arc to 1.3e-7; 2e-6 short of antipodal, no arc is known
    # to better than 1e-10 in float64.
    slack = TOLERANCE[kind, dtype] * size_of(kind, rounded)
    on_p = points_on(kind, rounded[0], rounded[1], array(s))
    on_q = points_on(kind, rounded[2], rounded[3], array(t))
    np.testing.assert_allclose(array(point_p), on_p, rtol=0, atol=slack)
    np.testing.assert_allclose(array(point_q), on_q, rtol=0, atol=slack)
    gap = np.linalg.norm(on_p - on_q, axis=-1)
    np.testing.assert_allclose(gap, expected, rtol=0, atol=2 * slack)

    same = FUNCTIONS[kind].distance(*curves)
    np.testing.assert_array_equal(array(same), array(distance))
    sound_gradient(kind, distance, curves)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), dtype=dtypes)
def test_fractions_and_points_known_by_construction(
    kind: Kind, data: st.DataObject, dtype: torch.dtype
) -> None:
    """A closest point at an endpoint is that endpoint: s or t exactly 0 or 1."""
    problem = data.draw(exact_problems(kind, smooth=True))
    closest = FUNCTIONS[kind].closest(*tensors(problem.curves, dtype))
    for place, fraction in zip(problem.name.split("-"), (closest.s, closest.t), strict=True):
        if place == "inside":
            # Parallel segments (always so in d = 2) may be closest at an end as well.
            unique = np.isfinite(problem.gradient).all((0, -1))
            assert ((fraction > 0) & (fraction < 1))[torch.as_tensor(unique)].all()
        else:
            assert (fraction == float(place == "end")).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_float32_rounded_once(kind: Kind, dtype: torch.dtype) -> None:
    """Half-precision input is computed in float32 and comes back in its own dtype."""
    curves = FAMILIES["random"](np.random.default_rng(0), 16, 32)
    halves = tensors(curves, dtype)
    closest = FUNCTIONS[kind].closest(*halves)
    exact = FUNCTIONS[kind].closest(*(end.detach().float() for end in halves))
    for found, expected in zip(closest, exact, strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found.detach(), expected.to(dtype), rtol=0, atol=0)
    closest.distance.sum().backward()
    assert all(end.grad.dtype == dtype and end.grad.isfinite().all() for end in halves)
