"""The oracle and the exact answers agree, having nothing in common."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.brute_force import (
    KINDS,
    Kind,
    brute_force,
    coordinates,
    points_on,
    size_of,
    slopes,
)
from tests.oracles.strategies import FAMILIES, exact_problems, family_curves, seeds

# Worst of 20 000 rows, d 2..512, touching ones included: 2e-12 of the largest endpoint.
SEARCH_ERROR = 1e-11
# Rounding an endpoint (2e-16) 2e-6 short of antipodal turns its arc by 1e-10.
ROUNDED_ENDPOINT = 1e-9
# Worst of 8 000 trusted slopes: 5e-9.
SLOPE_ERROR = 1e-8


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_search_finds_the_answer_known_by_construction(kind: Kind, data: st.DataObject) -> None:
    """The distance of the search is the distance of the construction."""
    problem = data.draw(exact_problems(kind))
    found = brute_force(kind, problem.curves).distance
    np.testing.assert_allclose(
        found, problem.distance, rtol=0, atol=SEARCH_ERROR * size_of(kind, problem.curves)
    )


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_search_reports_a_gap_that_exists_and_no_sample_beats_it(
    kind: Kind, data: st.DataObject
) -> None:
    """The distance is attained at s and t, and is a lower bound of random gaps, in any family."""
    problem = data.draw(family_curves(kind))
    p0, p1, q0, q1 = problem.curves
    found = brute_force(kind, problem.curves)
    attained = points_on(kind, p0, p1, found.s) - points_on(kind, q0, q1, found.t)
    slack = ROUNDED_ENDPOINT * size_of(kind, problem.curves)
    np.testing.assert_allclose(
        np.linalg.norm(attained, axis=-1), found.distance, rtol=0, atol=slack
    )
    s, t = np.random.default_rng(problem.seed).random((2, len(p0), 200))
    sampled = points_on(kind, p0, p1, s) - points_on(kind, q0, q1, t)
    assert (np.linalg.norm(sampled, axis=-1).min(1) >= found.distance - slack).all()


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_slopes_are_those_of_the_construction(kind: Kind, data: st.DataObject) -> None:
    """Central differences of the search give the gradient known by construction."""
    problem = data.draw(
        exact_problems(kind, dims=(2, 3, 4, 8), batch=3, scales=(1.0,), smooth=True)
    )
    shape = problem.curves.shape
    directions = np.random.default_rng(problem.seed).normal(size=(4, *shape)) / shape[-1] ** 0.5
    found, trusted = slopes(kind, problem.curves, directions)
    expected = np.einsum("kebd,ebd->kb", directions, problem.gradient)
    trusted &= np.isfinite(expected).all(0)
    np.testing.assert_allclose(found[:, trusted], expected[:, trusted], rtol=0, atol=SLOPE_ERROR)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds())
def test_coordinates_keep_the_distance(kind: Kind, seed: int) -> None:
    """Searching in the span of the endpoints is searching in the whole space."""
    curves = FAMILIES["random"](np.random.default_rng(seed), 3, 9)
    whole = np.concatenate([curves, np.zeros((4, 3, 1))], axis=-1)
    narrow = coordinates(kind, whole)
    assert narrow.shape == (4, 3, 4)
    np.testing.assert_allclose(
        brute_force(kind, narrow).distance, brute_force(kind, whole).distance, atol=SEARCH_ERROR
    )
    s, t = np.random.default_rng(seed).random((2, 3))
    gaps = [
        np.linalg.norm(points_on(kind, p0, p1, s) - points_on(kind, q0, q1, t), axis=-1)
        for p0, p1, q0, q1 in (whole, narrow)
    ]
    np.testing.assert_allclose(*gaps, atol=1e-14)


def test_antipodal_arc_is_its_two_endpoints() -> None:
    """An arc without a unique great circle has no points between its endpoints."""
    east, north = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    curves = np.stack([east, -3 * east, north, north])
    assert brute_force("arc", curves).distance == pytest.approx(np.sqrt(2))
    ends = points_on("arc", east, -3 * east, np.array([[0.0, 0.2, 0.8, 1.0]]))
    np.testing.assert_allclose(ends[0], [[1, 0], [1, 0], [-1, 0], [-1, 0]], atol=1e-15)
