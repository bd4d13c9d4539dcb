"""The search for k = 1 as a Triton kernel, for CUDA tensors. The only file that imports triton.

One kernel serves the three ops. A program holds a block of row curves and walks over the columns in
tiles; from the four Gram entries of a row and a column, and the terms of either curve alone, it
scores the pair in registers, so that nothing of size (r, c) is ever stored. The terms are those of
``loopml.ops.scores``, and so are the candidates and the reasons for them.

It is compiled without fused multiply-adds. Fusing rounds one product of a sum and not the other,
and which one is the compiler's choice at each place, so curves that share their nearest endpoint,
one as its first and one as its second row, need no longer tie bit for bit.

A NaN score is never chosen, so no index can be out of bounds.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from loopml._types import Gram, Side
from loopml.ops.scores import arc_terms, own_products, sample_terms, segment_terms
from loopml.ops.search import unpacked
from loopml.ops.zeros import nearest_with_zeros, on_sphere, sq_distance

# A program's tile. Few rows, because a batch of 128 has few row curves for a hundred processors;
# many columns, because neighbouring columns share their first row and read the second in order.
# Not tuned on a GPU; compiled for one (sm_80, sm_90), no op spills a register.
_BLOCK_ROWS = 4
_BLOCK_COLS = 128


@triton.jit
def _sqrt(x):
    """The square root rounded to nearest; a GPU's own for float32 need not even be monotone."""
    return tl.sqrt_rn(x) if x.dtype == tl.float32 else tl.sqrt(x)


@triton.jit
def _at_least_zero(x):
    """``x`` without its negatives; a maximum would turn NaN into 0."""
    return tl.where(x < 0.0, 0.0, x)


@triton.jit
def _arc_to_point(first, second, per_sin, cot):
    """The largest product of a point on an arc with a given point, squared with its sign."""
    larger = tl.maximum(first, second)
    towards = _at_least_zero(tl.minimum(first, second) * per_sin - larger * cot)
    return tl.abs(larger) * larger + towards * towards


@triton.jit
def _arc_scores(p0q0, p0q1, p1q0, p1q1, p_terms, r, q_terms, c):
    """The largest product of two arcs, squared with its sign: the best of edges and interior."""
    p_cos, p_sin = tl.load(p_terms), tl.load(p_terms + r)
    p_per_middle, p_per_along = tl.load(p_terms + 2 * r), tl.load(p_terms + 3 * r)
    p_per_sin, p_cot = tl.load(p_terms + 4 * r), tl.load(p_terms + 5 * r)
    q_cos, q_sin = tl.load(q_terms), tl.load(q_terms + c)
    q_per_middle, q_per_along = tl.load(q_terms + 2 * c), tl.load(q_terms + 3 * c)
    q_per_sin, q_cot = tl.load(q_terms + 4 * c), tl.load(q_terms + 5 * c)
    edge = tl.maximum(
        tl.maximum(
            _arc_to_point(p0q0, p1q0, p_per_sin, p_cot), _arc_to_point(p0q1, p1q1, p_per_sin, p_cot)
        ),
        tl.maximum(
            _arc_to_point(p0q0, p0q1, q_per_sin, q_cot), _arc_to_point(p1q0, p1q1, q_per_sin, q_cot)
        ),
    )
    # Interior: the top left singular vector u of the frame products M, and its answer v = M^T u.
    x0, x1 = (p0q0 + p1q0) * p_per_middle, (p0q1 + p1q1) * p_per_middle
    y0, y1 = (p1q0 - p0q0) * p_per_along, (p1q1 - p0q1) * p_per_along
    xx, xy = (x0 + x1) * q_per_middle, (x1 - x0) * q_per_along
    yx, yy = (y0 + y1) * q_per_middle, (y1 - y0) * q_per_along
    ux = xx * xx + xy * xy - yx * yx - yy * yy
    uy = 2.0 * (xx * yx + xy * yy)
    ux += _sqrt(ux * ux + uy * uy)
    vx, vy = xx * ux + yx * uy, xy * ux + yy * uy
    inside = (tl.abs(uy) * p_cos < ux * p_sin) & (tl.abs(vy) * q_cos < vx * q_sin)
    sq_u = ux * ux + uy * uy
    # Where the square of u underflows, all products are as good as zero.
    interior = (vx * vx + vy * vy) / tl.where(sq_u > 0.0, sq_u, 1.0)
    return tl.where(inside, tl.maximum(edge, interior), edge)


@triton.jit
def _sq_to_segment(sq_to0, sq_to1, sq_length, per_sq_length):
    """Squared distance of a point to a segment, from its squared distances to both ends."""
    fraction = ((sq_to0 - sq_to1) * per_sq_length + 1.0) * 0.5
    fraction = tl.where(fraction > 1.0, 1.0, _at_least_zero(fraction))
    rest = 1.0 - fraction
    return rest * sq_to0 + fraction * sq_to1 - fraction * rest * sq_length


