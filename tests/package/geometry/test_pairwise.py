"""All pairs at once: the same distances and gradients as one pair at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.brute_force import KINDS, Kind
from tests.oracles.checks import DTYPES, FUNCTIONS, array, assert_near, sound_gradient, tensors
from tests.oracles.strategies import DIMS, FAMILIES, Problem, family_curves, seeds

both_kinds = pytest.mark.parametrize("kind", KINDS)
dtypes = st.sampled_from(DTYPES)


def crowds(kind: Kind, *names: str) -> st.SearchStrategy[Problem]:
    """One curve or several, of any of the families `names` (of all, if none is given)."""
    return st.sampled_from((1, 2, 7, 13)).flatmap(
        lambda batch: family_curves(kind, names=names or tuple(FAMILIES), batch=batch)
    )


@both_kinds
@given(data=st.data(), dtype=dtypes)
def test_pairwise_is_every_pair(kind: Kind, data: st.DataObject, dtype: torch.dtype) -> None:
    """Entry (i, j) is the distance of curve i of P and curve j of Q, degenerate ones included."""
    p0, p1, *_ = one = tensors(data.draw(crowds(kind)).curves, dtype)
    dim = st.just((p0.shape[-1],))
    other = data.draw(dim.flatmap(lambda dims: family_curves(kind, dims=dims, batch=5)))
    _, _, q0, q1 = two = tensors(other.curves, dtype)
    found = FUNCTIONS[kind].pairwise(p0, p1, q0, q1)
    assert found.shape == (len(p0), len(q0))
    assert found.dtype == dtype
    expected = FUNCTIONS[kind].distance(p0[:, None], p1[:, None], q0, q1)
    together = np.concatenate([array(one), array(two)], axis=1)
    assert_near(kind, found, expected, together)
    grads = torch.autograd.grad(found.sum(), [p0, p1, q0, q1])
    assert all(grad.isfinite().all() for grad in grads)


@both_kinds
@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data(), dtype=dtypes)
def test_matching_pairs_are_on_the_diagonal(
    kind: Kind, family: str, data: st.DataObject, dtype: torch.dtype
) -> None:
    """The pairs that a family makes touch, cross or run parallel are as near as one by one."""
    problem = data.draw(crowds(kind, family))
    curves = tensors(problem.curves, dtype)
    found = FUNCTIONS[kind].pairwise(*curves).diagonal()
    assert_near(kind, found, FUNCTIONS[kind].distance(*curves), array(curves))
    sound_gradient(kind, found, curves)


@both_kinds
@given(seed=seeds(), dtype=dtypes, dim=st.sampled_from(DIMS))
def test_gradient_of_a_weighted_sum(kind: Kind, seed: int, dtype: torch.dtype, dim: int) -> None:
    """A curve's gradient gathers that of all its pairs, each with its own weight."""
    rng = np.random.default_rng(seed)
    p0, p1, q0, q1 = curves = tensors(FAMILIES["random"](rng, 9, dim), dtype)
    weights = torch.tensor(rng.normal(size=(9, 9)), dtype=dtype)
    weights[:, 3] = 0  # and none where the loss looks away
    one_by_one = FUNCTIONS[kind].distance(p0[:, None], p1[:, None], q0, q1)
    weights[one_by_one < 0.01] = 0  # the rounding of a square, 1e-15, counts by its inverse
    expected = torch.autograd.grad((weights * one_by_one).sum(), curves)
    found = torch.autograd.grad((weights * FUNCTIONS[kind].pairwise(*curves)).sum(), curves)
    np.testing.assert_array_equal(array(found[2][3]), 0)
    np.testing.assert_array_equal(array(found[3][3]), 0)
    # Random endpoints are about one long, but one may be short and its gradient large.
    allowed = 100 * torch.finfo(dtype).eps * max(np.abs(array(expected)).max(), 1.0)
    allowed = max(allowed, 1e-10)
    np.testing.assert_allclose(array(found), array(expected), rtol=0, atol=allowed)


@both_kinds
def test_more_curves_than_one_block(kind: Kind) -> None:
    """Hundreds of thousands of pairs, in counts that divide by little, still match one by one."""
    rng = np.random.default_rng(0)
    p0, p1, *_ = FAMILIES["random"](rng, 701, 4)
    _, _, q0, q1 = FAMILIES["random"](rng, 401, 4)
    ends = [torch.as_tensor(end) for end in (p0, p1, q0, q1)]
    found = FUNCTIONS[kind].pairwise(*ends)
    expected = FUNCTIONS[kind].distance(ends[0][:, None], ends[1][:, None], *ends[2:])
    assert_near(kind, found, expected, np.stack([p0, p1]))


@given(seed=seeds(), dim=st.sampled_from(DIMS))
def test_far_from_the_origin(seed: int, dim: int) -> None:
    """Inner products grow with the distance from the origin, the error of a distance does not."""
    rng = np.random.default_rng(seed)
    near = FAMILIES["random"](rng, 5, dim)
    curves = tensors(near + 1e5 * rng.normal(size=dim))
    found = FUNCTIONS["segment"].pairwise(*curves)
    # The shift itself rounds the endpoints by up to 3e-11 in each coordinate.
    wanted = FUNCTIONS["segment"].pairwise(*tensors(near))
    np.testing.assert_allclose(array(found), array(wanted), rtol=0, atol=1e-10 * dim**0.5)
    sound_gradient("segment", found.diagonal(), curves)


@both_kinds
@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0), (0, 0)])
def test_no_curves(kind: Kind, rows: int, columns: int) -> None:
    """No curves on a side: an empty matrix that still backpropagates."""
    p0, p1 = torch.ones(2, rows, 4, requires_grad=True)
    q0, q1 = torch.ones(2, columns, 4, requires_grad=True)
    found = FUNCTIONS[kind].pairwise(p0, p1, q0, q1)
    assert found.shape == (rows, columns)
    grads = torch.autograd.grad(found.sum(), [p0, p1, q0, q1])
    assert all(grad.isfinite().all() for grad in grads)


@both_kinds
def test_strided_input(kind: Kind) -> None:
    """Transposed and sliced views are ordinary inputs."""
    block = torch.randn(6, 4, 10, dtype=torch.float64)
    views = [block[:, i, ::2].contiguous().T.contiguous().T for i in range(4)]
    found = FUNCTIONS[kind].pairwise(*(block[:, i, ::2] for i in range(4)))
    torch.testing.assert_close(found, FUNCTIONS[kind].pairwise(*views), rtol=0, atol=1e-14)
