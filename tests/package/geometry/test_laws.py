"""The laws of a distance between sets: no reference value, only what must not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.brute_force import KINDS, Kind, points_on, unit
from tests.oracles.checks import DTYPES, FUNCTIONS, array, assert_near, sound_gradient, tensors
from tests.oracles.strategies import (
    DIMS,
    FAMILIES,
    UNIQUE_ARC_FAMILIES,
    Problem,
    family_curves,
    orthonormal,
)

both_kinds = pytest.mark.parametrize("kind", KINDS)
dtypes = st.sampled_from(DTYPES)


def unique_curves(kind: Kind) -> st.SearchStrategy[Problem]:
    """Families whose curves survive arithmetic; rounding makes an antipodal arc another arc."""
    return family_curves(kind, names=UNIQUE_ARC_FAMILIES if kind == "arc" else tuple(FAMILIES))


@both_kinds
@given(data=st.data(), dtype=dtypes)
def test_swap(kind: Kind, data: st.DataObject, dtype: torch.dtype) -> None:
    """d(P, Q) = d(Q, P)."""
    problem = data.draw(family_curves(kind))
    p0, p1, q0, q1 = curves = tensors(problem.curves, dtype)
    distance = FUNCTIONS[kind].distance(q0, q1, p0, p1)
    assert_near(kind, distance, FUNCTIONS[kind].distance(*curves), problem.curves)
    sound_gradient(kind, distance, curves)


@both_kinds
@given(data=st.data(), dtype=dtypes)
def test_reversal(kind: Kind, data: st.DataObject, dtype: torch.dtype) -> None:
    """d((p1, p0), Q) = d((p0, p1), Q): a curve is the same set from its other end."""
    problem = data.draw(family_curves(kind))
    p0, p1, q0, q1 = curves = tensors(problem.curves, dtype)
    expected = FUNCTIONS[kind].distance(*curves)
    for ends in ((p1, p0, q0, q1), (p0, p1, q1, q0)):
        distance = FUNCTIONS[kind].distance(*ends)
        assert_near(kind, distance, expected, problem.curves)
        sound_gradient(kind, distance, curves)


@both_kinds
@given(data=st.data())
def test_isometry(kind: Kind, data: st.DataObject) -> None:
    """d(UP, UQ) = d(P, Q) for orthogonal U, antipodal arcs included."""
    problem = data.draw(family_curves(kind, dims=tuple(d for d in DIMS if d <= 128)))
    dim = problem.curves.shape[-1]
    rotation = orthonormal(np.random.default_rng(problem.seed), 1, dim, dim)[:, 0]
    turned = tensors(problem.curves @ rotation)
    distance = FUNCTIONS[kind].distance(*turned)
    expected = FUNCTIONS[kind].distance(*tensors(problem.curves))
    assert_near(kind, distance, expected, problem.curves)
    sound_gradient(kind, distance, turned)


@both_kinds
@given(data=st.data(), dtype=dtypes, extra=st.integers(1, 9))
def test_zero_padding(kind: Kind, data: st.DataObject, dtype: torch.dtype, extra: int) -> None:
    """d((P, 0), (Q, 0)) = d(P, Q), and the new dimensions get no gradient."""
    problem = data.draw(family_curves(kind))
    padded = tensors(np.pad(problem.curves, ((0, 0), (0, 0), (0, extra))), dtype)
    distance = FUNCTIONS[kind].distance(*padded)
    expected = FUNCTIONS[kind].distance(*tensors(problem.curves, dtype))
    assert_near(kind, distance, expected, problem.curves)
    gradient = sound_gradient(kind, distance, padded)
    np.testing.assert_array_equal(gradient[..., -extra:], 0)


@both_kinds
@given(data=st.data(), fraction=st.floats(0, 1))
def test_subdivision(kind: Kind, data: st.DataObject, fraction: float) -> None:
    """d(P1 + P2, Q) = min(d(P1, Q), d(P2, Q)) for a curve cut in two."""
    problem = data.draw(unique_curves(kind))
    p0, p1, q0, q1 = problem.curves
    cut = points_on(kind, p0, p1, np.full(len(p0), fraction))
    parts = [tensors(np.stack(ends)) for ends in ((p0, cut, q0, q1), (cut, p1, q0, q1))]
    distances = [FUNCTIONS[kind].distance(*part) for part in parts]
    whole = FUNCTIONS[kind].distance(*tensors(problem.curves))
    assert_near(kind, whole, torch.minimum(*distances), problem.curves)
    for distance, part in zip(distances, parts, strict=True):
        sound_gradient(kind, distance, part)


@both_kinds
@given(data=st.data(), dtype=dtypes)
def test_corners_are_upper_bounds(kind: Kind, data: st.DataObject, dtype: torch.dtype) -> None:
    """d(P, Q) <= |p_i - q_j| for each pair of endpoints."""
    problem = data.draw(family_curves(kind))
    curves = tensors(problem.curves, dtype)
    distance = FUNCTIONS[kind].distance(*curves)
    p0, p1, q0, q1 = unit(array(curves)) if kind == "arc" else array(curves)
    corners = [np.linalg.norm(p - q, axis=-1) for p in (p0, p1) for q in (q0, q1)]
    nearest = torch.as_tensor(np.min(corners, axis=0)).to(dtype)
    assert_near(kind, torch.minimum(distance, nearest), distance, array(curves))
    sound_gradient(kind, distance, curves)


@both_kinds
@given(data=st.data())
def test_embedding_expansion_tends_to_loop_from_above(kind: Kind, data: st.DataObject) -> None:
    """Corners >= EE(1) >= EE(3) >= ... >= LoOp, and EE(n) is within half a step of it."""
    problem = data.draw(family_curves(kind))
    p0, p1, q0, q1 = problem.curves
    curves = tensors(problem.curves)
    distance = FUNCTIONS[kind].distance(*curves)
    values = []
    for n in (0, 1, 3, 7, 15, 31):  # each set of points contains the one before
        fractions = np.broadcast_to(np.linspace(0, 1, n + 2), (len(p0), n + 2))
        sampled_p = points_on(kind, p0, p1, fractions)[:, :, None]
        sampled_q = points_on(kind, q0, q1, fractions)[:, None]
        values.append(np.linalg.norm(sampled_p - sampled_q, axis=-1).min((1, 2)))
    assert (np.diff(values, axis=0) <= 0).all()
    longest = np.linalg.norm(p1 - p0, axis=-1) + np.linalg.norm(q1 - q0, axis=-1)
    half_step = (2 * np.pi if kind == "arc" else longest) / (2 * 32)
    low, high = torch.as_tensor(values[-1] - half_step), torch.as_tensor(values[-1])
    assert_near(kind, torch.minimum(distance, high), distance, problem.curves)
    assert_near(kind, torch.maximum(distance, low), distance, problem.curves)
    sound_gradient(kind, distance, curves)


@both_kinds
@given(data=st.data(), dtype=dtypes)
def test_broadcasting_is_a_loop(kind: Kind, data: st.DataObject, dtype: torch.dtype) -> None:
    """d(P, Q)[i, j] = d(P[i], Q[j]): leading axes broadcast, and each entry is its own."""
    problem = data.draw(family_curves(kind, batch=12))
    p0, p1, q0, q1 = tensors(problem.curves, dtype)
    shaped = (p0[:3, None], p1[3], q0[None, :4], q1[:12].reshape(3, 4, -1))
    closest = FUNCTIONS[kind].closest(*shaped)
    assert closest.distance.shape == closest.s.shape == closest.t.shape == (3, 4)
    assert closest.point_p.shape == closest.point_q.shape == (3, 4, p0.shape[-1])
    for i in range(3):
        for j in range(4):
            one = FUNCTIONS[kind].closest(p0[i], p1[3], q0[j], q1[4 * i + j])
            assert one.distance.shape == one.s.shape == one.t.shape == ()
            assert_near(kind, closest.distance[i, j], one.distance, problem.curves)
    grads = torch.autograd.grad(closest.distance.sum(), [p0, p1, q0, q1])
    assert all(grad.isfinite().all() for grad in grads)