@triton.jit
def _segment_scores(p0q0, p0q1, p1q0, p1q1, p_terms, r, q_terms, c):
    """Minus the squared distance of two segments: the least of the four edges and the interior."""
    sq_p0, sq_p1 = tl.load(p_terms), tl.load(p_terms + r)
    sq_q0, sq_q1 = tl.load(q_terms), tl.load(q_terms + c)
    sq_p, per_sq_p = tl.load(p_terms + 2 * r), tl.load(p_terms + 3 * r)
    sq_q, per_sq_q = tl.load(q_terms + 2 * c), tl.load(q_terms + 3 * c)
    sq00, sq01 = sq_p0 + sq_q0 - 2.0 * p0q0, sq_p0 + sq_q1 - 2.0 * p0q1
    sq10, sq11 = sq_p1 + sq_q0 - 2.0 * p1q0, sq_p1 + sq_q1 - 2.0 * p1q1
    least = _sq_to_segment(sq00, sq10, sq_p, per_sq_p)
    least = tl.minimum(least, _sq_to_segment(sq01, sq11, sq_p, per_sq_p))
    least = tl.minimum(least, _sq_to_segment(sq00, sq01, sq_q, per_sq_q))
    least = tl.minimum(least, _sq_to_segment(sq10, sq11, sq_q, per_sq_q))
    # With m the difference of the middles and u, v the two segments as vectors:
    uv = (sq01 + sq10 - sq00 - sq11) / 2.0
    um = (sq10 + sq11 - sq00 - sq01) / 4.0
    vm = (sq00 + sq10 - sq01 - sq11) / 4.0
    det = sq_p * sq_q - uv * uv
    x = (uv * vm - um * sq_q) / tl.where(det > 0.0, det, 1.0)  # from the middle, in lengths
    # At a small angle x is rounding. It does no harm where y answers it; a y from det would be
    # rounding of its own, and the two together nearer than the segments are.
    y = (vm + x * uv) * per_sq_q
    inside = (det > 0.0) & (tl.abs(x) < 0.5) & (tl.abs(y) < 0.5)
    sq_middles = (sq00 + sq01 + sq10 + sq11 - sq_p - sq_q) / 4.0
    interior = sq_middles + x * um - y * vm
    return -_at_least_zero(tl.where(inside, tl.minimum(least, interior), least))


@triton.jit
def _sample_scores(
    p0q0, p0q1, p1q0, p1q1, p_terms, r, p_points, q_terms, c, q_points, similarity: tl.constexpr
):
    """The highest score over all points of one pair and all points of the other."""
    best = tl.full(p0q0.shape, -float("inf"), p0q0.dtype)
    for i in range(p_points):
        w0, w1 = tl.load(p_terms + i * r), tl.load(p_terms + (p_points + i) * r)
        sq_p = tl.load(p_terms + (2 * p_points + i) * r)
        # One row of q at a time, so that pairs sharing an end agree on it bit for bit.
        pq0, pq1 = w0 * p0q0 + w1 * p1q0, w0 * p0q1 + w1 * p1q1
        for j in range(q_points):
            v0, v1 = tl.load(q_terms + j * c), tl.load(q_terms + (q_points + j) * c)
            sq_q = tl.load(q_terms + (2 * q_points + j) * c)
            inner = pq0 * v0 + pq1 * v1
            score = inner if similarity else -_at_least_zero(sq_p + sq_q - 2.0 * inner)
            best = tl.maximum(best, score)
    return best


