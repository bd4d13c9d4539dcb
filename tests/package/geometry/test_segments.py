"""What holds of segments alone: they move and grow with their space."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loopml.geometry import closest_on_segments, segment_distance
from tests.oracles.checks import DTYPES, array, assert_near, sound_gradient, tensors
from tests.oracles.strategies import family_curves


@given(data=st.data())
def test_translation_changes_nothing(data: st.DataObject) -> None:
    """|(p + v) - (q + v)| = |p - q|."""
    problem = data.draw(family_curves("segment"))
    rng = np.random.default_rng(problem.seed)
    moved = problem.curves + np.abs(problem.curves).max() * rng.normal(size=problem.curves.shape[2])
    curves = tensors(moved)
    distance = segment_distance(*curves)
    assert_near("segment", distance, segment_distance(*tensors(problem.curves)), moved)
    sound_gradient("segment", distance, curves)


@given(data=st.data(), dtype=st.sampled_from(DTYPES), power=st.integers(-40, 40))
def test_distance_scales(data: st.DataObject, dtype: torch.dtype, power: int) -> None:
    """Segments twice the size are twice the distance apart, with the same fractions."""
    problem = data.draw(family_curves("segment", scales=(1.0,)))
    curves = tensors(problem.curves, dtype)
    grown = tensors(array(curves) * 2.0**power, dtype)  # exact
    one, other = closest_on_segments(*curves), closest_on_segments(*grown)
    assert_near("segment", other.distance, array(one.distance) * 2.0**power, array(grown))
    sound_gradient("segment", other.distance, grown)


@pytest.mark.parametrize("dtype", DTYPES)
def test_far_from_the_origin_differences_count(dtype: torch.dtype) -> None:
    """A distance a million times smaller than the coordinates is exact: coordinates cancel."""
    ends = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.5, 1, 1], [0.5, -1, 1]], dtype=dtype)
    curves = [(end / 1024 + 1000).requires_grad_() for end in ends]
    closest = closest_on_segments(*curves)
    assert closest.distance.item() == pytest.approx(1 / 1024, rel=1e-6)
    assert (closest.s.item(), closest.t.item()) == pytest.approx((0.5, 0.5), abs=1e-6)
    sound_gradient("segment", closest.distance, curves)


@pytest.mark.parametrize(
    ("ends", "distance", "s", "t"),
    [
        pytest.param([[0, 0], [2, 0], [1, 1], [1, 3]], 1, 0.5, 0, id="foot inside p"),
        pytest.param([[1, 1], [1, 3], [0, 0], [2, 0]], 1, 0, 0.5, id="foot inside q"),
        pytest.param([[0, 0], [2, 2], [0, 2], [2, 0]], 0, 0.5, 0.5, id="crossing in the plane"),
        pytest.param([[0, 0], [1, 0], [4, 4], [4, 8]], 5, 1, 0, id="corner to corner"),
        pytest.param([[0, 0], [1, 0], [3, 0], [2, 0]], 1, 1, 1, id="on one line"),
        pytest.param([[1, 1], [1, 1], [0, 0], [4, 0]], 1, None, 0.25, id="point and segment"),
        pytest.param([[3, 4], [3, 4], [0, 0], [0, 0]], 5, None, None, id="two points"),
    ],
)
def test_by_hand(
    ends: list[list[float]], distance: float, s: float | None, t: float | None
) -> None:
    """Cases a reader can check on paper; None where a fraction is anything."""
    curves = tensors(np.array(ends, dtype=float))
    found = closest_on_segments(*curves)
    assert found.distance.item() == pytest.approx(distance, abs=1e-15)
    for fraction, expected in ((found.s, s), (found.t, t)):
        assert 0 <= fraction.item() <= 1
        assert expected is None or fraction.item() == pytest.approx(expected, abs=1e-15)
    sound_gradient("segment", found.distance, curves)
