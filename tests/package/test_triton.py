"""The Triton kernels: on a GPU as they are, and without one by Triton's interpreter on the CPU."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from loopml import ops
from loopml._types import Pairs
from loopml.batch import Batch
from loopml.geometry import (
    pairwise_arc_distance,
    pairwise_segment_distance,
    segment_distance,
)
from loopml.ops.cuda import use_kernel
from loopml.ops.search import packed
from loopml.pairing import pair_up
from tests.oracles.searches import problem
from tests.oracles.strategies import FAMILIES

triton = pytest.importorskip("triton", reason="triton, which only CUDA needs, is not installed")

# The interpreter of Triton 3.0 does so itself, where numpy 1.25 or newer warns of it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Conversion of an array with ndim:DeprecationWarning"
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float32, torch.float64)
SIZES = (0, 1, 2, 33, 127)

EVEN = ([0, 1 / 3, 2 / 3, 1], [0, 1 / 3, 2 / 3, 1])
# (op, its options): all that a kernel does, and fractions that differ between the two sides.
OPS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "arcs": ("nearest_arcs", ()),
    "segments": ("nearest_segments", ()),
    "samples": ("nearest_samples", (*EVEN, False, False, False)),
    "directions": (
        "nearest_samples",
        ([0, 1 / 3, 2 / 3], [0, 0.25, 0.5, 0.75, 1], True, False, False),
    ),
    "products": ("nearest_samples", ([0], [0, 1], False, True, False)),
    "cosines": ("nearest_samples", (*EVEN, True, True, False)),
    "unit": ("nearest_samples", (*EVEN, True, False, True)),
}
every_op = pytest.mark.parametrize("name", OPS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    """The module of the kernels, interpreted where there is no GPU.

    Triton decides on import. The variable is set for that alone, so that the rest of the session
    stays as it is; ``tl.min`` is itself written in Triton and may have been imported before.
    """
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            with patch.context() as variable:
                variable.setenv("TRITON_INTERPRET", "1")
                patch.delitem(sys.modules, "loopml.ops.triton", raising=False)
                patch.setattr(triton.language, "min", triton.jit(triton.language.min.fn))
                module = importlib.import_module("loopml.ops.triton")
            # The interpreter takes as long for a tile of 500 scores as for one of 2000.
            patch.setattr(module, "_BLOCK_ROWS", 32)
            patch.setattr(module, "_BLOCK_COLS", 64)
        else:
            module = importlib.import_module("loopml.ops.triton")
        yield module


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel does not write shows."""
    empty = torch.empty

    def poisoned(*args: Any, **options: Any) -> Tensor:
        out = empty(*args, **options)
        return out.fill_(math.nan if out.is_floating_point() else -7777)

    monkeypatch.setattr(torch, "empty", poisoned)


def run(kernels: ModuleType, name: str, gram: Tensor, rows: Pairs, cols: Pairs) -> Any:
    """Index and value (r,) of a kernel."""
    op, options = OPS[name]
    tensors = [x.to(DEVICE) for x in packed(*problem(gram, rows, cols))]
    index, value = getattr(kernels, op)(*tensors, *options)
    r = len(rows.first)
    assert (index.shape, value.shape) == ((r, 1), (r, 1))
    assert (index.dtype, value.dtype) == (torch.int64, gram.dtype)
    return index[:, 0].cpu(), value[:, 0].cpu()


