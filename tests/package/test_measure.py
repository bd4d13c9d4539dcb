"""The chosen pairs, solved and measured: in pure torch, and compiled where numba is installed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, compiled
from loopml._types import Pairs, Rows, Scaled
from loopml.batch import Batch
from loopml.curves import Arcs, Curve, Segments, samples
from loopml.measure import Negatives, measure_distance, row_distance
from loopml.points import points_of
from loopml.spaces import DOT_PRODUCT, EUCLIDEAN, SPHERE, Space
from tests.oracles.brute_force import brute_force
from tests.oracles.strategies import FAMILIES

Pure = Callable[[], None]
PATHS = ("pure", "compiled")


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of the measure."""
    name: str = request.param
    if name == "pure":
        monkeypatch.setattr(compiled, "kernels", lambda: None)
    else:
        pytest.importorskip("numba", reason="numba is not installed: pip install '.[fast]'")
    return name


def on_path(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns on one of the ways."""
    with pytest.MonkeyPatch.context() as patch:
        if name == "pure":
            patch.setattr(compiled, "kernels", lambda: None)
        return function(*arguments)


CURVES: dict[str, tuple[Space, Curve]] = {
    "arcs": (SPHERE, Arcs(of_units=True)),
    "arcs of any length": (EUCLIDEAN, Arcs(of_units=False)),
    "segments": (EUCLIDEAN, Segments()),
    "segments on the sphere": (SPHERE, Segments()),
    "samples": (EUCLIDEAN, samples(2, normalize=False, similarity=False)),
    "directions": (SPHERE, samples(2, normalize=True, similarity=False, on_sphere=True)),
    "scaled samples": (EUCLIDEAN, samples(3, normalize=True, similarity=False)),
    "products": (DOT_PRODUCT, samples(1, normalize=False, similarity=True)),
}


def measured(kind: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and distance of rows 4 i, 4 i + 1 with rows 4 i + 2, 4 i + 3."""
    space, curve = CURVES[kind]
    index = torch.arange(len(x)).view(-1, 4)
    points = points_of(space, curve, Batch(x, torch.arange(len(x))))
    cols = Pairs(index[:, 2], index[:, 3], index[:, 2])
    return measure_distance(curve, points, Negatives(index[:, 0], index[:, 1], cols))


@pytest.mark.parametrize("length", [1e-5, 8e-4, 0.5, 2.0])
@pytest.mark.parametrize("separation", [1e-5, 5.4e-4, 0.3, 2.0])
@pytest.mark.parametrize("kind", ["arcs", "segments"])
def test_short_curves_are_measured_as_long_ones(
    kind: str, length: float, separation: float
) -> None:
    """In float32, within 1e-6 of the distance and 2e-7 of the true minimum of those very rows."""
    rng = np.random.default_rng(int(1e6 * (length + separation)))
    rows = []
    for _ in range(4):
        base = np.linalg.qr(rng.normal(size=(16, 4)))[0].T
        turn = separation / 2 if kind == "segments" else np.arcsin(min(1.0, separation / 2))
        away = base[0] if kind == "segments" else np.cos(2 * turn) * base[0]
        away = away + (separation if kind == "segments" else np.sin(2 * turn)) * base[3]
        half = np.arcsin(min(0.999, length / 2))
        for middle, along in ((base[0], base[1]), (away, 0.76 * base[1] + 0.65 * base[2])):
            shift = rng.uniform(-0.4, 0.4)
            for angle in (shift - 1, shift + 1):
                rows.append(np.cos(half * angle) * middle + np.sin(half * angle) * along)
    x = torch.tensor(np.stack(rows), dtype=torch.float32)
    ends = x.double().view(-1, 4, 16).numpy().swapaxes(0, 1)
    wanted = brute_force("arc" if kind == "arcs" else "segment", ends).distance
    for name in PATHS if compiled.kernels() else PATHS[:1]:
        _, distance = on_path(name, measured, kind, x)
        assert (np.abs(distance.numpy() - wanted) <= 1e-6 * wanted + 2e-7).all()


# The weights of nearly parallel curves are known to few digits, their distance to all.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["32", "64"])
@pytest.mark.parametrize("kind", CURVES)
@given(seed=st.integers(0, 2**32 - 1), d=st.sampled_from([2, 3, 8, 64]), data=st.data())
def test_compiled_is_pure(kind: str, dtype: torch.dtype, seed: int, d: int, data: Any) -> None:
    """Distance and gradient, on every family of curves, zero rows and rows of any length."""
    pytest.importorskip("numba", reason="numba is not installed: pip install '.[fast]'")
    family = data.draw(st.sampled_from(sorted(FAMILIES)))
    rng = np.random.default_rng(seed)
    ends = FAMILIES[family](rng, 6, d)  # (4, b, d)
    x = torch.tensor(ends.swapaxes(0, 1).reshape(-1, d), dtype=dtype)
    x[rng.random(len(x)) < 0.05] = 0
    weight = torch.tensor(rng.normal(size=len(x) // 4), dtype=dtype)
    found = []
    for name in PATHS:
        rows = x.clone().requires_grad_()
        weights, distance = on_path(name, measured, kind, rows)
        (gradient,) = torch.autograd.grad((distance * weight).sum(), rows)
        assert weights.isfinite().all()
        assert gradient.isfinite().all()
        found.append((distance.detach(), gradient))
    size = float(x.norm(dim=1).max()) if CURVES[kind][0] is not SPHERE else 1.0
    # Of the size of the numbers: measured 1e-7 in float32, 2e-8 where float64 curves touch.
    tolerance = (1e-6 if dtype == torch.float32 else 1e-7) * size
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", [kind for kind in CURVES if kind != "products"])
def test_gradients_are_those_of_pure_torch(kind: str) -> None:
    """The first and the second one, of ordinary curves; also many at a time."""
    pytest.importorskip("numba", reason="numba is not installed: pip install '.[fast]'")
    torch.manual_seed(0)
    x = torch.randn(24, 5, dtype=torch.float64)
    weight = torch.randn(6, dtype=torch.float64)

    def value(rows: Tensor) -> Tensor:
        return (measured(kind, rows)[1] * weight).sum()

    found = []
    for name in PATHS:
        rows = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(on_path(name, value, rows), rows)
        (again,) = torch.autograd.grad(on_path(name, value, rows), rows, create_graph=True)
        (second,) = torch.autograd.grad(again.square().sum(), rows)
        distance = on_path(name, measured, kind, rows)[1]
        (each,) = torch.autograd.grad(
            distance, rows, torch.eye(6, dtype=torch.float64), is_grads_batched=True
        )
        found.append((first, again.detach(), second, each))
        torch.testing.assert_close(torch.einsum("b,bnd->nd", weight, each), first)
    for pure, fast in zip(*found, strict=True):
        torch.testing.assert_close(pure, fast, rtol=1e-9, atol=1e-9)


def test_a_zero_row_has_no_gradient_of_a_gradient() -> None:
    """In float32, where the least length of a direction is 0."""
    x = torch.randn(8, 3)
    x[1] = 0
    for kind in ("arcs", "arcs of any length", "directions"):
        rows = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(measured(kind, rows)[1].sum(), rows, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), rows)
        assert first.isfinite().all()
        assert second.isfinite().all()
        assert not first[1].any()


def test_touching_points_have_no_gradient(path: str) -> None:
    """Crossing arcs, and rows that are the same: distance 0, gradient 0."""
    x = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0.7], [1, 1, -0.7]], dtype=torch.float64)
    rows = x.clone().requires_grad_()
    _, distance = measured("arcs", rows)
    distance.sum().backward()
    assert distance.item() == 0
    assert not rows.grad.any()
    same = torch.ones(2, 3, requires_grad=True)
    apart = row_distance(Rows(same, None, same), torch.tensor([0]), torch.tensor([1]))
    apart.sum().backward()
    assert apart.item() == 0
    assert not same.grad.any()