# The number of curves differs from batch to batch, which must not compile the kernel anew.
@triton.jit(do_not_specialize=["n", "r", "c", "p_points", "q_points"])
def _search(
    gram, n, row_first, row_second, row_label, row_terms, r, p_points,
    col_first, col_second, col_label, col_terms, c, q_points, index, value,
    kind: tl.constexpr, block_rows: tl.constexpr, block_cols: tl.constexpr,
):  # fmt: skip
    """The highest score as a value, and its lowest column, for each row curve of a block."""
    # Curves past the end repeat the last one, which changes no maximum and needs no mask.
    row = tl.minimum(tl.program_id(0) * block_rows + tl.arange(0, block_rows), r - 1)
    # Indices are int64, and so are these offsets: n * n can pass 2^31.
    p0 = gram + tl.load(row_first + row)[:, None] * n
    p1 = gram + tl.load(row_second + row)[:, None] * n
    p_label = tl.load(row_label + row)[:, None]
    p_terms = row_terms + row[:, None]
    best = tl.full((block_rows, block_cols), -float("inf"), gram.dtype.element_ty)
    winner = tl.full((block_rows, block_cols), -1, tl.int32)
    for start in range(0, c, block_cols):
        col = tl.minimum(start + tl.arange(0, block_cols), c - 1)[None, :]
        q0, q1 = tl.load(col_first + col), tl.load(col_second + col)
        q_label, q_terms = tl.load(col_label + col), col_terms + col
        p0q0, p0q1 = tl.load(p0 + q0), tl.load(p0 + q1)
        p1q0, p1q1 = tl.load(p1 + q0), tl.load(p1 + q1)
        if kind == "arcs":
            score = _arc_scores(p0q0, p0q1, p1q0, p1q1, p_terms, r, q_terms, c)
        elif kind == "segments":
            score = _segment_scores(p0q0, p0q1, p1q0, p1q1, p_terms, r, q_terms, c)
        else:
            score = _sample_scores(
                p0q0, p0q1, p1q0, p1q1, p_terms, r, p_points, q_terms, c, q_points,
                kind == "products",
            )  # fmt: skip
        # Strictly nearer, so that each lane keeps the first of equal columns.
        nearer = (score > best) & (p_label != q_label)
        best = tl.where(nearer, score, best)
        winner = tl.where(nearer, col, winner)
    lowest = tl.min(-best, axis=1)
    # A row that has no column is -inf in every lane, where the winner is -1.
    first = tl.min(tl.where(-best == lowest[:, None], winner, c), axis=1)
    tl.store(index + row, first)
    if kind == "arcs":  # minus the product, of minus its square with its sign
        lowest = tl.where(lowest < 0.0, -1.0, 1.0) * _sqrt(tl.abs(lowest))
    tl.store(value + row, lowest)


def _launch(
    kind: str,
    inner: Tensor,
    rows: Side,
    cols: Side,
    row_terms: Tensor,
    col_terms: Tensor,
    points: tuple[int, int] = (0, 0),
) -> tuple[Tensor, Tensor]:
    """Index and value (r, 1), from the terms of all curves: (t, ..., r) and (t, ..., c)."""
    r, c = len(rows.inner), len(cols.inner)
    index = torch.empty((r, 1), dtype=torch.int64, device=inner.device)
    value = torch.empty((r, 1), dtype=inner.dtype, device=inner.device)
    if r == 0:
        return index, value
    inner = inner.contiguous()
    row_first, row_second, row_label = (x.contiguous() for x in rows.pairs)
    col_first, col_second, col_label = (x.contiguous() for x in cols.pairs)
    # Triton launches on the current device, which need not be that of the tensors.
    with torch.cuda.device_of(inner):
        _search[(triton.cdiv(r, _BLOCK_ROWS),)](
            inner, inner.shape[1],
            row_first, row_second, row_label, row_terms.contiguous(), r, points[0],
            col_first, col_second, col_label, col_terms.contiguous(), c, points[1],
            index, value,
            kind=kind, block_rows=_BLOCK_ROWS, block_cols=_BLOCK_COLS, enable_fp_fusion=False,
        )  # fmt: skip
    return index, value


def nearest_arcs(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """``loopml::nearest_arcs`` for k = 1."""
    gram, rows, cols = unpacked(tensors)

    def search(rows: Side, cols: Side) -> tuple[Tensor, Tensor]:
        p, q = (arc_terms(own) for own in _own(gram, rows, cols))
        return _launch("arcs", gram.inner, rows, cols, p, q)

    return nearest_with_zeros(gram, rows, cols, search)


def nearest_segments(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """``loopml::nearest_segments`` for k = 1."""
    gram, rows, cols = unpacked(tensors)
    p, q = (segment_terms(own) for own in _own(gram, rows, cols))
    return _launch("segments", gram.inner, rows, cols, p, q)


def nearest_samples(*args: Any) -> tuple[Tensor, Tensor]:
    """``loopml::nearest_samples`` for k = 1."""
    *tensors, row_fractions, col_fractions, normalize, similarity, unit = args
    gram, rows, cols = unpacked(tensors)
    directions = on_sphere(normalize, similarity, unit)
    kind = "products" if similarity or directions else "distances"

    def search(rows: Side, cols: Side) -> tuple[Tensor, Tensor]:
        of_rows, of_cols = _own(gram, rows, cols)
        p = sample_terms(of_rows, row_fractions, normalize)
        q = sample_terms(of_cols, col_fractions, normalize)
        points = len(row_fractions), len(col_fractions)
        return _launch(kind, gram.inner, rows, cols, p, q, points)

    if not directions:
        return search(rows, cols)
    ends = 0.0 in row_fractions, 1.0 in row_fractions
    index, value = nearest_with_zeros(gram, rows, cols, search, ends)
    return index, sq_distance(value)


def _own(gram: Gram, rows: Side, cols: Side) -> tuple[Tensor, Tensor]:
    return own_products(rows, gram.row_square), own_products(cols, gram.col_square)
