"""The search on a CPU, compiled by numba where it is installed.

What is here finds what pure torch finds, ties included, and takes the same curves. This package
alone imports numba.

It is compiled at its first use, for float32 and float64 apart, which takes some seconds once. Numba
keeps the machine code in ``__pycache__`` beside these files, or in the user's cache folder where it
may not write there; the variable ``NUMBA_CACHE_DIR`` names another place. It compiles a function
anew when the function's own file has changed, not where one that it calls has: who works on this
package deletes the ``*.nbi`` files.

A search runs in one thread, without the interpreter's lock, and threads may run searches at once.
Numba's own threads would take longer to compile, and its fallback for them aborts where two threads
of Python enter it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from loopml._types import Pairs
from loopml.ops.numba import labels as _labels
from loopml.ops.numba.search import ARCS, DISTANCES, PRODUCTS, SEGMENTS, search
from loopml.ops.zeros import compared_with_zeros, on_sphere, sq_distance, without_zero_ends


class Gram(NamedTuple):
    """Inner products of the points that rows join with those that columns join."""

    inner: Tensor  # (a, b)
    row_square: Tensor  # (a,) of the points of rows with themselves
    col_square: Tensor  # (b,) of the points of columns


class Side(NamedTuple):
    """The curves of one side of a search; their ends index that side of the Gram matrix."""

    pairs: Pairs
    inner: Tensor  # (p,) the product of the two ends of each curve


class _Curves(NamedTuple):
    """The curves of one side, with what the search knows of each alone."""

    side: Side
    square: Tensor  # of all points of this side
    fractions: Sequence[float] = ()
    had_zero: Tensor | None = None  # (p,) whether an end was zero, before the other took its place


def _array(x: Tensor) -> Any:
    return x.detach().contiguous().numpy()


def _search(
    kind: int,
    inner: Tensor,
    rows: _Curves,
    cols: _Curves,
    k: int,
    *,
    bounded: bool,
    normalize: bool,
) -> tuple[Tensor, Tensor]:
    """The k nearest columns of each row, nearest first."""
    r, c = len(rows.side.inner), len(cols.side.inner)
    index, value = inner.new_empty((r, k), dtype=torch.int64), inner.new_empty((r, k))
    if r == 0 or c == 0:
        return index.fill_(-1), value.fill_(torch.inf)
    with_zeros = rows.had_zero is not None
    sides: list[Any] = []
    for curves in (rows, cols):
        first, second, label = curves.side.pairs
        had_zero = label.new_empty(0, dtype=torch.bool)
        had_zero = had_zero if curves.had_zero is None else curves.had_zero
        sides += (_array(x) for x in (first, second, label.long(), curves.side.inner, had_zero))
        sides.append(np.array(curves.fractions, value.numpy().dtype))
    arrays = (_array(x) for x in (inner, rows.square, cols.square))
    bounded = bounded and not with_zeros
    search(kind, bounded, with_zeros, normalize, *arrays, *sides, value.numpy(), index.numpy())
    return index, value


def _without_zero_ends(curves: _Curves, ends: tuple[bool, bool] = (True, True)) -> _Curves:
    """The curves with their other end in place of a zero one."""
    side, zero = curves.side, curves.square == 0
    pairs, had_zero = without_zero_ends(side.pairs, zero, ends)
    replaced = zero[side.pairs.first] | zero[side.pairs.second]
    inner = torch.where(replaced, curves.square[pairs.first], side.inner)
    return _Curves(Side(pairs, inner), curves.square, curves.fractions, had_zero)


def _nearest_products(
    kind: int,
    inner: Tensor,
    rows: _Curves,
    cols: _Curves,
    k: int,
    *,
    bounded: bool,
    normalize: bool,
    directions: bool,
    ends: tuple[bool, bool] = (True, True),
) -> tuple[Tensor, Tensor]:
    """The k largest inner products of each row, as values: minus the product.

    Args:
        kind: of curves.
        inner: (a, b) products of all points.
        rows: the row curves.
        cols: the column curves.
        k: how many to find.
        bounded: whether there are bounds.
        normalize: of samples.
        directions: whether points are unit vectors or zero rows, which are compared by distance.
        ends: whether the first and the second end of a row are points of it.
    """
    zeros = directions and any((_array(curves.square) == 0).any() for curves in (rows, cols))
    if zeros:
        # Several nearest rank zero rows among the others, the nearest one is compared afterwards.
        rows = _without_zero_ends(rows, ends if k == 1 else (True, True))
        cols = _without_zero_ends(cols)
    p, q = rows, cols
    if zeros and k == 1:
        p, q = (_Curves(*curves[:3]) for curves in (rows, cols))
    index, value = _search(kind, inner, p, q, k, bounded=bounded, normalize=normalize)
    if zeros and k == 1 and len(cols.side.inner):
        assert rows.had_zero is not None
        assert cols.had_zero is not None
        return compared_with_zeros(
            index, value, rows.side.pairs, cols.side.pairs, rows.had_zero, cols.had_zero
        )
    return index, value


def nearest_arcs(gram: Gram, rows: Side, cols: Side, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest arcs of another label: as of ``loopml.ops.nearest_arcs``."""
    p, q = _Curves(rows, gram.row_square), _Curves(cols, gram.col_square)
    return _nearest_products(
        ARCS, gram.inner, p, q, k, bounded=True, normalize=False, directions=True
    )


def nearest_segments(gram: Gram, rows: Side, cols: Side, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest segments of another label: as of ``loopml.ops.nearest_segments``."""
    p, q = _Curves(rows, gram.row_square), _Curves(cols, gram.col_square)
    return _search(SEGMENTS, gram.inner, p, q, k, bounded=True, normalize=False)


def nearest_samples(
    gram: Gram,
    rows: Side,
    cols: Side,
    row_fractions: Sequence[float],
    col_fractions: Sequence[float],
    normalize: bool,
    similarity: bool,
    unit: bool,
    k: int,
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest pairs by their sampled points: as of ``loopml.ops.nearest_samples``."""
    p = _Curves(rows, gram.row_square, row_fractions)
    q = _Curves(cols, gram.col_square, col_fractions)
    directions = on_sphere(normalize, similarity, unit)
    # Bounds see a curve through its two ends.
    bounded = {0.0, 1.0} <= set(col_fractions)
    if similarity or directions:
        ends = 0.0 in row_fractions, 1.0 in row_fractions
        options: Any = {"bounded": bounded, "normalize": normalize, "directions": directions}
        index, value = _nearest_products(PRODUCTS, gram.inner, p, q, k, **options, ends=ends)
        return index, sq_distance(value) if directions else value
    bounded = bounded and not normalize
    return _search(DISTANCES, gram.inner, p, q, k, bounded=bounded, normalize=normalize)


def farthest_positives(gram: Tensor, labels: Tensor) -> Tensor:
    """The farthest other row of its label that each row has: as of ``loopml.ops``."""
    return torch.from_numpy(_labels.farthest_positives(_array(gram), _array(labels.long())))


def pairs_of(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of ``loopml.pairing.all_curves`` as first and second rows, and the lone rows."""
    first, second, lone = _labels.pairs_of(_array(labels.long()))
    return torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(lone)


def smallest_per_group(value: Tensor, group: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """As ``loopml.selection.smallest_per_group``."""
    position, found = _labels.smallest_per_group(_array(value), _array(group), groups)
    return torch.from_numpy(position), torch.from_numpy(found)
