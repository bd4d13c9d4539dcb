"""The ops: which terms, scores and bounds belong to each kind of curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from loopml._types import Pairs
from loopml.geometry import gram as scores
from loopml.ops.blocks import Curves, search_all
from loopml.ops.bounds import Bound, search_nearest
from loopml.ops.cuda import use_kernel
from loopml.pairing import all_curves
from loopml.selection import farthest, largest

# Written out, since the releases of torch differ in which annotations they can read.
_CURVES = (
    "Tensor gram, Tensor row_first, Tensor row_second, Tensor row_label, "
    "Tensor col_first, Tensor col_second, Tensor col_label"
)
_SCHEMA = f"({_CURVES}, SymInt k) -> (Tensor, Tensor)"
_SAMPLES_SCHEMA = (
    f"({_CURVES}, float[] row_fractions, float[] col_fractions, bool normalize, "
    "bool similarity, SymInt k) -> (Tensor, Tensor)"
)


_ARC_BOUND = Bound(scores.arc_to_points, scores.arc_reach, scores.root)
_SAMPLE_BOUND = Bound(scores.samples_to_points, scores.sample_reach, lambda product: product)

# Up to this many rows, a matrix of all pairs takes fewer calls than a list of the positive ones.
_FEW = 256


def _with_terms(
    rows: Pairs, cols: Pairs, terms: Callable[[Pairs], Tensor]
) -> tuple[Curves, Curves]:
    """Both with their terms, computed once where they are the same curves."""
    q = terms(cols)
    p = q if rows.first is cols.first and rows.second is cols.second else terms(rows)
    return Curves(rows, p), Curves(cols, q)


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
    pairs = Pairs(row_first, row_second, row_label), Pairs(col_first, col_second, col_label)
    rows, cols = _with_terms(*pairs, partial(scores.arc_terms, gram))
    if k == 1:
        index, sq = search_nearest(gram, rows, cols, scores.arc_scores, _ARC_BOUND)
    else:
        index, sq = search_all(gram, rows, cols, scores.arc_scores, k)
    return index, -scores.root(sq)


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
    pairs = Pairs(row_first, row_second, row_label), Pairs(col_first, col_second, col_label)
    rows, cols = _with_terms(*pairs, partial(scores.segment_terms, gram))
    index, score = search_all(gram, rows, cols, scores.segment_scores, k)
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
    k: int,
) -> tuple[Tensor, Tensor]:
    # Bounds are for inner products, and see a curve through its two ends. Between unit vectors a
    # small distance is a large product.
    on_sphere = normalize and not similarity and _are_unit(gram.diagonal())
    used = 2 if similarity or on_sphere else 3
    rows, cols = (
        Curves(pairs, scores.sample_terms(gram, pairs, fractions, normalize)[:used])
        for pairs, fractions in (
            (Pairs(row_first, row_second, row_label), row_fractions),
            (Pairs(col_first, col_second, col_label), col_fractions),
        )
    )
    score = partial(scores.sample_scores, similarity=similarity or on_sphere)
    if k == 1 and (similarity or on_sphere) and {0.0, 1.0} <= set(col_fractions):
        index, value = search_nearest(gram, rows, cols, score, _SAMPLE_BOUND)
    else:
        index, value = search_all(gram, rows, cols, score, k)
    return index, (2 - 2 * value).clamp(min=0) if on_sphere else -value


def _are_unit(square: Tensor) -> bool:
    return bool(((square - 1).abs() < 1e-3).all())


@_nearest_arcs.register_fake
@_nearest_segments.register_fake
def _(gram: Tensor, row_first: Tensor, *args: object) -> tuple[Tensor, Tensor]:
    k = args[-1]
    assert isinstance(k, int)
    shape = (row_first.shape[0], k)
    return row_first.new_empty(shape), gram.new_empty(shape)


_nearest_samples.register_fake(_)


use_kernel(_nearest_arcs, "nearest_arcs")
use_kernel(_nearest_segments, "nearest_segments")
use_kernel(_nearest_samples, "nearest_samples")


@torch.library.custom_op(
    "loopml::farthest_positives", mutates_args=(), schema="(Tensor gram, Tensor labels) -> Tensor"
)
def _farthest_positives(gram: Tensor, labels: Tensor) -> Tensor:
    if len(labels) <= _FEW:
        positive = (labels.unsqueeze(1) == labels).fill_diagonal_(False)
        return largest(gram.diagonal() - 2 * gram, positive, 1)[0].squeeze(1)
    pairs, _ = all_curves(labels)
    first, second = torch.cat(pairs[:2]), torch.cat(pairs[1::-1])
    return farthest(gram, first, second, len(labels))


@_farthest_positives.register_fake
def _(gram: Tensor, labels: Tensor) -> Tensor:
    return labels.new_empty(labels.shape, dtype=torch.int64)


def _op(op: Any, gram: Tensor) -> Callable[..., Any]:
    """The op, or in eager mode on the CPU the function behind it.

    The Python layers of the dispatcher take 0.4 ms, as long as the search of a batch of 128.
    """
    eager = gram.device.type == "cpu" and not torch.compiler.is_compiling()
    chosen: Callable[..., Any] = op._init_fn if eager else op
    return chosen


@torch.no_grad()
def farthest_positives(gram: Tensor, labels: Tensor) -> Tensor:
    """The farthest other row of its label that each row has, in Euclidean distance.

    Args:
        gram: (n, n) inner products.
        labels: (n,).

    Returns:
        (n,) rows, -1 where there is none; the first of equally far ones.
    """
    found: Tensor = _op(_farthest_positives, gram)(gram, labels)
    return found


@torch.no_grad()
def nearest_arcs(gram: Tensor, rows: Pairs, cols: Pairs, k: int = 1) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest arcs of another label; values are minus the largest inner product.

    Args:
        gram: (n, n) inner products of unit vectors.
        rows: r arcs.
        cols: c arcs.
        k: how many of them to find for each row.

    Returns:
        Indices into ``cols`` and values, (r, k).
    """
    found: tuple[Tensor, Tensor] = _op(_nearest_arcs, gram)(gram, *rows, *cols, k)
    return found


@torch.no_grad()
def nearest_segments(gram: Tensor, rows: Pairs, cols: Pairs, k: int = 1) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest segments of another label; values are squared distances.

    Args:
        gram: (n, n) inner products; those of centred points lose the fewest digits.
        rows: r segments.
        cols: c segments.
        k: how many of them to find for each row.

    Returns:
        Indices into ``cols`` and values, (r, k).
    """
    found: tuple[Tensor, Tensor] = _op(_nearest_segments, gram)(gram, *rows, *cols, k)
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
    k: int = 1,
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest pairs of another label, by their nearest sampled points.

    Args:
        gram: (n, n) inner products.
        rows: r pairs.
        cols: c pairs.
        row_fractions: where on each row pair its points lie, 0 its first row and 1 its second.
        col_fractions: the same for the column pairs.
        normalize: whether points between the ends are divided by their length.
        similarity: whether near is a large inner product (the value is minus it) or a small squared
            distance (the value).
        k: how many pairs to find for each row.

    Returns:
        Indices into ``cols`` and values, (r, k).
    """
    options = list(row_fractions), list(col_fractions), normalize, similarity
    found: tuple[Tensor, Tensor] = _op(_nearest_samples, gram)(gram, *rows, *cols, *options, k)
    return found
