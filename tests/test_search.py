"""The search ops against all pairs of curves, on every path that an implementation can take."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from loopml import ops
from loopml._types import Pairs
from loopml.geometry import pairwise_arc_distance, pairwise_segment_distance
from loopml.ops import blocks, bounds, search

FRACTIONS = (0.0, 1 / 3, 2 / 3, 1.0)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def rows_of(family: str, n: int, d: int) -> Tensor:
    """Float64 vectors, of length one in all families but one."""
    x = torch.randn(n, d, dtype=torch.float64)
    if family == "clustered":
        x = torch.randn(n // 4 + 1, d, dtype=torch.float64)[torch.arange(n) // 4] + 0.3 * x
    if family == "collapsed":
        x = torch.ones(d, dtype=torch.float64) + 1e-3 * x
    if family == "one great circle":
        x[:, 2:] = 0
    if family == "duplicates":
        x = x[torch.arange(n) % (n // 3)]
    if family == "opposite":
        x[1::2] = -x[0::2][: n // 2]
    if family == "negative products":  # no two classes come within a right angle
        x = -torch.ones(n, d, dtype=torch.float64) + 1e-2 * x
        x[: n // 2] *= -1
    return x if family == "any length" else unit(x)


FAMILIES = (
    "random",
    "clustered",
    "collapsed",
    "one great circle",
    "duplicates",
    "opposite",
    "negative products",
    "any length",
)
LABELS: dict[str, Callable[[int], Tensor]] = {
    "pairs": lambda n: torch.arange(n) // 2,
    "fours": lambda n: torch.arange(n) // 4,
    "uneven": lambda n: (torch.arange(n) ** 0.5).long() - 3,
    "shuffled": lambda n: torch.randperm(n) % 7,
    "lone": torch.arange,
    "two": lambda n: (torch.arange(n) >= n // 2).long() * 2**40,
}


def curves_of(labels: Tensor) -> Pairs:
    """All pairs of a class and all rows as points."""
    first, second = (labels.unsqueeze(1) == labels).triu().nonzero(as_tuple=True)
    return Pairs(first, second, labels[first])


def take_path(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the search go one of its ways, in small blocks."""
    monkeypatch.setattr(bounds, "_FEW", float("inf") if path == "grid" else 0)
    monkeypatch.setattr(bounds, "_LIST", float("inf") if path == "grid after bounds" else 0)
    monkeypatch.setattr(bounds, "_BLOCK", 300)
    monkeypatch.setattr(blocks, "_BLOCK", 5000)


def sampled(x: Tensor, pairs: Pairs, fractions: tuple[float, ...], *, normalize: bool) -> Tensor:
    """Points (p, k, d)."""
    points = []
    for fraction in fractions:
        point = (1 - fraction) * x[pairs.first] + fraction * x[pairs.second]
        inside = normalize and 0 < fraction < 1
        length = point.norm(dim=-1, keepdim=True)
        points.append(point / length.where(length > 1e-12, torch.inf) if inside else point)
    return torch.stack(points, 1)


