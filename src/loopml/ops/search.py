"""Pure torch search over row blocks of curve scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from loopml._types import Pairs
from loopml.geometry import gram as scores
from loopml.selection import smallest

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

# Scores of one block. A temporary of 2^15 float32 is 128 KiB: the dozen that are alive at once stay
# in the cache of a core.
_BLOCK = 1 << 15


def _search(
    rows: Pairs, cols: Pairs, k: int, score: Callable[[slice], Tensor], like: Tensor
) -> tuple[Tensor, Tensor]:
    """The ``k`` lowest of ``score(block)`` (b, c) over columns of another label, block by block."""
    r, c = len(rows.first), len(cols.first)
    index = torch.empty((r, k), dtype=torch.int64, device=like.device)
    value = like.new_empty((r, k))
    step = max(1, _BLOCK // max(1, c))
    for start in range(0, r, step):
        block = slice(start, start + step)
        allowed = rows.label[block].unsqueeze(1) != cols.label
        index[block], value[block] = smallest(score(block), allowed, k)
    return index, value


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
    spans = scores.arc_spans(gram, cols)

    def score(block: slice) -> Tensor:
        part = rows.take(block)
        p = scores.as_rows(scores.arc_spans(gram, part))
        return scores.arc_scores(scores.corners(gram, part, cols), p, spans)

    return _search(rows, cols, k, score, gram)


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
    spans = scores.segment_spans(gram, cols)

    def score(block: slice) -> Tensor:
        part = rows.take(block)
        p = scores.segment_spans(gram, part).as_rows()
        return scores.segment_scores(scores.corners(gram, part, cols), p, spans)

    return _search(rows, cols, k, score, gram)


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
    rows, cols = Pairs(row_first, row_second, row_label), Pairs(col_first, col_second, col_label)

    def score(block: slice) -> Tensor:
        return scores.sample_scores(
            gram, rows.take(block), cols, row_fractions, col_fractions, normalize, similarity
        )

    return _search(rows, cols, k, score, gram)


@_nearest_arcs.register_fake
@_nearest_segments.register_fake
def _(gram: Tensor, row_first: Tensor, *args: object) -> tuple[Tensor, Tensor]:
    k = args[-1]
    assert isinstance(k, int)
    shape = (row_first.shape[0], k)
    return row_first.new_empty(shape), gram.new_empty(shape)


_nearest_samples.register_fake(_)


def _op(op: Any, gram: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    """The op, or in eager mode on the CPU the function behind it.

    The Python layers of the dispatcher take 0.4 ms, as long as the search of a batch of 128.
    """
    eager = gram.device.type == "cpu" and not torch.compiler.is_compiling()
    chosen: Callable[..., tuple[Tensor, Tensor]] = op._init_fn if eager else op
    return chosen


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
    return _op(_nearest_arcs, gram)(gram, *rows, *cols, k)


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
    return _op(_nearest_segments, gram)(gram, *rows, *cols, k)


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
    return _op(_nearest_samples, gram)(
        gram, *rows, *cols, list(row_fractions), list(col_fractions), normalize, similarity, k
    )
