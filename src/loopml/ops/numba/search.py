"""The search, compiled: for each row curve the k nearest column curves of another label.

A row first scores all points that are ends of columns. Then it scores the columns that may be among
the nearest by the bounds of ``loopml.ops.bounds`` and ``loopml.ops.reach``, which say why none is
missed. Where few points are within reach, their columns are looked up, and else the bounds of all
columns are computed. What is not a number has no bound: a column is left out only where its bound
is *less* than what is to be beaten.

One function finds all kinds of curve, since three would take three times as long to compile.
"""

import numpy as np
from numba import njit

from loopml.ops.numba.labels import chains, ranks_of
from loopml.ops.numba.scores import (
    ENTRY,
    INNER,
    arc_score,
    arc_terms,
    arc_to_point,
    at_least_zero,
    fma,
    maximum,
    minimum,
    number,
    root,
    rounding,
    sample_terms,
    segment_score,
    segment_terms,
    sq_to_segment,
)
from loopml.ops.scores import ArcTerms, SegmentTerms

# The kinds of curve: the last two are samples, compared by inner product and by distance.
ARCS, SEGMENTS, PRODUCTS, DISTANCES = range(4)


@njit(**INNER)
def terms_of(kind, square, first, second, inner, fractions, normalize):
    """The terms of p curves: (t, p).

    Those of samples are the first weights (k, p), the second weights (k, p) and the squares (k, p)
    of their points, and two more rows for their bounds: by products the most and the least that
    weights add up to, by distances the squared length and its inverse.
    """
    p, k = len(first), len(fractions)
    terms = np.empty((6 if kind == ARCS else 4 if kind == SEGMENTS else 3 * k + 2, p), inner.dtype)
    for i in range(p):
        sq0, sq1 = square[first[i]], square[second[i]]
        if kind == ARCS:
            arc = arc_terms(sq0, inner[i], sq1)
            for t in range(6):
                terms[t, i] = arc[t]
            continue
        segment = segment_terms(sq0, inner[i], sq1)
        if kind == SEGMENTS:
            for t in range(4):
                terms[t, i] = segment[t]
            continue
        most = least = number(1, sq0)
        for s in range(k):
            w0, w1, sq = sample_terms(sq0, inner[i], sq1, fractions[s], normalize)
            terms[s, i], terms[k + s, i], terms[2 * k + s, i] = w0, w1, sq
            most, least = maximum(most, w0 + w1), minimum(least, w0 + w1)
        if kind == PRODUCTS:
            terms[3 * k, i], terms[3 * k + 1, i] = most, least
        else:
            terms[3 * k, i], terms[3 * k + 1, i] = segment.sq_length, segment.per_sq_length
    return terms


@njit(**INNER)
def arc_of(terms, i):
    """The terms of one arc."""
    return ArcTerms(terms[0, i], terms[1, i], terms[2, i], terms[3, i], terms[4, i], terms[5, i])


@njit(**INNER)
def segment_of(terms, i):
    """The terms of one segment."""
    return SegmentTerms(terms[0, i], terms[1, i], terms[2, i], terms[3, i])


@njit(**INNER)
def sample_score(kind, p0q0, p0q1, p1q0, p1q1, p_terms, i, q_terms, j):
    """The highest score of a point of one pair with a point of the other."""
    p_points, q_points = (len(p_terms) - 2) // 3, (len(q_terms) - 2) // 3
    best = number(-np.inf, p0q0)
    for s in range(p_points):
        w0, w1 = p_terms[s, i], p_terms[p_points + s, i]
        at0, at1 = w0 * p0q0 + w1 * p1q0, w0 * p0q1 + w1 * p1q1
        for t in range(q_points):
            score = at0 * q_terms[t, j] + at1 * q_terms[q_points + t, j]
            if kind == DISTANCES:
                squares = p_terms[2 * p_points + s, i], q_terms[2 * q_points + t, j]
                score = -at_least_zero(-(number(2, score) * score - squares[0] - squares[1]))
            best = maximum(best, score)
    return best


