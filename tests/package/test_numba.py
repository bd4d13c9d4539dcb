"""The compiled search: the choices of pure torch, bit for bit, on every kind of batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from loopml import compiled as seam
from loopml import ops
from loopml._types import Gram, Pairs, Side
from loopml.batch import Batch
from loopml.ops import scores
from loopml.pairing import pair_up
from loopml.selection import smallest_per_group
from tests.oracles.searches import LAYOUTS as SEVERAL
from tests.oracles.searches import gram_of as square_of
from tests.oracles.searches import own_products, problem, side

pytest.importorskip("numba", reason="numba is not installed: pip install '.[fast]'")

DTYPES = (torch.float32, torch.float64)
EVEN = (0.0, 1 / 3, 2 / 3, 1.0)
# (op, its options): fractions of rows and columns, normalize, similarity, unit.
OPS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "arcs": ("nearest_arcs", ()),
    "segments": ("nearest_segments", ()),
    "samples": ("nearest_samples", (EVEN, EVEN, False, False, False)),
    "directions": ("nearest_samples", (EVEN[:3], (0, 0.25, 0.5, 0.75, 1), True, False, False)),
    "products": ("nearest_samples", ((0.0,), (0.0, 1.0), False, True, False)),
    "cosines": ("nearest_samples", (EVEN, EVEN, True, True, False)),
    "unit": ("nearest_samples", (EVEN, EVEN, True, False, True)),
    "between": ("nearest_samples", (EVEN[1:3], EVEN, True, False, True)),
    "without an end": ("nearest_samples", (EVEN, EVEN[1:], True, False, True)),
}
ON_SPHERE = ("arcs", "cosines", "unit", "between", "without an end")
# A problem takes a millisecond, and the fixture is the same for all.
many = hypothesis.settings(
    max_examples=100, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
every_op = pytest.mark.parametrize("name", OPS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def _exact_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A square root that is rounded to nearest, as a processor's is.

    Torch's may be off by the last bit, and then so are a score and, between equal scores, a choice.
    """

    def sqrt(x: Tensor) -> Tensor:
        return torch.from_numpy(np.sqrt(x.numpy()))

    monkeypatch.setattr(Tensor, "sqrt", sqrt)
    monkeypatch.setattr(Tensor, "sqrt_", lambda x: x.copy_(sqrt(x)))


def compiled(name: str, gram: Gram, rows: Side, cols: Side, k: int) -> tuple[Tensor, Tensor]:
    op, options = OPS[name]
    if not options:
        return getattr(ops, op)(gram, rows, cols, k)
    *fractions, normalize, similarity, unit = options
    return ops.nearest_samples(
        gram, rows, cols, *fractions, normalize=normalize, similarity=similarity, unit=unit, k=k
    )


def purely(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns without compiled functions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seam, "kernels", lambda: None)
        return function(*arguments)


def check(name: str, gram: Tensor, rows: Pairs, cols: Pairs, k: int = 1) -> None:
    """Indices and values are those of pure torch."""
    index, value = compiled(name, *problem(gram, rows, cols), k)
    wanted, values = purely(compiled, name, *problem(gram, rows, cols), k)
    assert index.dtype == wanted.dtype
    assert value.dtype == values.dtype
    assert torch.equal(index, wanted)
    assert torch.equal(value, values)


def curves_of(labels: Tensor) -> Pairs:
    """Every pair of a class, and every lone sample."""
    return pair_up("all", Batch(torch.empty(len(labels), 1), labels)).negatives


