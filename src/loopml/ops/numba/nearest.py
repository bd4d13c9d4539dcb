"""The compiled search, as ``loopml.ops`` calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loopml._types import Gram, Side
from loopml.ops.numba.rows import array_of
from loopml.ops.numba.search import ARCS, DISTANCES, PRODUCTS, SEGMENTS, search

_KINDS = {"arcs": ARCS, "segments": SEGMENTS, "products": PRODUCTS, "distances": DISTANCES}


def nearest(
    kind: str,
    gram: Gram,
    rows: Side,
    cols: Side,
    k: int,
    *,
    row_fractions: Sequence[float] = (),
    col_fractions: Sequence[float] = (),
    normalize: bool = False,
    bounded: bool,
    had_zero: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest columns of another label of each row, nearest first: columns and values.

    Args:
        kind: "arcs", "segments", or samples compared by "products" or "distances".
        gram: products of the ends of rows with those of columns.
        rows: r curves.
        cols: c curves.
        k: how many to find for each row.
        row_fractions: where on each row its samples lie.
        col_fractions: the same for the columns.
        normalize: whether samples between the ends are divided by their length.
        bounded: whether there are bounds.
        had_zero: which rows and which columns had a zero end, before the other took its place.
    """
    r, c = len(rows.inner), len(cols.inner)
    index = torch.empty((r, k), dtype=torch.int64)
    value = torch.empty((r, k), dtype=gram.inner.dtype)
    if r == 0 or c == 0:
        return index.fill_(-1), value.fill_(torch.inf)
    values = value.numpy()
    sides: list[Any] = []
    for s, (side, fractions) in enumerate(((rows, row_fractions), (cols, col_fractions))):
        first, second, label = side.pairs
        sides += (array_of(x) for x in (first, second, label.long(), side.inner))
        sides.append(_NONE if had_zero is None else array_of(had_zero[s]))
        sides.append(np.array(fractions, values.dtype))
    arrays = (array_of(x) for x in gram)
    with_zeros = had_zero is not None
    bounded = bounded and not with_zeros
    search(_KINDS[kind], bounded, with_zeros, normalize, *arrays, *sides, values, index.numpy())
    return index, value


_NONE = np.empty(0, np.bool_)