def scores(kernels: ModuleType, name: str, gram: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
    """What a kernel says of each pair of curves alone, whatever their labels: (r, c)."""
    rows = Pairs(rows.first, rows.second, torch.zeros_like(rows.first))
    cols = Pairs(cols.first, cols.second, torch.ones_like(cols.first))
    c = len(cols.first)
    return torch.stack(
        [run(kernels, name, gram, rows, cols.take(slice(j, j + 1)))[1] for j in range(c)], 1
    )


def tolerance(name: str, gram: Tensor) -> float:
    """Eight roundings of the largest score; measured: two for arcs, and one for the others."""
    size = 1 if name == "arcs" else float(gram.diagonal().max())
    return 8 * torch.finfo(gram.dtype).eps * size


def check(kernels: ModuleType, name: str, gram: Tensor, rows: Pairs, cols: Pairs) -> None:
    """A kernel finds what the op in pure torch finds, where that is more than rounding."""
    index, value = run(kernels, name, gram, rows, cols)
    op, options = OPS[name]
    if options:
        *fractions, normalize, similarity, unit = options
        keywords = {"normalize": normalize, "similarity": similarity, "unit": unit}
    else:
        fractions, keywords = [], {}
    c = len(cols.first)
    order, sorted_values = getattr(ops, op)(
        *problem(gram, rows, cols), *fractions, k=max(c, 1), **keywords
    )
    found = sorted_values[:, 0] < torch.inf
    tol = tolerance(name, gram)
    torch.testing.assert_close(value, sorted_values[:, 0], rtol=0, atol=tol)
    assert torch.equal(index >= 0, found)
    assert torch.equal(index[~found], torch.full_like(index[~found], -1))
    assert bool((rows.label[found] != cols.label[index[found]]).all())
    # The score of the column that was chosen; the index is the same where no other is as good.
    chosen = sorted_values[found][order[found] == index[found].unsqueeze(1)]
    assert bool((chosen <= sorted_values[found, 0] + tol).all())


def points_for(name: str, n: int, dtype: torch.dtype, dim: int = 6) -> Tensor:
    """Random points, on the sphere where the op asks for it."""
    points = torch.randn(n, dim, dtype=torch.float64) + 0.5
    if name in ("arcs", "cosines", "unit"):
        points = torch.nn.functional.normalize(points)
    return points.to(dtype)


def all_curves(labels: Tensor) -> Pairs:
    """Every pair of a class, and every lone sample."""
    return pair_up("all", Batch(torch.empty(len(labels), 1), labels)).negatives


def uneven(n: int) -> Tensor:
    """Labels of ``n`` samples in classes of 1, 2, 3, ..., 7, 1, 2, ..., unsorted and with gaps."""
    sizes = torch.arange(n) % 7 + 1
    return (17 - 3 * torch.arange(n).repeat_interleave(sizes)[:n])[torch.randperm(n)]


LAYOUTS = {
    "equal": torch.zeros(12, dtype=torch.int64),
    "different": torch.arange(40) - 3,
    "pairs": torch.arange(50) // 2,
    "consecutive": torch.arange(48) // 4,
    "two": torch.arange(14) % 2,
    "one against one": torch.tensor([5, 9]),
    "lone among pairs": torch.tensor([0, 0, 7, 1, 1, 8, 2, 2, 9]),
}


@every_dtype
@every_op
@pytest.mark.parametrize("layout", [*LAYOUTS, "uneven"])
def test_agrees_on_every_layout(
    kernels: ModuleType, name: str, dtype: torch.dtype, layout: str
) -> None:
    labels = uneven(60) if layout == "uneven" else LAYOUTS[layout]
    points = points_for(name, len(labels), dtype)
    curves = all_curves(labels)
    check(kernels, name, points @ points.T, curves, curves)


@every_op
@pytest.mark.parametrize("c", SIZES)
def test_agrees_on_every_size(kernels: ModuleType, name: str, c: int) -> None:
    """Also where a set is smaller than a tile, or one more, and where there is none at all.

    As many rows as columns, and another number of them.
    """
    labels = uneven(80)
    points, curves = points_for(name, 80, torch.float32), all_curves(labels)
    some = torch.randperm(len(curves.first))
    for r in (c, SIZES[SIZES.index(c) - 1]):
        check(
            kernels, name, points @ points.T, curves.take(some[:r]), curves.take(some[-c or 999 :])
        )


@every_op
def test_agrees_on_a_thousand(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if DEVICE == "cpu":
        monkeypatch.setattr(kernels, "_BLOCK_ROWS", 256)
        monkeypatch.setattr(kernels, "_BLOCK_COLS", 512)
    labels = uneven(500)
    points, curves = points_for(name, 500, torch.float32), all_curves(labels)
    some = torch.randperm(len(curves.first))[:1000]
    check(kernels, name, points @ points.T, curves.take(some), curves)


@every_op
def test_agrees_with_the_tile_of_a_gpu(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Several blocks of rows, several tiles of columns, and the last of either half full."""
    monkeypatch.setattr(kernels, "_BLOCK_ROWS", 4)
    monkeypatch.setattr(kernels, "_BLOCK_COLS", 128)
    labels = uneven(100)
    points, curves = points_for(name, 100, torch.float32), all_curves(labels)
    check(kernels, name, points @ points.T, curves.take(slice(30)), curves.take(slice(300)))


@every_dtype
@pytest.mark.parametrize("name", ["arcs", "unit"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_agrees_on_zero_rows(
    kernels: ModuleType, name: str, dtype: torch.dtype, layout: str
) -> None:
    """As ends, lone, several in a class, and opposite rows beside them."""
    labels = LAYOUTS[layout]
    points = points_for(name, len(labels), dtype)
    points[::3] = 0
    points[1] = -points[-1]
    curves = all_curves(labels)
    check(kernels, name, points @ points.T, curves, curves)


@every_dtype
@pytest.mark.parametrize("name", ["segments", "samples"])
def test_agrees_on_distances_as_a_gram_matrix(
    kernels: ModuleType, name: str, dtype: torch.dtype
) -> None:
    labels = uneven(60)
    points, curves = points_for(name, 60, dtype), all_curves(labels)
    gram = points @ points.T
    sq = (points.unsqueeze(1) - points).square().sum(-1)
    index, value = run(kernels, name, -sq / 2, curves, curves)
    wanted = run(kernels, name, gram, curves, curves)[1]
    # Measured: 2 roundings of the largest square.
    torch.testing.assert_close(value, wanted, rtol=0, atol=2 * tolerance(name, gram))
    assert bool((index >= 0).all())


@every_op
def test_reads_any_strides(kernels: ModuleType, name: str) -> None:
    labels = uneven(60).int()
    points, curves = points_for(name, 60, torch.float64), all_curves(labels)
    gram = (points @ points.T).repeat_interleave(2, 1)[:, ::2].T
    some = Pairs(*(torch.stack([x, 0 * x], 1)[:, 0] for x in curves)).take(slice(None, None, 2))
    assert not gram.is_contiguous()
    assert not some.label.is_contiguous()
    check(kernels, name, gram, some, some)


# --- The truth, by other formulas ----------------------------------------------------------------

# Arcs within sqrt(32 eps) of half a turn have a middle that is rounding, by up to a sixteenth.
HALF_TURN = ("nearly_antipodal", "long_crossing")


def joined(curves: Tensor) -> tuple[Tensor, Pairs, Pairs]:
    """From endpoints (4, b, d) the points (4 b, d), and b row curves and b column curves."""
    first = torch.arange(curves.shape[1])
    p0, p1, q0, q1 = (first + i * len(first) for i in range(4))
    return curves.flatten(0, 1), Pairs(p0, p1, 0 * first), Pairs(q0, q1, 0 * first + 1)


@every_dtype
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["arcs", "segments"])
def test_no_curve_looks_nearer_than_it_is(
    kernels: ModuleType, name: str, family: str, dtype: torch.dtype
) -> None:
    """Nor farther, but for arcs of nearly half a turn, whose insides the Gram matrix loses."""
    curves = torch.tensor(FAMILIES[family](np.random.default_rng(0), 3, 4))
    if name == "arcs":
        curves = torch.nn.functional.normalize(curves, dim=-1)
    points, rows, cols = joined(curves.to(dtype))
    found = scores(kernels, name, points @ points.T, rows, cols).double()
    ends = [points.double()[index] for index in (*rows[:2], *cols[:2])]
    if name == "arcs":
        truth = pairwise_arc_distance(*ends).square() / 2 - 1
    else:
        truth = pairwise_segment_distance(*ends).square()
    half_turn = name == "arcs" and family in HALF_TURN
    # Measured: 240 eps for arcs of which an end is half a turn away, and 7e-11 for arcs of 1e-8; 5
    # eps for segments, of which the distance of nearly parallel ones is itself known to 1e-8.
    size = float(points.square().sum(1).max())
    tol = (512 if name == "arcs" else 32) * torch.finfo(dtype).eps * size + 1e-9
    assert bool((found >= truth - (1 / 16 if half_turn else tol)).all())
    assert half_turn or bool((found <= truth + tol).all())
    assert name == "arcs" or bool((found >= 0).all())


@every_dtype
@pytest.mark.parametrize("angle", [1e-1, 1e-2, 1e-3, 1e-5])
def test_nearly_parallel_segments_keep_their_distance(
    kernels: ModuleType, dtype: torch.dtype, angle: float
) -> None:
    """Segments that cross over at a small angle, where the nearest points are ill-determined."""
    u, v, away = torch.linalg.qr(torch.randn(8, 5, 3, dtype=torch.float64))[0].unbind(2)
    shift = torch.randn(8, 1, dtype=torch.float64) / 4 * u + away
    w = u + angle * v
    curves = torch.stack([-u, u, shift - w, shift + w]).to(dtype)
    points, rows, cols = joined(curves)
    found = torch.cat(
        [
            scores(kernels, "segments", points @ points.T, rows.take([i]), cols.take([i]))[0]
            for i in range(8)
        ]
    )
    truth = segment_distance(*curves.double()).square()
    tol = 32 * torch.finfo(dtype).eps * float(points.square().sum(1).max())
    torch.testing.assert_close(found.double(), truth, rtol=0, atol=tol)


@every_dtype
@pytest.mark.parametrize("name", [name for name, (_, options) in OPS.items() if options])
def test_samples_are_points_of_the_pairs(
    kernels: ModuleType, name: str, dtype: torch.dtype
) -> None:
    """The points themselves, one by one."""
    points = points_for(name, 24, dtype)
    p, q = torch.arange(12).view(2, 6), torch.arange(12, 24).view(2, 6)
    q[:, 4] = q[0, 4]  # a lone sample
    points[p[1, 3]] = -points[p[0, 3]]  # a pair whose middle has no direction
    points[q[:, 2]] = points[p[:, 2]]  # the same pair
    rows, cols = Pairs(*p, 0 * p[0]), Pairs(*q, 0 * q[0])
    row_fractions, col_fractions, normalize, similarity, _ = OPS[name][1]

    def sampled(pairs: Pairs, fractions: list[float]) -> Tensor:
        ends = points.double()[pairs.first], points.double()[pairs.second]
        out = []
        for f in fractions:
            point = (1 - f) * ends[0] + f * ends[1]
            inside = normalize and 0 < f < 1
            out.append(torch.nn.functional.normalize(point, dim=1) if inside else point)
        return torch.stack(out)

    x, y = sampled(rows, row_fractions), sampled(cols, col_fractions)
    if similarity:
        truth = -torch.einsum("ird,jcd->ijrc", x, y).amax((0, 1))
    else:
        truth = (x[:, None, :, None] - y[None, :, None]).square().sum(-1).amin((0, 1))
    found = scores(kernels, name, points @ points.T, rows, cols).double()
    torch.testing.assert_close(found, truth, rtol=0, atol=tolerance(name, points @ points.T))
    assert similarity or bool((found >= 0).all())


# --- Ties, and what has no answer ----------------------------------------------------------------


@every_dtype
@every_op
def test_the_first_of_equal_columns_wins(
    kernels: ModuleType, name: str, dtype: torch.dtype
) -> None:
    """Bit for bit by the kernel's own scores, over columns that each come several times."""
    points, curves = points_for(name, 24, dtype), all_curves(torch.arange(24) // 2)
    gram, rows, some = points @ points.T, curves.take(slice(6)), curves.take(slice(6, 12))
    single = scores(kernels, name, gram, rows, some)
    again = torch.randint(6, (150,))  # three tiles
    index, value = run(kernels, name, gram, rows, some.take(again))
    repeated = single[:, again]
    assert torch.equal(value, repeated.amin(1))
    expected = [row.tolist().index(row.min()) for row in repeated]
    assert index.tolist() == expected


@every_dtype
@every_op
def test_curves_that_share_their_nearest_end_tie(
    kernels: ModuleType, name: str, dtype: torch.dtype
) -> None:
    """Whichever of their ends it is, and wherever their other ends are."""
    middle, aside = torch.eye(6, dtype=torch.float64)[:2]
    noise = torch.randn(5, 6, dtype=torch.float64)
    to_side = 0.1 * noise[:2] * (1 - middle - aside)
    anchors = middle + torch.cat([to_side, -to_side])  # two pairs are nearest in their middles
    hub = (middle + 0.8 * aside).unsqueeze(0)
    beyond = middle + 3 * aside + 0.3 * noise[2:]
    points = torch.cat([anchors, hub, beyond])
    if name not in ("segments", "samples", "products"):
        points = torch.nn.functional.normalize(points)
    if name == "products":  # the longest is the nearest
        points[4] *= 9
    points = points.to(dtype)
    rows = all_curves(torch.zeros(4, dtype=torch.int64))
    others = torch.arange(5, 8)
    hubs = torch.full_like(others, 4)
    # A lone end as well; between two equal ends the samples are not quite equal.
    lone = hubs[: name in ("arcs", "segments")]
    first = torch.cat([others, hubs, others, lone])
    second = torch.cat([hubs, others, others.flip(0), lone])
    order = torch.randperm(len(first))
    cols = Pairs(first[order], second[order], torch.ones_like(first))
    gram = points @ points.T
    single = scores(kernels, name, gram, rows, cols)
    at_hub = (cols.first == 4) | (cols.second == 4)
    index, value = run(kernels, name, gram, rows, cols)
    assert torch.equal(single[:, at_hub], value.unsqueeze(1).expand(-1, 6 + len(lone)))
    assert torch.equal(index, torch.full_like(index, int(at_hub.nonzero()[0])))


@every_op
def test_no_rows_and_no_columns(kernels: ModuleType, name: str) -> None:
    points, curves = points_for(name, 6, torch.float32), all_curves(torch.arange(6) // 2)
    gram, none = points @ points.T, curves.take(slice(0))
    assert run(kernels, name, gram, none, curves)[0].tolist() == []
    assert run(kernels, name, gram[:0, :0], none, none)[1].tolist() == []
    index, value = run(kernels, name, gram, curves, none)
    assert index.tolist() == [-1] * 3
    assert value.tolist() == [math.inf] * 3


@every_op
def test_nan_is_not_chosen(kernels: ModuleType, name: str) -> None:
    """A curve of NaN is no neighbour, not even one at distance zero, and has none."""
    points, curves = points_for(name, 8, torch.float32), all_curves(torch.arange(8) // 2)
    gram, whole = points @ points.T, [0, 2, 3]
    index, value = run(kernels, name, gram, curves.take(whole), curves.take(whole))
    points[2:4] = math.nan
    found, at = run(kernels, name, points @ points.T, curves, curves)
    assert found[1] == -1
    assert at[1] == math.inf
    assert torch.equal(found[whole], torch.tensor(whole)[index])
    assert torch.equal(at[whole], value)


def test_products_that_underflow_leave_the_edges(kernels: ModuleType) -> None:
    """The square of a direction of size 1e-24 is zero in float32, and zero by zero is no score."""
    gram = torch.eye(4) * 1.0
    gram[:2, 2:] = torch.tensor([[3e-12, 1e-12], [1e-12, 2e-12]])
    gram[2:, :2] = gram[:2, 2:].T
    rows, cols = (Pairs(*torch.tensor([[i], [i + 1], [i]])) for i in (0, 2))
    found = float(scores(kernels, "arcs", gram, rows, cols))
    assert found == pytest.approx(-(10**0.5) * 1e-12, rel=1e-6, abs=0)


# --- The seam ------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3])
def test_a_kernel_takes_over_one_nearest(kernels: ModuleType, k: int) -> None:
    """By PyTorch's dispatcher, on ops of the same schema; more than one is left to them."""
    points, curves = points_for("arcs", 12, torch.float64), all_curves(torch.arange(12) // 3)
    gram = (points @ points.T).to(DEVICE)
    tensors = [x.to(DEVICE) for x in packed(*problem(gram.cpu(), curves, curves))]
    calls = []

    def torch_only(*args: Any) -> tuple[Tensor, Tensor]:
        calls.append(args)
        shape = (len(args[3]), args[-1])
        return args[3].new_full(shape, -1), args[0].new_full(shape, math.inf)

    for name in ("nearest_arcs", "nearest_segments", "nearest_samples"):
        schema = str(getattr(torch.ops.loopml, name).default._schema)
        op = torch.library.custom_op(
            f"loopml_test{k}::{name}",
            torch_only,
            mutates_args=(),
            schema=schema[schema.index("(") :],
        )
        use_kernel(op, name, device=DEVICE)
    namespace = getattr(torch.ops, f"loopml_test{k}")
    for name, options in OPS.values():
        index, value = getattr(namespace, name)(*tensors, *options, k)
        assert index.shape == value.shape == (12, k)
        assert bool((index >= 0).all()) == (k == 1)
    assert len(calls) == (0 if k == 1 else len(OPS))


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from loopml.ops import triton as kernels

class Driver:  # of a GPU that is not there
    def get_current_target(self): return GPUTarget("cuda", 80, 32)
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0

triton.runtime.driver.set_active(Driver())
compiled, run = {}, kernels._search.run

def compile_only(*args, warmup, **options):
    kernel = run(*args, warmup=True, **options)
    compiled[kernel.hash] = kernel.asm

kernels._search.run = compile_only
for dtype in (torch.float32, torch.float64):
    for n in (1, 16, 33):
        gram, i = torch.eye(n, dtype=dtype), torch.arange(n)
        curves = (i, i, i % 2, gram.diagonal()) * 2
        tensors = (gram, gram.diagonal(), gram.diagonal(), *curves)
        kernels.nearest_arcs(*tensors)
        kernels.nearest_segments(*tensors)
        kernels.nearest_samples(*tensors, [0, 0.5], [0, 0.5, 1], True, False, False)
        kernels.nearest_samples(*tensors, [0, 0.5], [0, 0.5, 1], True, True, False)
for asm in compiled.values():
    offsets = [line for line in asm["ttir"].splitlines() if "addptr" in line]
    wide = sum("xi64>" in line.split(",")[-1] for line in offsets)
    print("fma." in asm["ptx"], wide)
"""


@pytest.mark.skipif("nvidia" not in triton.backends.backends, reason="triton compiles no CUDA here")
def test_compiles_for_a_gpu(tmp_path: Path) -> None:
    """The interpreter takes more than the compiler; this needs no GPU.

    Eight kernels: three ops, one of them two ways, in two dtypes, and no further one for other
    numbers of curves. No fused multiply-add. Six offsets into the Gram matrix are int64: two of
    its rows and the four entries.
    """
    path = Path(ops.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(path), "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.splitlines() == ["False 6"] * 8