def clustered(n: int, d: int) -> Tensor:
    return torch.randn(n // 4 + 1, d)[torch.arange(n) // 4] + 0.3 * torch.randn(n, d)


def opposite(n: int, d: int) -> Tensor:
    x = torch.randn(n, d)
    x[1::2] = -x[::2][: n // 2] * (1 + 1e-3 * torch.rand(n // 2, 1))
    return x


def half_spaces(n: int, d: int) -> Tensor:
    """No two classes of two come within a right angle."""
    x = -torch.ones(n, d) + 1e-2 * torch.randn(n, d)
    return x * torch.where(torch.arange(n) < n // 2, -1, 1).unsqueeze(1)


FAMILIES: dict[str, Callable[[int, int], Tensor]] = {
    "random": torch.randn,
    "clustered": clustered,
    "collapsed": lambda n, d: torch.ones(n, d) + 1e-3 * torch.rand(n, d),
    "duplicates": lambda n, d: torch.randn(n, d)[torch.arange(n) % (n // 3 + 1)],
    "one point": lambda n, d: torch.randn(1, d).expand(n, d),
    "opposite": opposite,
    "half spaces": half_spaces,
    "integers": lambda n, d: torch.randint(-2, 3, (n, d)) + 0.0,
    "zero rows": lambda n, d: torch.randn(n, d) * (torch.arange(n) % 5 > 1).unsqueeze(1),
    "all zero": torch.zeros,
    "one circle": lambda n, d: torch.randn(n, d) * (torch.arange(d) < 2),
    "far rows": lambda n, d: clustered(n, d) + 100.0 * (torch.arange(n) == 5).unsqueeze(1),
    "huge": lambda n, d: 1e15 * torch.randn(n, d),
    "tiny": lambda n, d: 1e-15 * torch.randn(n, d),
    "of every size": lambda n, d: torch.randn(n, d) * 10.0 ** torch.randint(-9, 10, (n, 1)),
}
LAYOUTS = {**SEVERAL, "one": lambda n: torch.zeros(n, dtype=torch.int64)}


def gram_of(name: str, family: str, n: int, d: int, dtype: torch.dtype) -> Tensor:
    x = FAMILIES[family](n, d).double()
    if name in ON_SPHERE:
        length = x.norm(dim=1, keepdim=True)
        x = x / torch.where(length > 0, length, 1)
    x = x.to(dtype)
    return x @ x.T


# --- The search ---------------------------------------------------------------------------------


@every_dtype
@every_op
@pytest.mark.parametrize("family", FAMILIES)
def test_finds_what_pure_torch_finds(family: str, name: str, dtype: torch.dtype) -> None:
    """Every layout, in dimensions where curves cross and where they do not; one and several."""
    for d, layout in zip((2, 3, 128, 2, 4, 8, 16), LAYOUTS, strict=True):
        gram = gram_of(name, family, 26, d, dtype)
        cols = curves_of(LAYOUTS[layout](26))
        cols = cols.take(torch.randperm(len(cols.first)))
        rows = cols.take(slice(None, None, 3))
        for k in (1, 3 if d > 2 else len(cols.first)):
            check(name, gram, rows, cols, k)


@hypothesis.given(
    name=st.sampled_from(list(OPS)),
    family=st.sampled_from(list(FAMILIES)),
    layout=st.sampled_from(list(LAYOUTS)),
    dtype=st.sampled_from(DTYPES),
    n=st.integers(2, 40),
    d=st.sampled_from([1, 2, 3, 5, 32]),
    k=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 2**31),
)
@many
def test_finds_what_pure_torch_finds_anywhere(
    name: str, family: str, layout: str, dtype: torch.dtype, n: int, d: int, k: int, seed: int
) -> None:
    torch.manual_seed(seed)
    gram = gram_of(name, family, n, d, dtype)
    curves = curves_of(LAYOUTS[layout](n))
    check(name, gram, curves, curves, min(k, len(curves.first)))


@every_op
@pytest.mark.parametrize("family", ["random", "clustered"])
def test_finds_what_pure_torch_finds_among_many(name: str, family: str) -> None:
    """A batch whose columns are looked up by the ends within reach."""
    for d in (3, 128):
        curves = curves_of(torch.arange(300) // 4)
        check(name, gram_of(name, family, 300, d, torch.float32), curves, curves)


@every_op
def test_ties_go_to_the_lowest_column(name: str) -> None:
    """Columns that are there three times, and rows of integers, whose scores are often equal."""
    for family in ("random", "integers"):
        gram = gram_of(name, family, 24, 3, torch.float32)
        curves = curves_of(torch.arange(24) // 4)
        order = torch.randperm(len(curves.first))
        thrice = curves.take(torch.cat([order, order, order.flip(0)]))
        for k in (1, 2, 7):
            check(name, gram, curves, thrice, k)
        index, _ = compiled(name, *problem(gram, curves, thrice), 1)
        assert int(index.max()) < len(order)


@every_op
def test_nan_is_no_score(name: str) -> None:
    for bad in (math.nan, math.inf):
        gram = gram_of(name, "random", 24, 5, torch.float32)
        gram[7] = gram[:, 7] = bad
        curves = curves_of(torch.arange(24) // 2)
        for k in (1, 3):
            check(name, gram, curves, curves, k)


@every_op
def test_rows_without_a_column_have_none(name: str) -> None:
    gram = gram_of(name, "random", 12, 4, torch.float64)
    curves = curves_of(torch.arange(12) // 4)
    only = curves.take(curves.label == 0)
    for k in (1, 3):
        check(name, gram, curves, only, k)
        index, value = compiled(name, *problem(gram, only, only), k)
        assert (index == -1).all()
        assert (value == torch.inf).all()


@every_op
@pytest.mark.parametrize(("r", "c"), [(0, 5), (5, 0), (0, 0)])
def test_nothing_is_ordinary_input(name: str, r: int, c: int) -> None:
    gram = gram_of(name, "random", 12, 4, torch.float32)
    curves = curves_of(torch.arange(12) // 4)
    check(name, gram, curves.take(slice(r)), curves.take(slice(c)))


@every_op
def test_a_rectangle_is_a_part_of_the_square(name: str) -> None:
    """Rows join the first points and columns the others, each side with its own numbers."""
    for family in ("clustered", "zero rows"):
        gram = gram_of(name, family, 40, 6, torch.float32)
        labels = torch.arange(40) // 2 % 8
        rows, cols = curves_of(labels[:16]), curves_of(labels[16:])
        moved = Pairs(cols.first + 16, cols.second + 16, cols.label)
        square = gram.diagonal()
        matrix = Gram(gram[:16, 16:], square[:16], square[16:])
        sides = side(gram, rows), side(gram[16:, 16:], cols)
        for k in (1, 3):
            index, value = compiled(name, matrix, *sides, k)
            wanted, values = purely(compiled, name, *problem(gram, rows, moved), k)
            assert torch.equal(index, wanted)
            assert torch.equal(value, values)


@every_op
def test_reads_any_strides_and_labels(name: str) -> None:
    gram = gram_of(name, "clustered", 40, 6, torch.float64)
    gram = gram.repeat_interleave(2, 1)[:, ::2].T
    assert not gram.is_contiguous()
    curves = curves_of((torch.arange(40) // 3).to(torch.int16))
    curves = Pairs(*(torch.stack([x, 0 * x], 1)[:, 0] for x in curves))
    check(name, gram, curves, curves)


@pytest.mark.parametrize("name", ["segments", "samples"])
def test_distances_serve_as_a_gram_matrix(name: str) -> None:
    x = clustered(40, 6)
    gram = -(x.unsqueeze(1) - x).square().sum(-1) / 2
    curves = curves_of(torch.arange(40) // 4)
    check(name, gram, curves, curves)


def test_a_point_may_belong_to_two_labels() -> None:
    """Then no bound hides its columns from either."""
    gram = gram_of("arcs", "clustered", 40, 4, torch.float32)
    first, second = torch.randint(40, (2, 90))
    curves = Pairs(first, second, torch.randint(3, (90,)))
    lowest = scores.arc_scores(
        scores.grid_corners(gram, curves, curves),
        scores.arc_terms(own_products(gram, curves)).unsqueeze(-1),
        scores.arc_terms(own_products(gram, curves)).unsqueeze(-2),
    )
    lowest = lowest.masked_fill(curves.label.unsqueeze(1) == curves.label, -torch.inf)
    index, value = compiled("arcs", *problem(gram, curves, curves), 1)
    assert torch.equal(index[:, 0], lowest.argmax(1))
    assert torch.equal(value[:, 0], -scores.root(lowest.amax(1)))


def test_threads_search_at_once() -> None:
    grams = [gram_of("arcs", "clustered", 128, 6, torch.float32) for _ in range(8)]
    curves = curves_of(torch.arange(128) // 4)

    def search(gram: Tensor) -> tuple[Tensor, Tensor]:
        return compiled("arcs", *problem(gram, curves, curves), 2)

    alone = [search(gram) for gram in grams]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(search, grams * 4))
    for found, wanted in zip(together, alone * 4, strict=True):
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])


# --- Labels -------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_farthest_positives(layout: str, dtype: torch.dtype) -> None:
    for family in ("random", "integers", "duplicates"):
        gram = gram_of("segments", family, 30, 3, dtype)
        labels = LAYOUTS[layout](30).int()
        found = ops.farthest_positives(square_of(gram), labels)
        assert torch.equal(found, purely(ops.farthest_positives, square_of(gram), labels))
    assert ops.farthest_positives(square_of(gram[:0, :0]), labels[:0]).shape == (0,)


@every_dtype
def test_smallest_per_group(dtype: torch.dtype) -> None:
    for e in (0, 1, 50):
        value = torch.randint(4, (e,)).to(dtype)
        value[value == 3] = torch.inf
        group = torch.randint(9, (e,))
        found = smallest_per_group(value, group, 12)
        wanted = purely(smallest_per_group, value, group, 12)
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])
