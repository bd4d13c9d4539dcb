"""The ops: which terms, scores and bounds belong to each kind of curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from loopml._types import Pairs
from loopml.ops import scores
from loopml.ops.blocks import Curves, Score, filled_up, rows_with_columns, search_all
from loopml.ops.bounds import Bound, search_nearest
from loopml.ops.cuda import use_kernel
from loopml.ops.eager import chosen
from loopml.ops.reach import DistanceBound, ProductBound
from loopml.ops.zeros import (
    nearest_with_zeros,
    on_sphere,
    scored_with_zeros,
    sq_distance,
    with_zeros,
    without_zero_ends,
    zero_rows,
)

# Written out, since the releases of torch differ in which annotations they can read.
_CURVES = (
    "Tensor gram, Tensor row_first, Tensor row_second, Tensor row_label, "
    "Tensor col_first, Tensor col_second, Tensor col_label"
)
_SCHEMA = f"({_CURVES}, SymInt k) -> (Tensor, Tensor)"
_SAMPLES_SCHEMA = (
    f"({_CURVES}, float[] row_fractions, float[] col_fractions, bool normalize, "
    "bool similarity, bool unit, SymInt k) -> (Tensor, Tensor)"
)

Terms = Callable[[Tensor, Pairs], Tensor]  # of curves, from the Gram matrix


@dataclass(frozen=True)
class Kind:
    """What a search has to know of a kind of curve."""

    row_terms: Terms
    col_terms: Terms
    score: Score
    # The bounds for the columns, where there are any.
    bound: Callable[[Tensor, Curves], Bound] | None
    # The score of an inner product, where curves join unit vectors and zero rows.
    of_product: Callable[[Tensor], Tensor] | None = None


def _search(gram: Tensor, rows: Pairs, cols: Pairs, kind: Kind, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` highest scores of each row, as of :func:`search_all`.

    Zero rows are looked after for k > 1; the nearest one is compared with them afterwards.
    """
    has = rows_with_columns(rows, cols)
    if has is not None:
        return filled_up(_search(gram, rows.take(has), cols, kind, k), has, -torch.inf)
    zero = None if k == 1 or kind.of_product is None else zero_rows(gram)
    if zero is not None and kind.of_product is not None:
        rows, row_zero = without_zero_ends(rows, zero)
        cols, col_zero = without_zero_ends(cols, zero)
        p = with_zeros(Curves(rows, kind.row_terms(gram, rows)), row_zero)
        q = with_zeros(Curves(cols, kind.col_terms(gram, cols)), col_zero)
        return search_all(gram, p, q, scored_with_zeros(kind.score, kind.of_product), k)
    q = Curves(cols, kind.col_terms(gram, cols))
    # Computed once where they are the same curves.
    same = rows.first is cols.first and rows.second is cols.second
    same = same and kind.row_terms is kind.col_terms
    p = Curves(rows, q.terms if same else kind.row_terms(gram, rows))
    if k == 1 and kind.bound is not None and len(cols.first):
        return search_nearest(gram, p, q, kind.score, kind.bound(gram, q))
    return search_all(gram, p, q, kind.score, k)


_ARCS = Kind(
    scores.arc_terms,
    scores.arc_terms,
    scores.arc_scores,
    partial(
        ProductBound,
        to_points=scores.arc_to_points,
        reach=scores.arc_reach,
        product=scores.root,
    ),
    torch.square,
)
_SEGMENTS = Kind(
    scores.segment_terms,
    scores.segment_terms,
    scores.segment_scores,
    partial(DistanceBound, to_points=scores.segment_to_points),
)


def _samples(
    row_fractions: Sequence[float],
    col_fractions: Sequence[float],
    normalize: bool,
    similarity: bool,
    unit: bool,
) -> Kind:
    """The kind of samples at these fractions. On the sphere a near point is a large product."""
    products = similarity or on_sphere(normalize, similarity, unit)
    bound: Callable[[Tensor, Curves], Bound] | None = None
    # Bounds see a curve through its two ends.
    if {0.0, 1.0} <= set(col_fractions):
        if products:
            bound = partial(
                ProductBound, to_points=scores.samples_to_points, reach=scores.sample_reach
            )
        elif not normalize:
            bound = partial(DistanceBound, to_points=scores.sample_distances_to_points)
    row_terms, col_terms = (
        partial(_sample_terms, fractions=fractions, normalize=normalize, products=products)
        for fractions in (row_fractions, col_fractions)
    )
    return Kind(
        row_terms,
        row_terms if list(row_fractions) == list(col_fractions) else col_terms,
        partial(scores.sample_scores, similarity=products),
        bound,
        None if similarity or not products else torch.clone,
    )


def _sample_terms(
    gram: Tensor, pairs: Pairs, fractions: Sequence[float], normalize: bool, products: bool
) -> Tensor:
    # Products need no squares.
    return scores.sample_terms(gram, pairs, fractions, normalize)[: 2 if products else 3]


@torch.library.custom_op("loopml::nearest_arcs", mutates_args=(), schema=_SCHEMA)
def _nearest_arcs(
    gram: Tensor,
    row_first: Tensor,
    row_second: Tensor,
    row_label: Tensor,
    col_first: Tensor,
    col_second: Tensor,
    col_label: Tensor,
    k: int,
) -> tuple[Tensor, Tensor]:
    rows, cols = Pairs(row_first, row_second, row_label), Pairs(col_first, col_second, col_label)

    def search(rows: Pairs, cols: Pairs) -> tuple[Tensor, Tensor]:
        index, sq = _search(gram, rows, cols, _ARCS, k)
        return index, -scores.root(sq)

    return nearest_with_zeros(gram, rows, cols, search) if k == 1 else search(rows, cols)


