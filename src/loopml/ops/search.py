"""The ops: which terms, scores and bounds belong to each kind of curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from loopml._types import Gram, Pairs, Side
from loopml.compiled import kernels_for
from loopml.ops import scores
from loopml.ops.blocks import Curves, Score, filled_up, rows_with_columns, search_all
from loopml.ops.bounds import Bound, search_nearest
from loopml.ops.cuda import use_kernel
from loopml.ops.eager import chosen
from loopml.ops.reach import DistanceBound, ProductBound
from loopml.ops.zeros import (
    has_no_zeros,
    nearest_with_zeros,
    on_sphere,
    scored_with_zeros,
    sq_distance,
    with_zeros,
    without_zero_ends,
)

# Written out, since the releases of torch differ in which annotations they can read.
_CURVES = (
    "Tensor inner, Tensor row_square, Tensor col_square, "
    "Tensor row_first, Tensor row_second, Tensor row_label, Tensor row_inner, "
    "Tensor col_first, Tensor col_second, Tensor col_label, Tensor col_inner"
)
_SCHEMA = f"({_CURVES}, SymInt k) -> (Tensor, Tensor)"
_SAMPLES_SCHEMA = (
    f"({_CURVES}, float[] row_fractions, float[] col_fractions, bool normalize, "
    "bool similarity, bool unit, SymInt k) -> (Tensor, Tensor)"
)

Terms = Callable[[Tensor], Tensor]  # of curves, from the products of their ends with themselves
Found = tuple[Tensor, Tensor]  # columns (r, k) and values (r, k)


def packed(gram: Gram, rows: Side, cols: Side) -> tuple[Tensor, ...]:
    """What the ops take, as tensors alone."""
    return (*gram, *rows.pairs, rows.inner, *cols.pairs, cols.inner)


def unpacked(tensors: Sequence[Tensor]) -> tuple[Gram, Side, Side]:
    """The same as it was before :func:`packed`."""
    return (
        Gram(*tensors[:3]),
        Side(Pairs(*tensors[3:6]), tensors[6]),
        Side(Pairs(*tensors[7:10]), tensors[10]),
    )


@dataclass(frozen=True)
class Kind:
    """What a search has to know of a kind of curve."""

    name: str  # as compiled functions know it
    row_terms: Terms
    col_terms: Terms
    score: Score
    # The value of a score.
    value: Callable[[Tensor], Tensor]
    # The bounds for the columns, where there are any.
    bound: Callable[[Gram, Curves], Bound] | None
    # The score of an inner product, where curves join unit vectors and zero rows.
    of_product: Callable[[Tensor], Tensor] | None = None
    # What else compiled functions have to know.
    options: dict[str, Any] = field(default_factory=dict)


def _search(gram: Gram, rows: Side, cols: Side, kind: Kind, k: int) -> Found:
    """The ``k`` nearest columns of each row.

    Zero rows are looked after for k > 1; the nearest one is compared with them afterwards.
    """
    had_zero = None
    if k > 1 and kind.of_product is not None and not has_no_zeros(gram):
        rows, row_zero = without_zero_ends(rows, gram.row_square)
        cols, col_zero = without_zero_ends(cols, gram.col_square)
        had_zero = row_zero, col_zero
    fast = kernels_for(gram.inner)
    if fast is not None:
        bounded = kind.bound is not None
        options = {**kind.options, "bounded": bounded, "had_zero": had_zero}
        found: Found = fast.nearest(kind.name, gram, rows, cols, k, **options)
        return found
    index, score = _scored(gram, rows, cols, kind, k, had_zero)
    return index, kind.value(score)


def _scored(
    gram: Gram,
    rows: Side,
    cols: Side,
    kind: Kind,
    k: int,
    had_zero: tuple[Tensor, Tensor] | None,
) -> Found:
    """The ``k`` highest scores of each row, as of :func:`search_all`."""
    has = rows_with_columns(rows.pairs, cols.pairs)
    if has is not None:
        some = Side(rows.pairs.take(has), rows.inner[has])
        some_zero = None if had_zero is None else (had_zero[0][has], had_zero[1])
        found = _scored(gram, some, cols, kind, k, some_zero)
        return filled_up(found, has, -torch.inf)
    q = _known(cols, gram.col_square, kind.col_terms)
    # Computed once where they are the same curves.
    same = rows.inner is cols.inner and kind.row_terms is kind.col_terms
    p = q if same else _known(rows, gram.row_square, kind.row_terms)
    if had_zero is not None and kind.of_product is not None:
        p, q = (with_zeros(*x) for x in zip((p, q), had_zero, strict=True))
        return search_all(gram.inner, p, q, scored_with_zeros(kind.score, kind.of_product), k)
    if k == 1 and kind.bound is not None and len(p) and len(q):
        return search_nearest(gram.inner, p, q, kind.score, kind.bound(gram, q))
    return search_all(gram.inner, p, q, kind.score, k)


def _known(side: Side, square: Tensor, terms: Terms) -> Curves:
    own = scores.own_products(side, square)
    return Curves(side.pairs, own, terms(own))


_ARCS = Kind(
    "arcs",
    scores.arc_terms,
    scores.arc_terms,
    scores.arc_scores,
    lambda sq: -scores.root(sq),
    partial(
        ProductBound,
        to_points=scores.arc_to_points,
        reach=scores.arc_reach,
        product=scores.root,
    ),
    torch.square,
)
_SEGMENTS = Kind(
    "segments",
    scores.segment_terms,
    scores.segment_terms,
    scores.segment_scores,
    torch.neg,
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
    bound: Callable[[Gram, Curves], Bound] | None = None
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
    options = {"row_fractions": row_fractions, "col_fractions": col_fractions}
    return Kind(
        "products" if products else "distances",
        row_terms,
        row_terms if list(row_fractions) == list(col_fractions) else col_terms,
        partial(scores.sample_scores, similarity=products),
        torch.neg,
        bound,
        None if similarity or not products else torch.clone,
        {**options, "normalize": normalize},
    )


def _sample_terms(
    own: Tensor, fractions: Sequence[float], normalize: bool, products: bool
) -> Tensor:
    # Products need no squares.
    return scores.sample_terms(own, fractions, normalize)[: 2 if products else 3]


@torch.library.custom_op("loopml::nearest_arcs", mutates_args=(), schema=_SCHEMA)
def _nearest_arcs(*args: Any) -> Found:
    *tensors, k = args
    gram, rows, cols = unpacked(tensors)

    def search(rows: Side, cols: Side) -> Found:
        return _search(gram, rows, cols, _ARCS, k)

    return nearest_with_zeros(gram, rows, cols, search) if k == 1 else search(rows, cols)


@torch.library.custom_op("loopml::nearest_segments", mutates_args=(), schema=_SCHEMA)
def _nearest_segments(*args: Any) -> Found:
    *tensors, k = args
    return _search(*unpacked(tensors), _SEGMENTS, k)


@torch.library.custom_op("loopml::nearest_samples", mutates_args=(), schema=_SAMPLES_SCHEMA)
def _nearest_samples(*args: Any) -> Found:
    *tensors, row_fractions, col_fractions, normalize, similarity, unit, k = args
    gram, rows, cols = unpacked(tensors)
    kind = _samples(row_fractions, col_fractions, normalize, similarity, unit)

    def search(rows: Side, cols: Side) -> Found:
        return _search(gram, rows, cols, kind, k)

    if not on_sphere(normalize, similarity, unit):
        return search(rows, cols)
    ends = 0.0 in row_fractions, 1.0 in row_fractions
    found = nearest_with_zeros(gram, rows, cols, search, ends) if k == 1 else search(rows, cols)
    return found[0], sq_distance(found[1])


@_nearest_arcs.register_fake
@_nearest_segments.register_fake
def _(*args: Any) -> Found:
    inner, row_first, k = args[0], args[3], args[-1]
    shape = (row_first.shape[0], k)  # k may be a symbol
    return row_first.new_empty(shape), inner.new_empty(shape)


_nearest_samples.register_fake(_)


use_kernel(_nearest_arcs, "nearest_arcs")
use_kernel(_nearest_segments, "nearest_segments")
use_kernel(_nearest_samples, "nearest_samples")


def _width(k: int, cols: Side) -> int:
    """How many columns to find: no row has more than there are, and -1 needs a place."""
    if k == 1:  # the compiler of torch 2.4 knows no minimum of symbols
        return 1
    c = cols.inner.shape[0]
    # Not min and max, which would fix a symbol to a number.
    width: int = torch.sym_min(k, torch.sym_max(1, c))  # type: ignore[assignment,no-untyped-call,unused-ignore]
    return width


@torch.no_grad()
def nearest_arcs(gram: Gram, rows: Side, cols: Side, k: int = 1) -> Found:
    """The ``k`` nearest arcs of another label; values are minus the largest inner product.

    An arc that starts or ends in a zero row is its two ends. A zero row is at distance 1 from every
    unit vector and 0 from another zero row, so it has the products 1/2 and 1 with them.

    Args:
        gram: inner products of unit vectors, or zero rows: the ends of rows with those of columns.
        rows: r arcs.
        cols: c arcs.
        k: how many of them to find for each row, at most c.

    Returns:
        Indices into ``cols`` and values, (r, k).
    """
    op = chosen(_nearest_arcs, gram.inner)
    found: Found = op(*packed(gram, rows, cols), _width(k, cols))
    return found


@torch.no_grad()
def nearest_segments(gram: Gram, rows: Side, cols: Side, k: int = 1) -> Found:
    """The ``k`` nearest segments of another label; values are squared distances.

    Args:
        gram: inner products of the ends of rows with those of columns, around any origin: minus
            half their squared distances, and squares 0, serve as well, and lose no digits to points
            that are far away.
        rows: r segments.
        cols: c segments.
        k: how many of them to find for each row, at most c.

    Returns:
        Indices into ``cols`` and values, (r, k).
    """
    op = chosen(_nearest_segments, gram.inner)
    found: Found = op(*packed(gram, rows, cols), _width(k, cols))
    return found


@torch.no_grad()
def nearest_samples(
    gram: Gram,
    rows: Side,
    cols: Side,
    row_fractions: Sequence[float],
    col_fractions: Sequence[float],
    *,
    normalize: bool,
    similarity: bool,
    unit: bool = False,
    k: int = 1,
) -> Found:
    """The ``k`` nearest pairs of another label, by their nearest sampled points.

    Args:
        gram: inner products of the ends of rows with those of columns; without ``normalize`` and
            ``similarity`` around any origin, as for :func:`nearest_segments`.
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
    op = chosen(_nearest_samples, gram.inner)
    found: Found = op(*packed(gram, rows, cols), *options, _width(k, cols))
    return found
