"""The formulas of ``loopml.ops.scores`` for one pair of curves, rounded alike.

Each function stands for the one of its name there, which says why it is so. The search must choose
what pure torch chooses, ties and near-ties included, so each operation rounds as there:
``torch.addcmul`` rounds once and is :func:`fma` here, everything else rounds after each operation.
Numba computes what mixes a number of float32 with a literal in float64, hence :func:`number`.
Only torch's square root may be off by the last bit; that of the processor is not.
"""

import math

import numpy as np
from numba import njit
from numba.extending import intrinsic

from loopml.ops.scores import ArcTerms, SegmentTerms

# What numba is told of the functions that Python calls. Compiled code is kept on disk, and runs
# without the lock of the interpreter. Division by zero is infinity, as in torch.
ENTRY = {"error_model": "numpy", "cache": True, "nogil": True}
# And of those that only compiled code calls, which need no way in: half of the time of compiling.
INNER = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@intrinsic
def fma(typing_context, a, b, c):
    """``a * b + c``, rounded once."""
    return a(a, b, c), lambda context, builder, signature, args: builder.fma(*args)


@intrinsic
def number(typing_context, value, like):
    """A literal in the type of ``like``."""

    def generate(context, builder, signature, args):
        return context.cast(builder, args[0], value, like)

    return like(value, like), generate


def _of_type(value):
    """A compiled function that says what floating point numbers of a type have."""

    @intrinsic
    def function(typing_context, like):
        constant = float(value(np.finfo(str(like))))
        return like(like), lambda context, *_: context.get_constant(like, constant)

    return function


tiny = _of_type(lambda finfo: finfo.tiny)
# The share of the squares of two vectors under which the square of their sum is rounding.
rounding = _of_type(lambda finfo: 32 * finfo.eps)


def _choice(comparison):
    """A compiled function that says which of two numbers stands in this comparison, or is NaN."""

    @intrinsic
    def function(typing_context, a, b):
        def generate(context, builder, signature, args):
            first = builder.fcmp_ordered(comparison, *args)
            first = builder.or_(first, builder.fcmp_unordered("uno", args[0], args[0]))
            return builder.select(first, *args)

        return a(a, a), generate

    return function


maximum, minimum = _choice(">"), _choice("<")


@njit(**INNER)
def at_least_zero(x):
    """``x`` without its negatives."""
    return maximum(x, number(0, x))


@njit(**INNER)
def root(sq):
    """The number whose square, with its sign, is ``sq``."""
    return math.copysign(math.sqrt(abs(sq)), sq)


@njit(**INNER)
def inverse_length(sq_length, least):
    """``1 / sqrt(sq_length)``, and 0 where that is at most ``least``."""
    if sq_length > least:
        return number(1, sq_length) / math.sqrt(sq_length)
    return number(0, sq_length)


# --- Arcs ---------------------------------------------------------------------------------------


@njit(**INNER)
def arc_terms(sq0, inner, sq1):
    """The terms of the arc between two ends, from their products."""
    sq_sum = sq0 + sq1
    two, half = number(2, inner), number(0.5, inner)
    sq_middle, sq_along = sq_sum + two * inner, sq_sum - two * inner
    per_middle = inverse_length(sq_middle, rounding(inner))
    per_along = inverse_length(sq_along, rounding(inner))
    per_sin = two * per_middle * per_along
    cos_half, sin_half = per_middle * sq_middle * half, per_along * sq_along * half
    return ArcTerms(cos_half, sin_half, per_middle, per_along, per_sin, inner * per_sin)


@njit(**INNER)
def arc_to_point(first, second, per_sin, cot):
    """The largest product of a point on an arc with a given point, squared with its sign."""
    larger = maximum(first, second)
    towards = at_least_zero(fma(-larger, cot, minimum(first, second) * per_sin))
    return fma(towards, towards, abs(larger) * larger)


