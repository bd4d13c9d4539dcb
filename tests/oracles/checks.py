"""What the geometry tests have in common: the functions, the tolerances, the gradient check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from loopml import geometry
from tests.oracles.brute_force import ANTIPODAL, Kind, size_of, unit

DTYPES = (torch.float64, torch.float32)

# The contract is 1e-6 in float64 and 1e-4 in float32; the measured errors allow much less. Largest
# over all families, d 2..512, relative to the largest endpoint (arcs: absolute):
#   segments in float64: 5e-13, for long arms that nearly meet;
#   arcs in float64: 1.2e-8, for arcs of nearly the same great circle; laws compare two such;
#   float32: 8e-8, the rounding of the result.
TOLERANCE: dict[tuple[Kind, torch.dtype], float] = {
    ("segment", torch.float64): 1e-11,
    ("arc", torch.float64): 3e-8,
    ("segment", torch.float32): 5e-7,
    ("arc", torch.float32): 5e-7,
}


class Functions(NamedTuple):
    """The public functions for one kind of curve."""

    closest: Callable[..., geometry.Closest]
    distance: Callable[..., Tensor]
    pairwise: Callable[..., Tensor]


FUNCTIONS: dict[Kind, Functions] = {
    "segment": Functions(
        geometry.closest_on_segments,
        geometry.segment_distance,
        geometry.pairwise_segment_distance,
    ),
    "arc": Functions(
        geometry.closest_on_arcs,
        geometry.arc_distance,
        geometry.pairwise_arc_distance,
    ),
}


def tensors(curves: np.ndarray, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """p0, p1, q0, q1 as leaves that want a gradient."""
    return [torch.tensor(end, dtype=dtype, requires_grad=True) for end in curves]


def array(values: Tensor | Sequence[Tensor]) -> np.ndarray:
    """What the tensors hold, exactly: a float64 array, or a stack of them."""
    if isinstance(values, Tensor):
        return values.detach().double().numpy(force=True)
    return np.stack([array(value) for value in values])


def assert_near(
    kind: Kind, found: Tensor, expected: np.ndarray | Tensor, curves: np.ndarray
) -> None:
    """`found` is a distance or a point of `curves` (4, b, d), to the tolerance of its dtype."""
    expected = array(expected) if isinstance(expected, Tensor) else expected
    allowed = TOLERANCE[kind, found.dtype] * size_of(kind, curves)
    np.testing.assert_allclose(array(found), expected, rtol=0, atol=allowed)


def gradient_bound(kind: Kind, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """How fast a point of a curve can move with its two endpoints (b,).

    Never faster than the endpoints of a segment. A point of an arc is `w0 p0 + w1 p1`, and the
    norm of (w0, w1) is largest, 1 / (sqrt(2) cos(angle / 2)), in the middle of an obtuse arc.
    """
    if kind == "segment":
        return np.ones(start.shape[:-1])
    cos_half = np.linalg.norm(unit(start) + unit(end), axis=-1) / 2
    swing = 1 / np.maximum(cos_half * 2**0.5, ANTIPODAL)
    return np.where(2 * cos_half < ANTIPODAL, 1, np.maximum(1, swing))


def sound_gradient(
    kind: Kind, distance: Tensor, curves: Sequence[Tensor], slack: float = 1e-3
) -> np.ndarray:
    """The gradient (4, b, d) of `distance` (b,), after checking that it is finite and bounded.

    A distance changes no faster than the points it is taken between. The `slack` is for rounding:
    1e-3 is what float32 leaves of an arc 2e-6 short of antipodal.
    """
    grads = array(torch.autograd.grad(distance.sum(), list(curves), retain_graph=True))
    assert np.isfinite(grads).all()
    ends = array(curves)
    per_direction = grads * np.linalg.norm(ends, axis=-1, keepdims=True) if kind == "arc" else grads
    for i in (0, 2):
        size = np.sqrt((per_direction[i : i + 2] ** 2).sum((0, -1)))
        assert (size <= gradient_bound(kind, ends[i], ends[i + 1]) * (1 + slack)).all()
    return grads