@njit(**INNER)
def score_of(kind, to0, to1, q0, q1, p_terms, i, q_terms, j):
    """How near a row curve and a column curve come.

    Args:
        kind: of curves.
        to0: the products of the row's first end with all points.
        to1: those of its second end.
        q0: the first end of the column.
        q1: its second end.
        p_terms: of the rows.
        i: which row.
        q_terms: of the columns.
        j: which column.
    """
    p0q0, p0q1, p1q0, p1q1 = to0[q0], to0[q1], to1[q0], to1[q1]
    if kind == ARCS:
        return arc_score(p0q0, p0q1, p1q0, p1q1, arc_of(p_terms, i), arc_of(q_terms, j))
    if kind == SEGMENTS:
        p, q = segment_of(p_terms, i), segment_of(q_terms, j)
        return segment_score(p0q0, p0q1, p1q0, p1q1, p, q)
    return sample_score(kind, p0q0, p0q1, p1q0, p1q1, p_terms, i, q_terms, j)


# --- Bounds -------------------------------------------------------------------------------------


@njit(**INNER)
def near_points(kind, to0, to1, square, terms, i, near):
    """The scores of a row curve with all points, into ``near``."""
    if kind == ARCS:
        per_sin, cot = terms[4, i], terms[5, i]
        for q in range(len(near)):
            near[q] = arc_to_point(to0[q], to1[q], per_sin, cot)
    elif kind == SEGMENTS:
        sq0, sq1, sq_length, per_sq_length = terms[0, i], terms[1, i], terms[2, i], terms[3, i]
        two = number(2, sq0)
        for q in range(len(near)):
            sq_to0, sq_to1 = sq0 + square[q] - two * to0[q], sq1 + square[q] - two * to1[q]
            sq_to = sq_to_segment(sq_to0, sq_to1, sq_length, per_sq_length)
            # A segment too short to have a length is its two ends.
            near[q] = -minimum(sq_to, minimum(sq_to0, sq_to1))
    else:
        points = (len(terms) - 2) // 3
        for s in range(points):
            w0, w1, sq = terms[s, i], terms[points + s, i], terms[2 * points + s, i]
            for q in range(len(near)):
                score = fma(to1[q], w1, to0[q] * w0)
                if kind == DISTANCES:
                    score = number(2, score) * score - sq
                near[q] = maximum(near[q], score) if s else score
        if kind == DISTANCES:
            for q in range(len(near)):
                near[q] = -at_least_zero(-(near[q] - square[q]))


@njit(**INNER)
def noise_of(kind, terms, j):
    """How many roundings of a product with an end are in one with a point of a curve."""
    if kind == ARCS:
        return maximum(terms[2, j], number(1, terms[2, j]))
    return terms[-2, j]


@njit(**INNER)
def limit_of(kind, first, second, slack, terms, j):
    """The most that a column scores with a row, from the row's scores with its ends."""
    if kind == ARCS:
        limit = arc_to_point(root(first), root(second), terms[4, j], terms[5, j])
        return fma(slack, noise_of(kind, terms, j), limit)
    if kind == PRODUCTS:
        points = (len(terms) - 2) // 3
        limit = first * terms[0, j] + second * terms[points, j]
        for s in range(1, points):
            limit = maximum(limit, first * terms[s, j] + second * terms[points + s, j])
        return fma(slack, noise_of(kind, terms, j), limit)
    sq_length, per_sq_length = terms[-2, j], terms[-1, j]
    nearest = -sq_to_segment(-first, -second, sq_length, per_sq_length)
    # A segment too short to have a length is its two ends.
    nearest = maximum(nearest, maximum(first, second))
    return fma(rounding(slack), sq_length, slack + nearest)


