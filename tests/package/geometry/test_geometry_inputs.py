"""Bad input: an error that names the argument, for every public function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from loopml import geometry

ARGUMENTS = ("p0", "p1", "q0", "q1")
ANY_ARGUMENT = r"\b[pq][01]\b"  # where it is their combination that is wrong
ELEMENTWISE = (
    "closest_on_segments",
    "closest_on_arcs",
    "segment_distance",
    "arc_distance",
)
PAIRWISE = ("pairwise_segment_distance", "pairwise_arc_distance")
ARCS = tuple(name for name in ELEMENTWISE + PAIRWISE if "arc" in name)

every_function = pytest.mark.parametrize("name", ELEMENTWISE + PAIRWISE)
every_argument = pytest.mark.parametrize("argument", ARGUMENTS)


def call(name: str, **bad: object) -> object:
    """The function on good input (3, 4), but for the arguments given."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    good = {end: torch.randn(3, 4, generator=generator) for end in ARGUMENTS}
    function: Callable[..., object] = getattr(geometry, name)
    return function(**(good | bad))


def with_entry(value: float) -> Tensor:
    """A good tensor with one bad entry in its middle row."""
    return torch.ones(3, 4).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(value))


@every_function
def test_good_input_is_accepted(name: str) -> None:
    """What the tests below spoil is fine before, and the arguments go by these names."""
    assert call(name) is not None


@every_function
@every_argument
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(name: str, argument: str, value: float) -> None:
    """NaN and infinity are reported where they come in."""
    with pytest.raises(ValueError, match=rf"\b{argument}\b"):
        call(name, **{argument: with_entry(value)})


@every_function
@every_argument
@pytest.mark.parametrize(
    "value",
    [
        pytest.param([[1.0] * 4] * 3, id="list"),
        pytest.param(np.ones((3, 4), dtype=np.float32), id="array"),
        pytest.param(torch.ones(3, 4, dtype=torch.int64), id="integers"),
        pytest.param(torch.ones(3, 4, dtype=torch.bool), id="booleans"),
        pytest.param(None, id="none"),
    ],
)
def test_not_a_floating_tensor(name: str, argument: str, value: object) -> None:
    """Only floating-point tensors are embeddings."""
    with pytest.raises(TypeError, match=rf"\b{argument}\b"):
        call(name, **{argument: value})


@every_function
@every_argument
def test_mixed_dtypes(name: str, argument: str) -> None:
    """No silent promotion: two dtypes are two sources of embeddings."""
    with pytest.raises((TypeError, ValueError)):
        call(name, **{argument: torch.ones(3, 4, dtype=torch.float64)})


@every_function
@every_argument
def test_other_dimension(name: str, argument: str) -> None:
    """Endpoints live in one space; a last axis of one does not broadcast either."""
    for dim in (5, 1):
        with pytest.raises(ValueError, match=ANY_ARGUMENT):
            call(name, **{argument: torch.ones(3, dim)})


@every_function
@every_argument
def test_rank_zero(name: str, argument: str) -> None:
    """A number is no point."""
    with pytest.raises(ValueError, match=rf"\b{argument}\b"):
        call(name, **{argument: torch.tensor(1.0)})


@pytest.mark.parametrize("name", ELEMENTWISE)
@every_argument
def test_leading_axes_that_do_not_broadcast(name: str, argument: str) -> None:
    """Two rows against three are an error, not a crash deep inside."""
    with pytest.raises(ValueError, match=ANY_ARGUMENT):
        call(name, **{argument: torch.ones(2, 4)})


@pytest.mark.parametrize("name", PAIRWISE)
@every_argument
@pytest.mark.parametrize("shape", [(4,), (1, 3, 4)])
def test_pairwise_rank(name: str, argument: str, shape: tuple[int, ...]) -> None:
    """All pairs means two matrices."""
    with pytest.raises(ValueError, match=rf"\b{argument}\b"):
        call(name, **{argument: torch.ones(shape)})


@pytest.mark.parametrize("name", PAIRWISE)
@every_argument
def test_pairwise_length(name: str, argument: str) -> None:
    """Both ends of a curve come in the same number, and one does not broadcast."""
    for rows in (2, 1):
        with pytest.raises(ValueError, match=rf"\b{argument[0]}[01]\b"):
            call(name, **{argument: torch.ones(rows, 4)})


@pytest.mark.parametrize("name", ARCS)
@every_argument
def test_zero_direction(name: str, argument: str) -> None:
    """Zero has no direction."""
    zero_row = torch.ones(3, 4).index_fill(0, torch.tensor(1), 0.0)
    with pytest.raises(ValueError, match=rf"\b{argument}\b"):
        call(name, **{argument: zero_row})