@torch.library.custom_op("loopml::nearest_segments", mutates_args=(), schema=_SCHEMA)
def _nearest_segments(
    gram: Tensor,
    row_first: Tensor,
    row_second: Tensor,
    row_label: Tensor,
    col_first: Tensor,
    col_second: Tensor,
    col_label: Tensor,
    k: int,
) -> tuple[Tensor, Tensor]:
    rows, cols = Pairs(row_first, row_second, row_label), Pairs(col_first, col_second, col_label)
    index, score = _search(gram, rows, cols, _SEGMENTS, k)
    return index, -score


@torch.library.custom_op("loopml::nearest_samples", mutates_args=(), schema=_SAMPLES_SCHEMA)
def _nearest_samples(
    gram: Tensor,
    row_first: Tensor,
    row_second: Tensor,
    row_label: Tensor,
    col_first: Tensor,
    col_second: Tensor,
    col_label: Tensor,
    row_fractions: Sequence[float],
    col_fractions: Sequence[float],
    normalize: bool,
    similarity: bool,
    unit: bool,
    k: int,
) -> tuple[Tensor, Tensor]:
    rows, cols = Pairs(row_first, row_second, row_label), Pairs(col_first, col_second, col_label)
    kind = _samples(row_fractions, col_fractions, normalize, similarity, unit)

    def search(rows: Pairs, cols: Pairs) -> tuple[Tensor, Tensor]:
        index, score = _search(gram, rows, cols, kind, k)
        return index, -score

    if not on_sphere(normalize, similarity, unit):
        return search(rows, cols)
    ends = 0.0 in row_fractions, 1.0 in row_fractions
    found = nearest_with_zeros(gram, rows, cols, search, ends) if k == 1 else search(rows, cols)
    return found[0], sq_distance(found[1])


@_nearest_arcs.register_fake
@_nearest_segments.register_fake
def _(gram: Tensor, row_first: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    shape = (row_first.shape[0], args[-1])  # the last may be a symbol
    return row_first.new_empty(shape), gram.new_empty(shape)


_nearest_samples.register_fake(_)


use_kernel(_nearest_arcs, "nearest_arcs")
use_kernel(_nearest_segments, "nearest_segments")
use_kernel(_nearest_samples, "nearest_samples")


def _width(k: int, cols: Pairs) -> int:
    """How many columns to find: no row has more than there are, and -1 needs a place."""
    if k == 1:  # the compiler of torch 2.4 knows no minimum of symbols
        return 1
    c = cols.first.shape[0]
    # Not min and max, which would fix a symbol to a number.
    width: int = torch.sym_min(k, torch.sym_max(1, c))  # type: ignore[no-untyped-call,unused-ignore]
    return width


@torch.no_grad()
def nearest_arcs(gram: Tensor, rows: Pairs, cols: Pairs, k: int = 1) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest arcs of another label; values are minus the largest inner product.

    An arc that starts or ends in a zero row is its two ends. A zero row is at distance 1 from every
    unit vector and 0 from another zero row, so it has the products 1/2 and 1 with them.

    Args:
        gram: (n, n) inner products of unit vectors, or zero rows.
        rows: r arcs.
        cols: c arcs.
        k: how many of them to find for each row, at most c.

    Returns:
        Indices into ``cols`` and values, (r, k).
    """
    op = chosen(_nearest_arcs, gram)
    found: tuple[Tensor, Tensor] = op(gram, *rows, *cols, _width(k, cols))
    return found


@torch.no_grad()
def nearest_segments(gram: Tensor, rows: Pairs, cols: Pairs, k: int = 1) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest segments of another label; values are squared distances.

    Args:
        gram: (n, n) inner products, of points around any origin: minus half their squared distances
            with a zero diagonal serve as well, and lose no digits to rows that are far away.
        rows: r segments.
        cols: c segments.
        k: how many of them to find for each row, at most c.

    Returns:
        Indices into ``cols`` and values, (r, k).
    """
    found: tuple[Tensor, Tensor] = chosen(_nearest_segments, gram)(
        gram, *rows, *cols, _width(k, cols)
    )
    return found


@torch.no_grad()
def nearest_samples(
    gram: Tensor,
    rows: Pairs,
    cols: Pairs,
    row_fractions: Sequence[float],
    col_fractions: Sequence[float],
    *,
    normalize: bool,
    similarity: bool,
    unit: bool = False,
    k: int = 1,
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest pairs of another label, by their nearest sampled points.

    Args:
        gram: (n, n) inner products; without ``normalize`` and ``similarity`` of points around any
            origin, as for :func:`nearest_segments`.
        rows: r pairs.
        cols: c pairs.
        row_fractions: where on each row pair its points lie, 0 its first row and 1 its second.
        col_fractions: the same for the column pairs.
        normalize: whether points between the ends are divided by their length.
        similarity: whether near is a large inner product (the value is minus it) or a small squared
            distance (the value).
        unit: whether the points are unit vectors, or zero rows, and compared as they are: then a
            small distance between normalised points is found by inner products. A zero row is at
            distance 1 from every unit vector, and a pair with one is its two ends.
        k: how many pairs to find for each row, at most as many as there are columns.

    Returns:
        Indices into ``cols`` and values, (r, k).
    """
    options = list(row_fractions), list(col_fractions), normalize, similarity, unit
    found: tuple[Tensor, Tensor] = chosen(_nearest_samples, gram)(
        gram, *rows, *cols, *options, _width(k, cols)
    )
    return found