def test_nan_stays(path: str) -> None:
    """A row that is NaN has no distance, and the others have theirs."""
    x = torch.randn(8, 3)
    x[1] = torch.nan
    for kind in ("arcs", "segments", "directions"):
        _, distance = measured(kind, x)
        assert distance.isnan().tolist() == [True, False]


def test_compiled_functions_take_plain_tensors_alone() -> None:
    """What a transform wraps, and what no numpy array can be, goes the pure way."""

    class Other(Tensor):
        pass

    pytest.importorskip("numba", reason="numba is not installed: pip install '.[fast]'")
    assert compiled.kernels_for(torch.ones(2)) is compiled.kernels()
    assert compiled.kernels_for(torch.ones(2).as_subclass(Other)) is None
    assert compiled.kernels_for(torch.ones(2, device="meta")) is None
    seen = []
    torch.func.vmap(lambda x: seen.append(compiled.kernels_for(x)) or x)(torch.ones(2))
    assert seen == [None]


def test_a_numba_that_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra: a broken one costs time and no training."""
    pytest.importorskip("numba", reason="numba is not installed: pip install '.[fast]'")

    def refuse(name: str) -> None:
        raise ImportError("Numba needs another NumPy")

    monkeypatch.setattr(compiled.importlib, "import_module", refuse)
    with pytest.warns(UserWarning, match="needs another NumPy.*PyTorch alone"):
        assert compiled.kernels.__wrapped__() is None


def test_threads_do_not_meet() -> None:
    """Several threads at once, as data-parallel training has them."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 16), torch.arange(64) // 4
    for made in (LoOpMiner(), EmbeddingExpansion()):
        loss = HPHNTripletLoss(synthesizer=made)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda x, loss=loss: loss(x, y), [x] * 16))
        assert all(torch.equal(value, loss(x, y)) for value in found)


def test_scaled_is_what_kernels_are_told() -> None:
    """Kernels compare with numbers, which must be those of the names."""
    kernels = pytest.importorskip(
        "loopml.ops.numba.distances", reason="numba is not installed: pip install '.[fast]'"
    )
    assert tuple(Scaled) == (kernels.NONE, kernels.BETWEEN, kernels.ALL)
