"""The shape checks that the whole suite runs under are on, and can fail."""

import inspect

import pytest
import torch
from beartype.roar import BeartypeDoorHintViolation
from jaxtyping import Float
from torch import Tensor

from loopml import geometry, ops
from loopml.batch import Batch
from loopml.ops import solve
from loopml.pairing import pair_up
from tests.oracles import shapes


@pytest.mark.parametrize(("owner", "stub"), shapes.STUBS, ids=lambda x: getattr(x, "__name__", x))
def test_every_stub_is_installed(owner: object, stub: shapes.Stub) -> None:
    assert inspect.unwrap(vars(owner)[stub.__name__]) is not vars(owner)[stub.__name__]


def test_references_between_modules_are_checked_too() -> None:
    """A module that imported the function calls the check."""
    assert geometry.arc_distance is geometry.arcs.arc_distance
    assert ops.nearest_arcs is ops.search.nearest_arcs
    assert solve.arc_weights is geometry.arcs.arc_weights


def transpose(x: Tensor) -> Tensor:
    return x.mT


def test_a_wrong_result_is_an_error() -> None:
    """One letter is one size in a call; what a function returns is held to it."""

    def right(x: Float[Tensor, "a b"]) -> Float[Tensor, "b a"]: ...

    def wrong(x: Float[Tensor, "a b"]) -> Float[Tensor, "a b"]: ...

    assert shapes.checked(transpose, right)(torch.ones(2, 3)).shape == (3, 2)
    with pytest.raises(BeartypeDoorHintViolation, match=r"a b"):
        shapes.checked(transpose, wrong)(torch.ones(2, 3))


def test_a_wrong_argument_or_field_is_an_error() -> None:
    with pytest.raises(BeartypeDoorHintViolation, match=r"\*b 4 d"):
        geometry.arcs.products_of(torch.ones(2, 3, 5))
    labels = torch.tensor([0, 0, 1])
    shapes.check(pair_up("all", Batch(torch.eye(3), labels)).negatives, shapes.pairs("p"))
    with pytest.raises(BeartypeDoorHintViolation, match="p 1"):
        shapes.check(pair_up("all", Batch(torch.eye(3), labels)).negatives, shapes.pairs("p 1"))


def test_other_parameters_are_an_error() -> None:
    def other(y: Float[Tensor, "a b"]) -> Float[Tensor, "b a"]: ...

    with pytest.raises(TypeError, match="transpose has other parameters"):
        shapes.checked(transpose, other)