@njit(**INNER)
def least_of(kind, first, second, terms, n):
    """Two factors for each point (2, n) of the least that an end of the nearest column scores."""
    least = np.full((2, n), np.inf, terms.dtype)
    for j in range(len(first)):
        one = number(1, terms[0, j])
        if kind == ARCS:
            share = terms[0, j] * terms[0, j] if terms[2, j] > 0 else one
            spread = noise_of(kind, terms, j)
        elif kind == PRODUCTS:
            share, spread = one / terms[-2, j], maximum(one / terms[-1, j], terms[-2, j])
        else:
            share, spread = one, (number(0.25, one) + rounding(one)) * terms[-2, j]
        for x in (first[j], second[j]):
            least[0, x] = minimum(least[0, x], share)
            least[1, x] = minimum(least[1, x], -spread)
    return least


# --- The k best ---------------------------------------------------------------------------------


@njit(**INNER)
def is_worse(value, index, other, other_index):
    """Whether a column comes after another: of equal ones, the one with the higher index."""
    return value < other or (value == other and index > other_index)


@njit(**INNER)
def replace_worst(value, index, k, new, new_index):
    """Put a column into a heap of k whose first is the worst, in place of that."""
    at = 0
    while True:
        child = 2 * at + 1
        if child + 1 < k and is_worse(
            value[child + 1], index[child + 1], value[child], index[child]
        ):
            child += 1
        if child >= k or not is_worse(value[child], index[child], new, new_index):
            break
        value[at], index[at] = value[child], index[child]
        at = child
    value[at], index[at] = new, new_index


# --- The search ---------------------------------------------------------------------------------


@njit(**INNER)
def joined(first, second):
    """Two arrays as one."""
    both = np.empty(len(first) + len(second), np.int64)
    for i in range(len(first)):
        both[i] = first[i]
    for i in range(len(second)):
        both[len(first) + i] = second[i]
    return both


