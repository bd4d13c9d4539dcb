"""Zero rows among unit vectors, which the embedding of a dead network is full of.

A zero row is at distance 1 from every unit vector and 0 from another zero row: by distance it ranks
as an inner product of 1/2, or of 1, whatever its direction would be. Normalised, all points between
it and another row are that row, so a curve with a zero row for an end is its two ends. Hence a
search looks at such a curve as its other end alone, and then compares what it found with the zero
rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from loopml._types import Pairs
from loopml.ops.blocks import Curves, Score

# Finds columns (r, k) and minus the inner products with them, for rows and columns.
Search = Callable[[Pairs, Pairs], tuple[Tensor, Tensor]]


def on_sphere(normalize: bool, similarity: bool, unit: bool) -> bool:
    """Whether sampled points are unit vectors, or zero, that are compared by distance."""
    return unit and normalize and not similarity


def sq_distance(value: Tensor) -> Tensor:
    """The squared distance of unit vectors from minus their inner product."""
    return (2 + 2 * value).clamp(min=0)


def zero_rows(gram: Tensor) -> Tensor | None:
    """Which rows are zero (n,), or None where a look at the values shows that none is."""
    zero = gram.diagonal() == 0
    # A look would wait for a GPU.
    return None if zero.device.type == "cpu" and not bool(zero.any()) else zero


def without_zero_ends(
    pairs: Pairs, zero: Tensor, ends: tuple[bool, bool] = (True, True)
) -> tuple[Pairs, Tensor]:
    """The pairs with their other end in place of a zero one, and which of them had such: (p,).

    ``ends`` says whether the first and the second end are looked at: samples may lie between alone.
    """
    at_first, at_second = zero[pairs.first], zero[pairs.second]
    first = torch.where(at_first, pairs.second, pairs.first)
    second = torch.where(at_second, pairs.first, pairs.second)
    return Pairs(first, second, pairs.label), (at_first & ends[0]) | (at_second & ends[1])


def nearest_with_zeros(
    gram: Tensor,
    rows: Pairs,
    cols: Pairs,
    search: Search,
    row_ends: tuple[bool, bool] = (True, True),
) -> tuple[Tensor, Tensor]:
    """The nearest column of each row, (r, 1), from a search for the largest inner product.

    ``row_ends`` says whether the first and the second end of a row are looked at.
    """
    zero = zero_rows(gram)
    if zero is None or len(cols.first) == 0:
        return search(rows, cols)
    rows, row_zero = without_zero_ends(rows, zero, row_ends)
    cols, col_zero = without_zero_ends(cols, zero)
    return compared_with_zeros(*search(rows, cols), rows, cols, row_zero, col_zero)


def compared_with_zeros(
    index: Tensor, value: Tensor, rows: Pairs, cols: Pairs, row_zero: Tensor, col_zero: Tensor
) -> tuple[Tensor, Tensor]:
    """The nearest columns (r, 1) that a search found, compared with zero rows.

    Args:
        index: (r, 1) columns.
        value: (r, 1) minus the inner products with them.
        rows: curves :func:`without_zero_ends`.
        cols: the same for the columns.
        row_zero: (r,) which rows had such ends.
        col_zero: (c,) which columns had.
    """
    any_col = _first_of_another_label(torch.ones_like(col_zero), rows, cols)
    zero_col = _first_of_another_label(col_zero, rows, cols)
    # Minus the inner product that a distance of 1 ranks as; twice that is a distance of 0.
    for col, product in (
        (torch.where(row_zero, any_col, -1), 0.5),
        (zero_col, 0.5 + 0.5 * row_zero.to(value.dtype)),
    ):
        own = torch.where(col >= 0, -product, torch.inf).to(value.dtype).unsqueeze(1)
        col = col.unsqueeze(1)
        better = (own < value) | ((own == value) & (col < index) & (col >= 0))
        index, value = torch.where(better, col, index), torch.where(better, own, value)
    return index, value


def _first_of_another_label(mask: Tensor, rows: Pairs, cols: Pairs) -> Tensor:
    """For each row the first column in ``mask`` of another label, -1 where there is none: (r,)."""
    c = len(mask)
    position = torch.arange(c, device=mask.device)
    first = torch.where(mask, position, c).amin()
    label = cols.label[first.clamp(max=c - 1)]
    # Rows of that very label have the first one of any other.
    other = torch.where(mask & (cols.label != label), position, c).amin()
    found = torch.where(rows.label != label, first, other)
    return torch.where(found < c, found, -1)


def with_zeros(curves: Curves, had_zero: Tensor) -> Curves:
    """Curves whose last term says whether they had a zero end."""
    flag = had_zero.to(curves.terms.dtype).expand_as(curves.terms[:1])
    return Curves(curves.pairs, torch.cat([curves.terms, flag]))


def scored_with_zeros(score: Score, of_product: Callable[[Tensor], Tensor]) -> Score:
    """The score of curves :func:`with_zeros`, where ``of_product`` scores an inner product."""

    def nearness(corner: Tensor, p_terms: Tensor, q_terms: Tensor) -> Tensor:
        found = score(corner, p_terms[:-1], q_terms[:-1])
        p_zero, q_zero = (x[(-1, *[0] * (x.dim() - 3))] for x in (p_terms, q_terms))
        zeros = p_zero + q_zero
        return torch.where(zeros > 0, torch.maximum(found, of_product(zeros / 2)), found)

    return nearness