@njit(**INNER)
def arc_score(p0q0, p0q1, p1q0, p1q1, p, q):
    """The largest product of points on two arcs, squared with its sign."""
    edge = maximum(
        maximum(
            arc_to_point(p0q0, p1q0, p.per_sin, p.cot), arc_to_point(p0q0, p0q1, q.per_sin, q.cot)
        ),
        maximum(
            arc_to_point(p0q1, p1q1, p.per_sin, p.cot), arc_to_point(p1q0, p1q1, q.per_sin, q.cot)
        ),
    )
    x0, x1 = (p0q0 + p1q0) * p.per_middle, (p0q1 + p1q1) * p.per_middle
    y0, y1 = (p1q0 - p0q0) * p.per_along, (p1q1 - p0q1) * p.per_along
    xx, xy = (x0 + x1) * q.per_middle, (x1 - x0) * q.per_along
    yx, yy = (y0 + y1) * q.per_middle, (y1 - y0) * q.per_along
    ux = fma(-yy, yy, fma(-yx, yx, fma(xy, xy, xx * xx)))
    uy = fma(xy, yy, xx * yx) * number(2, xx)
    ux += math.sqrt(fma(uy, uy, ux * ux))
    vx, vy = fma(yx, uy, xx * ux), fma(yy, uy, xy * ux)
    off_p = fma(-ux, p.sin_half, abs(uy) * p.cos_half)
    off_q = fma(-vx, q.sin_half, abs(vy) * q.cos_half)
    if not maximum(off_p, off_q) < 0:
        return edge
    sq_u = fma(uy, uy, ux * ux)
    return maximum(edge, fma(vy, vy, vx * vx) / maximum(sq_u, tiny(sq_u)))


# --- Segments -----------------------------------------------------------------------------------


@njit(**INNER)
def segment_terms(sq0, inner, sq1):
    """The terms of the segment between two ends, from their products."""
    sq_length = at_least_zero(sq0 + sq1 - number(2, inner) * inner)
    noise = maximum(rounding(sq0) * maximum(sq0, sq1), tiny(sq0))
    if not sq_length > noise:
        return SegmentTerms(sq0, sq1, number(0, sq0), number(0, sq0))
    return SegmentTerms(sq0, sq1, sq_length, number(1, sq0) / sq_length)


@njit(**INNER)
def sq_to_segment(sq_to0, sq_to1, sq_length, per_sq_length):
    """Squared distance of a point to a segment, from its squared distances to both ends."""
    one = number(1, sq_to0)
    fraction = at_least_zero(((sq_to0 - sq_to1) * per_sq_length + one) * number(0.5, sq_to0))
    fraction = one if fraction > one else fraction
    rest = one - fraction
    return fma(-(fraction * rest), sq_length, fma(fraction, sq_to1, rest * sq_to0))


@njit(**INNER)
def segment_score(p0q0, p0q1, p1q0, p1q1, p, q):
    """Minus the squared distance of two segments."""
    two, quarter = number(2, p0q0), number(0.25, p0q0)
    sq00, sq01 = p.sq0 + q.sq0 - two * p0q0, p.sq0 + q.sq1 - two * p0q1
    sq10, sq11 = p.sq1 + q.sq0 - two * p1q0, p.sq1 + q.sq1 - two * p1q1
    edge = minimum(
        sq_to_segment(sq00, sq10, p.sq_length, p.per_sq_length),
        sq_to_segment(sq01, sq11, p.sq_length, p.per_sq_length),
    )
    edge = minimum(edge, sq_to_segment(sq00, sq01, q.sq_length, q.per_sq_length))
    edge = minimum(edge, sq_to_segment(sq10, sq11, q.sq_length, q.per_sq_length))
    uv = (sq01 + sq10 - sq00 - sq11) * number(0.5, p0q0)
    um = (sq10 + sq11 - sq00 - sq01) * quarter
    vm = (sq00 + sq10 - sq01 - sq11) * quarter
    sq_middles = (sq00 + sq01 + sq10 + sq11 - p.sq_length - q.sq_length) * quarter
    det = p.sq_length * q.sq_length - uv * uv
    x = (uv * vm - um * q.sq_length) / det
    y = (vm + x * uv) * q.per_sq_length
    if det > 0 and maximum(abs(x), abs(y)) < 0.5:
        edge = minimum(edge, sq_middles + x * um - y * vm)
    return -at_least_zero(edge)


# --- Samples ------------------------------------------------------------------------------------


@njit(**INNER)
def sample_terms(sq0, inner, sq1, fraction, normalize):
    """Both weights of the point at a fraction between two ends, and its square."""
    one, two = number(1, sq0), number(2, sq0)
    w0, w1 = one - fraction, fraction
    own = w0 * w0 * sq0 + w1 * w1 * sq1
    sq = own + two * w0 * w1 * inner
    if not (normalize and w0 > 0 and w1 > 0):
        return w0, w1, sq
    if sq <= maximum(rounding(sq) / two * own, tiny(sq)):
        return one, number(0, sq), sq0
    scale = one / math.sqrt(sq)
    return w0 * scale, w1 * scale, sq * scale * scale
