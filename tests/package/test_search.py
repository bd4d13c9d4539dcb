"""The search ops against all pairs of curves, on every path that an implementation can take."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from loopml import compiled, ops
from loopml._types import Pairs
from loopml.geometry import pairwise_arc_distance, pairwise_segment_distance
from loopml.ops import blocks, bounds, positives, scores, search
from tests.oracles.searches import LAYOUTS, gram_of, own_products, problem

FRACTIONS = (0.0, 1 / 3, 2 / 3, 1.0)


@pytest.fixture(autouse=True)
def _pure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search in PyTorch alone, which ``test_numba`` compares the compiled one with."""
    monkeypatch.setattr(compiled, "kernels", lambda: None)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def rows_of(family: str, n: int, d: int) -> Tensor:
    """Float64 vectors, of length one but where the family says so."""
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
    if "negative products" in family:  # no two classes come within a right angle
        x = -torch.ones(n, d, dtype=torch.float64) + 1e-2 * x
        x[: n // 2] *= -1
    return x if "any length" in family else unit(x)


FAMILIES = (
    "random",
    "clustered",
    "collapsed",
    "one great circle",
    "duplicates",
    "opposite",
    "negative products",
    "any length",
    "negative products of any length",
)


def curves_of(labels: Tensor) -> Pairs:
    """All pairs of a class and all rows as points."""
    first, second = (labels.unsqueeze(1) == labels).triu().nonzero(as_tuple=True)
    return Pairs(first, second, labels[first])


PATHS = ("grid", "list", "grid after bounds")


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
        # One without a direction is the first end.
        direction = torch.where(length > 1e-7, point / length, x[pairs.first])
        points.append(direction if inside else point)
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
        return ops.nearest_arcs(*problem(gram, rows, cols), k)
    if kind == "segments":
        return ops.nearest_segments(*problem(gram, rows, cols), k)
    options = {"normalize": "normalized" in kind, "similarity": "products" in kind}
    fractions = FRACTIONS[:3], FRACTIONS
    return ops.nearest_samples(*problem(gram, rows, cols), *fractions, k=k, **options)


KINDS = ("arcs", "segments", "samples normalized", "samples", "products normalized", "products")
# Of values that are at most 4 between unit vectors. An arc of nearly half a circle has a middle of
# which the Gram matrix knows few digits: measured 1.3e-3 in float32 where there are such; 1e-6
# elsewhere, and 3e-10 in float64.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 5e-6}


# Embeddings, row curves, column curves and the value of each with each.
Problem = tuple[Tensor, Pairs, Pairs, Tensor]


def problems(family: str, kind: str, dtype: torch.dtype) -> list[Problem]:
    """One for each layout."""
    made = []
    for d, layout in zip((2, 5, 16, 8, 4, 6), LAYOUTS, strict=True):
        x = rows_of(family, 26, d).to(dtype)
        x = unit(x) if kind == "arcs" else x
        cols = curves_of(LAYOUTS[layout](len(x)))
        rows = cols.take(slice(len(cols.first) // 2))
        wide = unit(x.double()) if kind == "arcs" else x.double()
        values = reference(kind, wide, rows, cols)
        values = values.where(rows.label.unsqueeze(1) != cols.label, torch.inf)
        made.append((x, rows, cols, values))
    return made


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["64", "32"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_misses_no_nearer_curve(
    kind: str, family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found has the least value of all, whatever was left out.

    The layouts take turns on the paths, so that each kind meets each layout on each path.
    """
    turn = FAMILIES.index(family) + KINDS.index(kind)
    for layout, (x, rows, cols, values) in enumerate(problems(family, kind, dtype)):
        take_path(PATHS[(turn + layout) % len(PATHS)], monkeypatch)
        index, value = found(kind, x @ x.T, rows, cols)
        least = values.amin(1, keepdim=True)
        rough = dtype == torch.float32 and (family == "one great circle" or "negative" in family)
        tolerance = {"atol": 5e-3 if rough else TOLERANCE[dtype], "rtol": 1e-6}
        assert (index >= 0).all()
        torch.testing.assert_close(value.double(), least, **tolerance)
        torch.testing.assert_close(values.gather(1, index), least, **tolerance)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_ties_go_to_the_lowest_column(
    kind: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column that is there three times is found at its first place."""
    take_path(path, monkeypatch)
    x = rows_of("random", 24, 5)
    curves = curves_of(LAYOUTS["fours"](24))
    c = len(curves.first)
    order = torch.randperm(c)
    thrice = curves.take(torch.cat([order, order, order.flip(0)]))
    index, value = found(kind, x @ x.T, curves, thrice)
    once, same = found(kind, x @ x.T, curves, curves.take(order))
    assert torch.equal(index, once)
    assert torch.equal(value, same)


@pytest.mark.parametrize("path", PATHS)
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


@pytest.mark.parametrize("path", PATHS)
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
    """The k lowest values, lowest first; there are no more than columns."""
    x = rows_of("random", 20, 6)
    curves = curves_of(LAYOUTS["pairs"](20))
    values = reference(kind, x, curves, curves)
    allowed = curves.label.unsqueeze(1) != curves.label
    values = values.where(allowed, torch.inf).sort(1).values
    for k in (1, 4, len(curves.first) + 3):
        index, value = found(kind, x @ x.T, curves, curves, k)
        there = min(k, len(curves.first))
        assert index.shape == value.shape == (len(curves.first), there)
        torch.testing.assert_close(value[:, :there], values[:, :there], atol=1e-9, rtol=0)
        assert torch.equal(index >= 0, value < torch.inf)


@pytest.mark.parametrize("few", [0, 1000], ids=["list", "grid"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_farthest_positives(layout: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The farthest other row of the class; -1 for a lone one; the first of equal ones."""
    monkeypatch.setattr(positives, "_FEW", few)
    x = rows_of("random", 30, 5) * torch.rand(30, 1, dtype=torch.float64)
    x[9] = x[8]
    labels = LAYOUTS[layout](30)
    far = torch.cdist(x, x).masked_fill(labels.unsqueeze(1) != labels, -1).fill_diagonal_(-1)
    wanted = far.argmax(1).where(far.amax(1) >= 0, -1)
    assert torch.equal(ops.farthest_positives(gram_of(x @ x.T), labels), wanted)


# --- Left out or not, the same ------------------------------------------------------------------

PRUNED = {
    "arcs": ("nearest_arcs", {}),
    "segments": ("nearest_segments", {}),
    "samples": ("nearest_samples", {"normalize": False, "similarity": False}),
    "products": ("nearest_samples", {"normalize": False, "similarity": True}),
    "products normalized": ("nearest_samples", {"normalize": True, "similarity": True}),
    "on the sphere": ("nearest_samples", {"normalize": True, "similarity": False, "unit": True}),
}
AS_DIRECTIONS = ("arcs", "on the sphere")


def half_spaces(lengths: bool) -> Tensor:
    """Six rows of a class at about 108 degrees to each other, and others opposite to them."""
    x = 0.05 * torch.randn(24, 3, dtype=torch.float64)
    angle = torch.tensor([0.0, 108.0]).repeat(3).deg2rad()
    x[:6, :2] += torch.stack([angle.sin(), angle.cos() + 1.2], 1)
    x[6:, 1] -= 1
    x = unit(x)
    if lengths:
        x[:6] *= 10 * torch.rand(6, 1, dtype=torch.float64) + 1
        x[6:] *= 3 * torch.rand(18, 1, dtype=torch.float64) + 0.2
    return x


SCENES: dict[str, Callable[[], Tensor]] = {
    **{family: lambda family=family: rows_of(family, 26, 4) for family in FAMILIES},
    "half spaces": lambda: half_spaces(lengths=False),
    "half spaces, any length": lambda: half_spaces(lengths=True),
    "long classes": lambda: rows_of("clustered", 26, 4) * torch.arange(26).div(4).exp()[:, None],
    "far rows": lambda: rows_of("clustered", 26, 4) + 100 * (torch.arange(26) == 5)[:, None],
    "short": lambda: 1e-4 * rows_of("any length", 26, 4),
    "zero rows": lambda: rows_of("random", 26, 4) * (torch.arange(26) % 5 > 0)[:, None],
}


def searched(
    kind: str, gram: Tensor, rows: Pairs, cols: Pairs, k: int = 1
) -> tuple[Tensor, Tensor]:
    name, options = PRUNED[kind]
    fractions = (FRACTIONS, FRACTIONS) if name == "nearest_samples" else ()
    return getattr(ops, name)(*problem(gram, rows, cols), *fractions, k=k, **options)


@pytest.mark.parametrize("dtype", [torch.float32], ids=["32"])
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("kind", PRUNED)
def test_bounds_change_nothing(
    kind: str, scene: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Index and value, bit for bit, with and without bounds, one nearest or several.

    Every other layout: each meets half of the scenes for a kind, and half of the kinds in a scene.
    """
    first = (list(SCENES).index(scene) + list(PRUNED).index(kind)) % 2
    for layout in list(LAYOUTS)[first::2]:
        x = SCENES[scene]()
        x = torch.nn.functional.normalize(x) if kind in AS_DIRECTIONS else x
        x = x.to(dtype)
        cols = curves_of(LAYOUTS[layout](len(x)))
        rows = cols.take(slice(None, None, 2))
        take_path("list", monkeypatch)
        monkeypatch.setattr(bounds, "_MANY", float("inf"))
        index, value = searched(kind, x @ x.T, rows, cols)
        take_path("grid", monkeypatch)
        every, values = searched(kind, x @ x.T, rows, cols)
        assert torch.equal(index, every)
        assert torch.equal(value, values)
        if len(cols.first):
            every, values = searched(kind, x @ x.T, rows, cols, 2)
            assert torch.equal(index, every[:, :1])
            assert torch.equal(value, values[:, :1])


@pytest.mark.parametrize("kind", ["segments", "samples"])
def test_distances_of_curves_to_points(kind: str) -> None:
    """What a bound starts from is the score of a curve with a point."""
    x = rows_of("any length", 12, 4)
    curves = curves_of(torch.arange(12) // 3)
    points = Pairs(torch.arange(12), torch.arange(12), torch.arange(12))
    gram = x @ x.T
    p, q, square = gram[curves.first], gram[curves.second], gram.diagonal()
    if kind == "segments":
        terms = scores.segment_terms(own_products(gram, curves)).unsqueeze(-1)
        near = scores.segment_to_points(p, q, square, terms)
    else:
        own = own_products(gram, curves)
        terms = scores.sample_terms(own, FRACTIONS[:3], normalize=False).unsqueeze(-1)
        near = scores.sample_distances_to_points(p, q, square, terms)
    wanted = -reference(kind, x, curves, points)
    # The reference of segments is good to 1e-8 in distance.
    torch.testing.assert_close(near, wanted, atol=1e-7, rtol=0)


@pytest.mark.parametrize("kind", ["arcs", "segments"])
def test_bounds_find_nothing_where_there_is_nothing(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody looked whether the rows have a column of another label, as on a GPU."""
    take_path("list", monkeypatch)
    monkeypatch.setattr(search, "rows_with_columns", lambda *_: None)
    monkeypatch.setattr(bounds._Ends, "are_many", lambda *_: False)
    x = rows_of("random", 12, 4)
    curves = curves_of(torch.arange(12) // 4)
    only = curves.take(curves.label == 0)
    index, value = found(kind, x @ x.T, curves, only)
    assert torch.equal(index[:, 0] == -1, curves.label == 0)
    assert torch.equal(value[:, 0] == torch.inf, curves.label == 0)


def test_points_between_long_rows_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A normalised point at -0.5 whose ends are at -5, beside a class at -1."""
    take_path("list", monkeypatch)
    angle = torch.tensor([54.0, -54.0], dtype=torch.float64).deg2rad()
    long = 10 * torch.stack([angle.sin(), angle.cos()], 1)
    x = torch.cat([torch.tensor([[0.0, -0.5], [0.0, -0.5]], dtype=torch.float64), long, 2 * long])
    x[4:] = torch.tensor([[0.0, 2.0], [0.0, 3.0]], dtype=torch.float64)
    curves = Pairs(torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5]), torch.arange(3))
    fractions = (0.0, 0.5, 1.0)
    index, value = ops.nearest_samples(
        *problem(x @ x.T, curves, curves), fractions, fractions, normalize=True, similarity=True
    )
    assert index[0].item() == 1
    assert value[0].item() == pytest.approx(0.5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_nan_is_never_chosen(kind: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves of a NaN row have no nearest one, and the others find what they find without it."""
    take_path(path, monkeypatch)
    x = rows_of("random", 24, 5)
    curves = curves_of(torch.arange(24) // 2)
    bad = (curves.first == 7) | (curves.second == 7)
    good = curves.take(~bad)
    x[7] = torch.nan
    for k in (1, 3):
        index, value = found(kind, x @ x.T, curves, curves, k)
        wanted, values = found(kind, x @ x.T, good, good, k)
        assert (index[bad] == -1).all()
        assert torch.equal(index[~bad], (~bad).nonzero()[:, 0][wanted])
        assert torch.equal(value[~bad], values)


def test_ranks_of_labels_are_those_of_classes() -> None:
    """They must stay exact in float32, however many curves there are."""
    pairs = curves_of(torch.arange(40) // 20 * 2**40)
    p = len(pairs.first)
    curves = blocks.Curves(pairs, torch.ones(3, p), torch.ones(1, p))
    ends = bounds._Ends(curves, curves, torch.ones(2, p), 40)
    assert ends.row_rank.unique().tolist() == [0, 1]
    assert ends.rank.tolist() == [0] * 20 + [1] * 20


def test_rows_of_the_only_class_are_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all columns have one label, its rows have none; those of another label do."""
    x = rows_of("random", 12, 4)
    curves = curves_of((torch.arange(12) < 4).long())
    cols, other = curves.take(curves.label == 0), curves.take(curves.label == 1)
    for kind in KINDS:
        for k in (1, 2):
            index, value = found(kind, x @ x.T, curves, cols, k)
            wanted = found(kind, x @ x.T, other, cols, k)
            assert torch.equal(index[curves.label == 1], wanted[0])
            assert torch.equal(value[curves.label == 1], wanted[1])
            assert (index[curves.label == 0] == -1).all()
            assert (value[curves.label == 0] == torch.inf).all()
    scored = []
    monkeypatch.setattr(search, "search_all", lambda gram, rows, *_: scored.append(len(rows)))
    with pytest.raises(TypeError):  # nothing comes back
        found("arcs", x @ x.T, curves, cols, 2)
    assert scored == [len(other.first)]


# --- Zero rows ----------------------------------------------------------------------------------


def by_distance(kind: str, x: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
    """Squared distances, of arcs or samples; a curve with a zero row is its two ends."""
    whole = (x != 0).any(1)

    def split(pairs: Pairs) -> list[tuple[Pairs, Tensor]]:
        real = whole[pairs.first] & whole[pairs.second]
        lone = [Pairs(end, end, pairs.label) for end in pairs[:2]]
        return [(pairs, real), (lone[0], ~real), (lone[1], ~real)]

    least = x.new_full((len(rows.first), len(cols.first)), torch.inf)
    for p, p_is in split(rows):
        for q, q_is in split(cols):
            ends = [x[index] for index in (*p[:2], *q[:2])]
            if kind == "arcs":
                ends = [torch.where(end.norm(dim=1, keepdim=True) > 0, end, 1) for end in ends]
                value = pairwise_arc_distance(*ends).square()
                of_zero = ~whole[p.first].unsqueeze(1) | ~whole[q.first]
                points = torch.cdist(x[p.first], x[q.first]).square()
                value = torch.where(of_zero, points, value)
            else:
                p_points = sampled(x, p, FRACTIONS, normalize=True)
                q_points = sampled(x, q, FRACTIONS, normalize=True)
                value = (p_points[:, None, :, None] - q_points[:, None]).square().sum(-1)
                value = value.flatten(2).amin(2)
            least = torch.minimum(least, value.where(p_is.unsqueeze(1) & q_is, torch.inf))
    return least


@cache
def problems_with_zeros(zeros: tuple[int, ...], kind: str, layout: str) -> list[Problem]:
    """One for each family, solved once for all paths."""
    made = []
    for family in ("random", "negative products", "clustered"):
        x = rows_of(family, 20, 4)
        x[list(zeros)] = 0
        curves = curves_of(LAYOUTS[layout](20))
        cols = curves.take(torch.randperm(len(curves.first)))
        values = by_distance(kind, x, curves, cols)
        values = values.where(curves.label.unsqueeze(1) != cols.label, torch.inf)
        made.append((x, curves, cols, values))
    return made


@pytest.mark.parametrize("path", ["grid", "list"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", AS_DIRECTIONS)
@pytest.mark.parametrize("zeros", [(0, 1), tuple(range(0, 20, 2))], ids=str)
def test_zero_rows_are_compared_by_distance(
    zeros: tuple[int, ...], kind: str, layout: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 1 from a unit vector and 0 from another zero row, for the nearest and for several."""
    take_path(path, monkeypatch)
    for x, curves, cols, values in problems_with_zeros(zeros, kind, layout):
        for k in (1, 4):
            index, value = searched(kind, x @ x.T, curves, cols, k)
            if kind == "arcs":
                value = 2 + 2 * value
            least = values.sort(1).values[:, :k]
            # The reference of arcs is good to 1e-7 in distance.
            torch.testing.assert_close(value, least, atol=1e-6, rtol=0)
            chosen = values.gather(1, index.clamp(min=0)).where(index >= 0, torch.inf)
            torch.testing.assert_close(chosen, least, atol=1e-6, rtol=0)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("kind", AS_DIRECTIONS)
def test_the_first_of_zero_columns_wins(kind: str, k: int) -> None:
    """Several zero rows, with lone ones and pairs: all at 0 from a zero row, in their order."""
    x = torch.zeros(8, 3, dtype=torch.float64)
    x[[1, 3]] = torch.eye(3, dtype=torch.float64)[:2]
    curves = Pairs(torch.tensor([0, 3, 2, 4, 5]), torch.tensor([1, 3, 2, 4, 6]), torch.arange(5))
    index, _ = searched(kind, x @ x.T, curves, curves, k)
    first = {1: [[2], [0], [0], [0], [0]]}
    several = {3: [[2, 3, 4], [0, 2, 3], [0, 3, 4], [0, 2, 4], [0, 2, 3]]}
    assert index.tolist() == {**first, **several}[k]


@pytest.mark.parametrize("kind", AS_DIRECTIONS)
def test_a_zero_row_and_a_row_at_60_degrees_tie(kind: str) -> None:
    """Both are at distance 1, and the first of the two columns is found."""
    x = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [0.0, 0.0]], dtype=torch.float64)
    points = Pairs(torch.arange(3), torch.arange(3), torch.arange(3))
    for order in ([1, 2], [2, 1]):
        row, cols = points.take(slice(1)), points.take(torch.tensor(order))
        for k in (1, 2):
            name, options = PRUNED[kind]
            ends = () if kind == "arcs" else ((0.0, 1.0), (0.0, 1.0))
            index, value = getattr(ops, name)(*problem(x @ x.T, row, cols), *ends, k=k, **options)
            assert index.tolist() == [[0, 1][:k]]
            assert value.tolist() == [[-0.5 if kind == "arcs" else 1.0] * k]


# --- The space ----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1 + 4e-4, 1 - 4e-4])
def test_nearly_unit_rows_are_compared_by_distance(length: float) -> None:
    """Rows are on the sphere where the caller says so, whatever their lengths are near to."""
    x = rows_of("collapsed", 20, 5)
    x[::3] *= length
    curves = curves_of(LAYOUTS["pairs"](20))
    index, value = found("samples normalized", x @ x.T, curves, curves)
    values = reference("samples normalized", x, curves, curves)
    values = values.where(curves.label.unsqueeze(1) != curves.label, torch.inf)
    torch.testing.assert_close(value, values.amin(1, keepdim=True), atol=1e-13, rtol=0)
    torch.testing.assert_close(values.gather(1, index), value, atol=1e-13, rtol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["64", "32"])
@pytest.mark.parametrize("kind", ["segments", "samples"])
def test_distances_serve_as_a_gram_matrix(
    kind: str, dtype: torch.dtype, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minus half of the squared distances; a far row takes no digit from curves of others."""
    take_path(path, monkeypatch)
    x = rows_of("clustered", 24, 5)
    x[4] += 1e5
    curves = curves_of(LAYOUTS["fours"](24))
    curves = curves.take((curves.first != 4) & (curves.second != 4))
    values = reference(kind, x, curves, curves)
    values = values.where(curves.label.unsqueeze(1) != curves.label, torch.inf)
    least = values.amin(1, keepdim=True)
    sq = (x.unsqueeze(1) - x).square().sum(-1).to(dtype)
    index, value = found(kind, -sq / 2, curves, curves)
    # Measured: 2 roundings of squared distances that are up to 4.
    tolerance = {"atol": 16 * torch.finfo(dtype).eps + 1e-8, "rtol": 0}
    torch.testing.assert_close(value.double(), least, **tolerance)
    torch.testing.assert_close(values.gather(1, index), least, **tolerance)
    # What a Gram matrix makes of it, and without the far row the very same bits.
    centred = x - x.mean(0)
    _, lost = found(kind, (centred @ centred.T).to(dtype), curves, curves)
    assert (lost - least).abs().max() > 16 * torch.finfo(dtype).eps
    x[4] -= 2e5
    other = (x.unsqueeze(1) - x).square().sum(-1).to(dtype)
    assert torch.equal(found(kind, -other / 2, curves, curves)[1], value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["64", "32"])
def test_scores_of_distances_are_those_of_products(dtype: torch.dtype) -> None:
    x = rows_of("any length", 12, 4).to(dtype)
    gram, sq = x @ x.T, (x.unsqueeze(1) - x).square().sum(-1)
    curves = curves_of(torch.arange(12) // 3)
    corners = [scores.grid_corners(g, curves, curves) for g in (gram, -sq / 2)]
    own = [own_products(g, curves) for g in (gram, -sq / 2)]
    segment = [scores.segment_terms(o) for o in own]
    # Measured: 8 roundings of squares up to 20.
    tolerance = {"atol": 512 * torch.finfo(dtype).eps, "rtol": 0}
    torch.testing.assert_close(segment[0][2], segment[1][2], **tolerance)
    found = [
        scores.segment_scores(c, t.unsqueeze(-1), t.unsqueeze(-2))
        for c, t in zip(corners, segment, strict=True)
    ]
    torch.testing.assert_close(*found, **tolerance)
    sample = [scores.sample_terms(o, FRACTIONS, normalize=False) for o in own]
    found = [
        scores.sample_scores(c, t.unsqueeze(-1), t.unsqueeze(-2), similarity=False)
        for c, t in zip(corners, sample, strict=True)
    ]
    torch.testing.assert_close(*found, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["64", "32"])
def test_points_without_a_direction_are_the_first_end(dtype: torch.dtype) -> None:
    """Between opposite rows, also of other lengths than 1, and as near to it as rounding."""
    x = unit(torch.randn(3, 6, dtype=torch.float64))
    for length in (1, 1e-3, 50):
        ends = (length * torch.cat([x, -x])).to(dtype)
        gram = (ends @ ends.T) * (1 + torch.finfo(dtype).eps * torch.randn(6, 6)).to(dtype)
        pairs = Pairs(torch.arange(3), torch.arange(3, 6), torch.arange(3))
        own = own_products(gram, pairs)
        w0, w1, square = scores.sample_terms(own, (0.0, 0.25, 0.5, 0.75, 1.0), True)
        assert w0[2].tolist() == [1, 1, 1]
        assert w1[2].tolist() == [0, 0, 0]
        assert torch.equal(square[2], gram.diagonal()[:3])
        # Others have one.
        torch.testing.assert_close(square[1::2], torch.ones_like(square[1::2]), atol=1e-5, rtol=0)


def test_points_between_a_zero_row_and_another_are_the_other() -> None:
    x = torch.tensor([[0.0, 0.0], [0.6, 0.8]])
    gram = x @ x.T
    first, second = torch.tensor([0, 1, 0, 1]), torch.tensor([1, 0, 0, 1])
    square = gram.diagonal()
    own = square[first], gram[first, second], square[second]
    w0, w1, sq = scores.sample_terms(own, FRACTIONS, normalize=True, unit=True)
    assert w0[1:3].tolist() == [[0, 1, 1, w0[1, 3]], [0, 1, 1, w0[2, 3]]]
    assert w1[1:3].tolist() == [[1, 0, 0, w1[1, 3]], [1, 0, 0, w1[2, 3]]]
    torch.testing.assert_close(sq[1:3], torch.tensor([[1.0, 1, 0, 1]] * 2))


def test_the_search_has_the_precision_of_its_gram_matrix() -> None:
    """Ends 1e-3 from opposite are an arc to a float64 matrix, and two points to one of float32."""
    assert math.sqrt(scores.rounding(torch.float32)) == pytest.approx(2.0e-3, rel=0.03)
    assert math.sqrt(scores.rounding(torch.float64)) == pytest.approx(8.4e-8, rel=0.03)
    x = torch.tensor([[1.0, 5e-4, 0], [-1.0, 5e-4, 0], [0, 1, 0], [0, 1, 1e-3]])
    x = torch.nn.functional.normalize(x).double()
    values = []
    for dtype in (torch.float64, torch.float32):
        _, value = ops.nearest_arcs(*problem((x @ x.T).to(dtype), curve(0, 1, 0), curve(2, 3, 1)))
        assert value.dtype == dtype
        values.append(value.item())
    assert values == [pytest.approx(-1, abs=1e-6), pytest.approx(-5e-4, rel=1e-2)]


@pytest.mark.parametrize("n", [40, 300, 700])
def test_the_lowest_of_equally_far_positives(n: int) -> None:
    """Also where positives are listed: rows that come twice, in any order."""
    x = torch.randint(3, (n, 3)).double()  # integers: equal distances are equal bit for bit
    labels = torch.randint(n // 8, (n,))
    far = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    far = far.masked_fill(labels.unsqueeze(1) != labels, -1).fill_diagonal_(-1)
    wanted = far.argmax(1).where(far.amax(1) >= 0, -1)
    assert torch.equal(ops.farthest_positives(gram_of(x @ x.T), labels), wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("dynamic", [True])
@pytest.mark.parametrize("kind", ["arcs", "segments", "products"])
def test_compiles_for_any_number_of_nearest(kind: str, dynamic: bool | None) -> None:
    """1, 2, 5 and more than there are, in turn: a compiler makes the number a symbol."""
    torch.compiler.reset()
    x = rows_of("random", 12, 4)
    curves = curves_of(torch.arange(12) // 3)
    compiled = torch.compile(searched, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for k in (1, 2, 5, 1000):
        index, value = compiled(kind, x @ x.T, curves, curves, k)
        wanted = searched(kind, x @ x.T, curves, curves, k)
        assert index.shape[1] == min(k, len(curves.first))
        assert torch.equal(index, wanted[0])
        assert torch.equal(value, wanted[1])


def test_products_whose_squares_underflow() -> None:
    """Arcs a right angle apart but for 1e-12: every score is about zero, and none is NaN."""
    gram = torch.eye(4)
    gram[:2, 2:] = torch.tensor([[3e-12, 1e-12], [1e-12, 2e-12]])
    gram[2:, :2] = gram[:2, 2:].T
    index, value = ops.nearest_arcs(*problem(gram, curve(0, 1, 0), curve(2, 3, 1)))
    assert index.item() == 0
    assert value.item() == pytest.approx(0, abs=1e-11)


def curve(first: int, second: int, label: int) -> Pairs:
    return Pairs(torch.tensor([first]), torch.tensor([second]), torch.tensor([label]))