@njit(**ENTRY)
def search(
    kind, bounded, with_zeros, normalize, gram, row_square, col_square,
    row_first, row_second, row_label, row_inner, row_zero, row_fractions,
    col_first, col_second, col_label, col_inner, col_zero, col_fractions,
    value, index,
):  # fmt: skip
    """The k nearest columns of another label of each row, nearest first.

    Args:
        kind: of curves.
        bounded: whether there are bounds for it.
        with_zeros: whether curves are scored by whether they had a zero end, as in
            ``loopml.ops.zeros.scored_with_zeros``.
        normalize: whether samples between the ends are divided by their length.
        gram: (m, n) products of the points of rows with those of columns.
        row_square: (m,) squares of the points of rows.
        col_square: (n,) squares of the points of columns.
        row_first: (r,) first ends of the rows, r at least 1.
        row_second: (r,) second ends.
        row_label: (r,) labels.
        row_inner: (r,) products of both ends.
        row_zero: (r,) whether a row had a zero end.
        row_fractions: where on each row its samples lie.
        col_first: (c,) the same for the columns, c at least 1.
        col_second: (c,)
        col_label: (c,)
        col_inner: (c,)
        col_zero: (c,)
        col_fractions: the same for the columns.
        value: (r, k) for the values, as of ``loopml.ops``; infinity where there is none.
        index: (r, k) for the columns; -1 where there is none.
    """
    r, c, n, k = len(row_first), len(col_first), len(col_square), value.shape[1]
    by_product = kind in (ARCS, PRODUCTS)
    zero = number(0, row_square[0])
    lowest = number(-np.inf, zero)
    p = terms_of(kind, row_square, row_first, row_second, row_inner, row_fractions, normalize)
    q = terms_of(kind, col_square, col_first, col_second, col_inner, col_fractions, normalize)
    size = zero
    for i in range(len(row_square)):
        size = maximum(size, row_square[i])
    for i in range(n):
        size = maximum(size, col_square[i])
    label, labels = ranks_of(joined(row_label, col_label))
    ends = joined(col_first, col_second)
    curve, next_curve = chains(ends, n)
    # The points of each label. One that belongs to several is in no list, and one that is an end of
    # no column is in the last.
    of_several, of_none = labels, labels + 1
    point_label, used = np.full(n, of_none), 0
    for e in range(2 * c):
        own, known = label[r + e % c], point_label[ends[e]]
        used += known == of_none
        point_label[ends[e]] = own if known in (of_none, own) else of_several
    point, next_point = chains(point_label, labels + 2)
    least = least_of(kind, col_first, col_second, q, n)
    near = np.empty(n, gram.dtype)
    reached = np.empty(n, np.int64)
    # One more than there are, since what does not count is written all the same.
    listed, limits = np.empty(c + 1, np.int64), np.empty(c + 1, gram.dtype)
    for i in range(r):
        to0, to1, best, heap = gram[row_first[i]], gram[row_second[i]], value[i], index[i]
        for t in range(k):
            best[t], heap[t] = lowest, -1
        slack, seed = zero, -1
        if bounded:
            near_points(kind, to0, to1, col_square, p, i, near)
            for hidden in (label[i], of_none):
                x = point[hidden]
                while x >= 0:
                    near[x], x = lowest, next_point[x]
            nearest = lowest
            for x in range(n):
                if near[x] > nearest:
                    nearest, seed = near[x], x
            if by_product:
                slack = rounding(size) * size * noise_of(kind, p, i)
            else:
                slack = rounding(size) * (size + p[-2, i] - nearest)
        # First the columns of the nearest end, which say what is to be beaten or met; then the
        # others that are within reach.
        for first_step in (True, False):
            count, floor = 0, best[0]
            if first_step:
                e = curve[seed] if seed >= 0 else -1
                while e >= 0:
                    listed[count], limits[count] = e % c, np.inf
                    count += e < c or col_first[e - c] != seed
                    e = next_curve[e]
            elif not bounded:
                for j in range(c):
                    listed[j], limits[j] = j, np.inf
                count = c
            else:
                if by_product:
                    of_share, of_spread = maximum(floor, zero), slack - minimum(floor, zero)
                else:
                    of_share, of_spread = floor - slack, number(1, zero)
                within = 0
                for x in range(n):
                    bar = of_share * least[0, x] + of_spread * least[1, x]
                    reached[within] = x
                    within += not near[x] < bar
                if within * 4 > used:
                    for j in range(c):
                        of_first, of_second = near[col_first[j]], near[col_second[j]]
                        limits[j] = limit_of(kind, of_first, of_second, slack, q, j)
                    for j in range(c):
                        listed[count], limits[count] = j, limits[j]
                        count += not limits[j] < floor
                    within = 0
                for t in range(within):
                    x = reached[t]
                    e = curve[x]
                    while e >= 0:
                        j = e % c
                        of_first, of_second = near[col_first[j]], near[col_second[j]]
                        # Each column once: at the nearer one of its ends.
                        if (of_second > of_first) == (e >= c):
                            limit = limit_of(kind, of_first, of_second, slack, q, j)
                            listed[count], limits[count] = j, limit
                            count += not limit < floor
                        e = next_curve[e]
            for t in range(count):
                j = listed[t]
                again = not first_step and (col_first[j] == seed or col_second[j] == seed)
                if again or limits[t] < best[0] or label[i] == label[r + j]:
                    continue
                score = score_of(kind, to0, to1, col_first[j], col_second[j], p, i, q, j)
                if with_zeros and (row_zero[i] or col_zero[j]):
                    product = number(1 if row_zero[i] and col_zero[j] else 0.5, zero)
                    score = maximum(score, product * product if kind == ARCS else product)
                # Minus infinity is no score, and neither is NaN.
                if score > lowest and is_worse(best[0], heap[0], score, j):
                    replace_worst(best, heap, k, score, j)
        for last in range(k - 1, 0, -1):
            worst, worst_index = best[0], heap[0]
            replace_worst(best, heap, last, best[last], heap[last])
            best[last], heap[last] = worst, worst_index
        for t in range(k):
            best[t] = -root(best[t]) if kind == ARCS else -best[t]