def reference(kind: str, x: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
    """The value of every row curve with every column curve."""
    ends = (x[rows.first], x[rows.second], x[cols.first], x[cols.second])
    if kind == "arcs":
        return pairwise_arc_distance(*ends).square() / 2 - 1
    if kind == "segments":
        return pairwise_segment_distance(*ends).square()
    p = sampled(x, rows, FRACTIONS[:3], normalize="normalized" in kind)
    q = sampled(x, cols, FRACTIONS, normalize="normalized" in kind)
    pairs = p.flatten(0, 1).unsqueeze(1), q.flatten(0, 1).unsqueeze(0)
    if "products" in kind:
        values = -(pairs[0] * pairs[1]).sum(-1)
    else:
        values = (pairs[0] - pairs[1]).square().sum(-1)
    return values.view(len(p), 3, len(q), 4).amin((1, 3))


def found(kind: str, gram: Tensor, rows: Pairs, cols: Pairs, k: int = 1) -> tuple[Tensor, Tensor]:
    if kind == "arcs":
        return ops.nearest_arcs(gram, rows, cols, k)
    if kind == "segments":
        return ops.nearest_segments(gram, rows, cols, k)
    options = {"normalize": "normalized" in kind, "similarity": "products" in kind}
    return ops.nearest_samples(gram, rows, cols, FRACTIONS[:3], FRACTIONS, k=k, **options)


KINDS = ("arcs", "segments", "samples normalized", "samples", "products normalized", "products")
# Of values that are at most 4 between unit vectors. An arc of nearly half a circle has a middle of
# which the Gram matrix knows few digits: measured 1.3e-3 in float32 where there are such; 1e-6
# elsewhere, and 3e-10 in float64.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 5e-6}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["64", "32"])
@pytest.mark.parametrize("path", ["grid", "list", "grid after bounds"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_misses_no_nearer_curve(
    kind: str, family: str, path: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found has the least value of all, whatever was left out."""
    take_path(path, monkeypatch)
    for d, layout in zip((2, 5, 16, 8, 4, 6), LABELS, strict=True):
        x = rows_of(family, 26, d).to(dtype)
        x = unit(x) if kind == "arcs" else x
        labels = LABELS[layout](len(x))
        cols = curves_of(labels)
        rows = cols.take(slice(len(cols.first) // 2))
        index, value = found(kind, x @ x.T, rows, cols)
        wide = unit(x.double()) if kind == "arcs" else x.double()
        values = reference(kind, wide, rows, cols)
        values = values.where(rows.label.unsqueeze(1) != cols.label, torch.inf)
        least = values.amin(1, keepdim=True)
        rough = dtype == torch.float32 and family in ("one great circle", "negative products")
        tolerance = {"atol": 5e-3 if rough else TOLERANCE[dtype], "rtol": 1e-6}
        assert (index >= 0).all()
        torch.testing.assert_close(value.double(), least, **tolerance)
        torch.testing.assert_close(values.gather(1, index), least, **tolerance)


@pytest.mark.parametrize("path", ["grid", "list", "grid after bounds"])
@pytest.mark.parametrize("kind", KINDS)
def test_ties_go_to_the_lowest_column(
    kind: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column that is there three times is found at its first place."""
    take_path(path, monkeypatch)
    x = rows_of("random", 24, 5)
    curves = curves_of(LABELS["fours"](24))
    c = len(curves.first)
    order = torch.randperm(c)
    thrice = curves.take(torch.cat([order, order, order.flip(0)]))
    index, value = found(kind, x @ x.T, curves, thrice)
    once, same = found(kind, x @ x.T, curves, curves.take(order))
    assert torch.equal(index, once)
    assert torch.equal(value, same)


@pytest.mark.parametrize("path", ["grid", "list", "grid after bounds"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_a_negative_have_none(
    kind: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Index -1 and infinity, beside rows that have one."""
    take_path(path, monkeypatch)
    x = rows_of("random", 12, 4)
    curves = curves_of(torch.arange(12) // 4)
    only = curves.take(curves.label == 0)
    index, value = found(kind, x @ x.T, curves, only)
    assert torch.equal(index.squeeze(1) == -1, curves.label == 0)
    assert torch.equal(value.squeeze(1) == torch.inf, curves.label == 0)
    for k in (1, 3):
        index, value = found(kind, x @ x.T, only, only, k)
        assert (index == -1).all()
        assert (value == torch.inf).all()


@pytest.mark.parametrize("path", ["grid", "list", "grid after bounds"])
def test_points_of_no_column_are_never_found(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with references: the rows' own points are nearer than any column."""
    take_path(path, monkeypatch)
    x = rows_of("clustered", 32, 6)
    labels = torch.arange(32) // 2 % 8
    curves = curves_of(labels)
    rows = curves.take((curves.first < 16) & (curves.second < 16))
    cols = curves.take((curves.first >= 16) & (curves.second >= 16))
    index, value = found("arcs", x @ x.T, rows, cols)
    values = reference("arcs", x, rows, cols)
    values = values.where(rows.label.unsqueeze(1) != cols.label, torch.inf)
    torch.testing.assert_close(value, values.amin(1, keepdim=True), atol=1e-9, rtol=0)
    assert (index >= 0).all()


def test_labels_that_are_neighbours_are_different(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row whose label no column has, between two labels that columns have once."""
    take_path("list", monkeypatch)
    x = rows_of("random", 5, 3)
    at = torch.arange(5)
    points = Pairs(at, at, torch.tensor([7, 6, 8, 5, 9]))
    cosines = x[:1] @ x[1:].T
    for rows, cols in ((slice(1), slice(1, 2)), (slice(1), slice(2, 3)), (slice(1), slice(1, 5))):
        index, value = found("arcs", x @ x.T, points.take(rows), points.take(cols))
        wanted = cosines[:, slice(cols.start - 1, cols.stop - 1)].max(1, keepdim=True)
        assert torch.equal(index, wanted.indices)
        torch.testing.assert_close(-value, wanted.values)


@pytest.mark.parametrize("kind", KINDS)
def test_k_nearest_come_in_order(kind: str) -> None:
    """The k lowest values, lowest first; more than there are is filled up."""
    x = rows_of("random", 20, 6)
    curves = curves_of(LABELS["pairs"](20))
    values = reference(kind, x, curves, curves)
    allowed = curves.label.unsqueeze(1) != curves.label
    values = values.where(allowed, torch.inf).sort(1).values
    for k in (1, 4, len(curves.first) + 3):
        index, value = found(kind, x @ x.T, curves, curves, k)
        there = min(k, len(curves.first))
        torch.testing.assert_close(value[:, :there], values[:, :there], atol=1e-9, rtol=0)
        assert torch.equal(index >= 0, value < torch.inf)


@pytest.mark.parametrize("few", [0, 1000], ids=["list", "grid"])
@pytest.mark.parametrize("layout", LABELS)
def test_farthest_positives(layout: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The farthest other row of the class; -1 for a lone one; the first of equal ones."""
    monkeypatch.setattr(search, "_FEW", few)
    x = rows_of("random", 30, 5) * torch.rand(30, 1, dtype=torch.float64)
    x[9] = x[8]
    labels = LABELS[layout](30)
    far = torch.cdist(x, x).masked_fill(labels.unsqueeze(1) != labels, -1).fill_diagonal_(-1)
    wanted = far.argmax(1).where(far.amax(1) >= 0, -1)
    assert torch.equal(ops.farthest_positives(x @ x.T, labels), wanted)


def test_products_whose_squares_underflow() -> None:
    """Arcs a right angle apart but for 1e-12: every score is about zero, and none is NaN."""
    gram = torch.eye(4)
    gram[:2, 2:] = torch.tensor([[3e-12, 1e-12], [1e-12, 2e-12]])
    gram[2:, :2] = gram[:2, 2:].T
    index, value = ops.nearest_arcs(gram, curve(0, 1, 0), curve(2, 3, 1))
    assert index.item() == 0
    assert value.item() == pytest.approx(0, abs=1e-11)


def curve(first: int, second: int, label: int) -> Pairs:
    return Pairs(torch.tensor([first]), torch.tensor([second]), torch.tensor([label]))
