"""Lengths and directions: their gradients, first and second, at zero too."""

import pytest
import torch

from loopml.geometry.lengths import direction_of, length_of, power_of_two


def test_gradients_are_those_of_the_definition() -> None:
    """Against finite differences, once and twice."""
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    for function in (length_of, lambda x: direction_of(x, 1e-12)):
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)


@pytest.mark.parametrize("transform", ["none", "func", "compile"])
def test_zero_has_a_zero_gradient(transform: str) -> None:
    """Whichever gradient is used, ours or PyTorch's."""
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])

    def total(x: torch.Tensor) -> torch.Tensor:
        return length_of(x).sum() + direction_of(x, 1e-12)[:, 0].sum()

    if transform == "func":
        gradient = torch.func.grad(total)(x)
    else:
        function = torch.compile(total, backend="eager") if transform == "compile" else total
        leaf = x.requires_grad_()
        (gradient,) = torch.autograd.grad(function(leaf), leaf)
    # 1 / 5 of what of the first axis is orthogonal to (3, 4) / 5, plus that.
    wanted = torch.tensor([[0.0, 0.0], [0.6 + 0.128, 0.8 - 0.096]])
    torch.testing.assert_close(gradient, wanted)


def test_a_row_shorter_than_the_least_is_divided_by_that() -> None:
    found = direction_of(torch.tensor([[3e-13, 4e-13]]), 1e-12)
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.4]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_power_of_two_under_vmap(dtype: torch.dtype) -> None:
    """It is the same number as outside, of numbers of all sizes: a power of two, so it is exact."""
    x = torch.tensor([[0.0, 0.0], [1.0, -3.0], [0.7, 0.1], [-4.0, 2.0]], dtype=dtype)
    sizes = [1.0, 1e-30, 1e30, torch.finfo(dtype).tiny / 8, torch.finfo(dtype).max / 4]
    x = torch.cat([x * size for size in sizes])
    power = power_of_two(x)
    assert torch.equal(torch.func.vmap(power_of_two)(x), power)
    assert torch.equal(torch.frexp(power)[0], torch.full_like(power, 0.5))
