"""The gradient: the envelope's where the minimiser is unique, finite and bounded elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.brute_force import KINDS, Kind, slopes
from tests.oracles.checks import DTYPES, FUNCTIONS, array, sound_gradient, tensors
from tests.oracles.strategies import TOUCHING_FAMILIES, exact_problems, family_curves

both_kinds = pytest.mark.parametrize("kind", KINDS)
dtypes = st.sampled_from(DTYPES)

# Worst of 30 000 gradients known by construction: 3.5e-13 and 1.0e-5. Rounding an endpoint moves
# the closest point further where the curves run almost parallel (here at most a cosine of 0.95).
GRADIENT_ERROR = {torch.float64: 1e-11, torch.float32: 1e-4}


@both_kinds
@given(data=st.data(), dtype=dtypes)
def test_gradient_known_by_construction(
    kind: Kind, data: st.DataObject, dtype: torch.dtype
) -> None:
    """Each endpoint is pulled along the common normal by its weight at the closest point."""
    problem = data.draw(exact_problems(kind, smooth=True))
    curves = tensors(problem.curves, dtype)
    found = sound_gradient(kind, FUNCTIONS[kind].distance(*curves), curves)
    unique = np.isfinite(problem.gradient).all((0, -1))
    np.testing.assert_allclose(
        found[:, unique], problem.gradient[:, unique], rtol=0, atol=GRADIENT_ERROR[dtype]
    )


@both_kinds
@given(data=st.data())
def test_gradient_is_the_slope_of_brute_force(kind: Kind, data: st.DataObject) -> None:
    """Autograd and central differences of an independent search agree on random curves."""
    names = ("random", "clustered", "opposed")
    problem = data.draw(family_curves(kind, names=names, dims=(2, 3, 4, 6), batch=4, scales=(1.0,)))
    shape = problem.curves.shape
    directions = np.random.default_rng(problem.seed).normal(size=(4, *shape)) / shape[-1] ** 0.5
    expected, trusted = slopes(kind, problem.curves, directions)
    curves = tensors(problem.curves)
    gradient = sound_gradient(kind, FUNCTIONS[kind].distance(*curves), curves)
    found = np.einsum("kebd,ebd->kb", directions, gradient)
    # Trusted differences are good to 5e-9.
    np.testing.assert_allclose(found[:, trusted], expected[:, trusted], rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("kind", "family"), [(kind, family) for kind in KINDS for family in TOUCHING_FAMILIES[kind]]
)
@given(data=st.data())
def test_touching_curves_have_no_gradient(kind: Kind, family: str, data: st.DataObject) -> None:
    """Below rounding a distance has no direction to shrink in: zero, not noise."""
    problem = data.draw(family_curves(kind, names=(family,)))
    curves = tensors(problem.curves)
    gradient = sound_gradient(kind, FUNCTIONS[kind].distance(*curves), curves)
    np.testing.assert_array_equal(gradient, 0)


@both_kinds
@given(data=st.data(), dtype=dtypes)
def test_points_carry_the_gradient_and_fractions_do_not(
    kind: Kind, data: st.DataObject, dtype: torch.dtype
) -> None:
    """|point_p - point_q| has the gradient of distance; s and t are constants."""
    problem = data.draw(exact_problems(kind, smooth=True))
    curves = tensors(problem.curves, dtype)
    closest = FUNCTIONS[kind].closest(*curves)
    assert not closest.s.requires_grad
    assert not closest.t.requires_grad
    by_points = torch.linalg.vector_norm(closest.point_p - closest.point_q, dim=-1)
    found = sound_gradient(kind, by_points, curves)
    expected = sound_gradient(kind, closest.distance, curves)
    # In float32 a difference of rounded points has another direction than the exact one.
    np.testing.assert_allclose(found, expected, rtol=0, atol=GRADIENT_ERROR[dtype])


@given(data=st.data(), dtype=dtypes)
def test_segment_points_are_weighted_sums(data: st.DataObject, dtype: torch.dtype) -> None:
    """The gradient of a point is its two weights."""
    problem = data.draw(family_curves("segment"))
    curves = tensors(problem.curves, dtype)
    closest = FUNCTIONS["segment"].closest(*curves)
    weights = (1 - closest.s, closest.s, 1 - closest.t, closest.t)
    grads = torch.autograd.grad((closest.point_p + closest.point_q).sum(), curves)
    for grad, weight in zip(grads, weights, strict=True):
        torch.testing.assert_close(grad, weight[:, None].expand_as(grad))


@both_kinds
@pytest.mark.parametrize("wanted", range(4))
def test_gradient_of_one_endpoint_alone(kind: Kind, wanted: int) -> None:
    """An endpoint that wants no gradient takes none and changes nothing."""
    curves = tensors(np.random.default_rng(0).normal(size=(4, 8, 5)))
    expected = sound_gradient(kind, FUNCTIONS[kind].distance(*curves), curves)[wanted]
    alone = [end.detach().requires_grad_(i == wanted) for i, end in enumerate(curves)]
    FUNCTIONS[kind].distance(*alone).sum().backward()
    np.testing.assert_allclose(array(alone[wanted].grad), expected, rtol=0, atol=1e-15)
    assert all(end.grad is None for i, end in enumerate(alone) if i != wanted)


@both_kinds
@given(data=st.data())
def test_function_transforms(kind: Kind, data: st.DataObject) -> None:
    """`torch.func.grad` and `vmap`, alone and composed, see what autograd sees."""
    problem = data.draw(exact_problems(kind, smooth=True))
    curves = tensors(problem.curves)
    distance = FUNCTIONS[kind].distance
    expected = distance(*curves)
    gradient = sound_gradient(kind, expected, curves)
    plain = [end.detach() for end in curves]
    mapped = torch.func.vmap(distance)(*plain)
    torch.testing.assert_close(mapped, expected.detach())
    every = tuple(range(4))
    summed = torch.func.grad(lambda *ends: distance(*ends).sum(), argnums=every)(*plain)
    each = torch.func.vmap(torch.func.grad(distance, argnums=every))(*plain)
    unique = np.isfinite(problem.gradient).all((0, -1))
    for found in (summed, each):
        np.testing.assert_allclose(
            array(found)[:, unique], gradient[:, unique], rtol=0, atol=GRADIENT_ERROR[torch.float64]
        )
