r"""The search for the nearest curve alone, which scores few pairs of curves and misses none.

A point y of the column curve from q0 to q1 is ``v0 q0 + v1 q1`` with weights of at least 0. So for
any point x

.. math:: \langle x, y \rangle \le (v_0 + v_1) \max_j \langle x, q_j \rangle

where that is positive, and :math:`\le \max_j \langle x, q_j \rangle` elsewhere, since the sum of
weights is at least 1. A curve can be the nearest only if one of its *ends* comes within that factor
of the nearest end. There are fewer ends than curves, and their nearness to a curve is simple: score
them first, and then only the curves of those within reach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from loopml.geometry.gram import listed_corners
from loopml.ops.blocks import Curves, Score, joined, search_all

# Numbers in a temporary of one block: 1 MiB of float32. Smaller blocks spend their time in calls,
# larger ones in memory (measured from 2^15 to 2^19 at 256 to 3072 curves).
_BLOCK = 1 << 18
# Up to this many pairs of curves, scoring all of them takes fewer calls.
_FEW = 1 << 13
# Scoring a pair of curves from a list takes so many times as long as from a grid.
_LIST = 7


@dataclass(frozen=True)
class Bound:
    """What bounds the score of two curves by those of curves and points.

    A score is an inner product, or grows with it through 0.
    """

    # The score of curves with points, from the products of both ends with the points, and terms.
    to_points: Callable[[Tensor, Tensor, Tensor], Tensor]
    # From terms, the least part of the score of a curve with any point that one of its ends has.
    reach: Callable[[Tensor], Tensor]
    # The inner product that a score stands for.
    product: Callable[[Tensor], Tensor]


def search_nearest(
    gram: Tensor, rows: Curves, cols: Curves, score: Score, bound: Bound
) -> tuple[Tensor, Tensor]:
    """The highest score of each row over the columns of another label.

    Returns:
        As :func:`search_all` with k = 1.
    """
    r, n = len(rows), len(gram)
    if r * len(cols) <= _FEW:
        return search_all(gram, rows, cols, score, 1)
    ends = _Ends(rows, cols, bound.reach(cols.terms), n)
    # What rounding can make of a product.
    slack = 32 * torch.finfo(gram.dtype).eps * gram.diagonal().amax()
    found = []
    step = max(1, _BLOCK // n)
    for start in range(0, r, step):
        block = slice(start, start + step)
        part = rows.take(block)
        first, second = (gram.index_select(0, end) for end in part.pairs[:2])
        near = bound.to_points(first, second, part.terms.unsqueeze(-1))
        best = ends.best_of(near, ends.row_rank[block])
        row, point = ends.within_reach(near, best, slack)
        if int(ends.degree[point].sum()) * _LIST > len(part) * len(cols):
            found.append(search_all(gram, part, cols, score, 1))
            continue
        row, col = ends.curves_of(row, point)
        # Between its ends a column scores at most what the same weights make of both their scores.
        curve = cols.take(col)
        first, second = (bound.product(near[row, end]) for end in curve.pairs[:2])
        limit = bound.to_points(first, second, curve.terms)
        (kept,) = (limit >= best[row, 0] - slack).nonzero(as_tuple=True)
        row, col = row[kept], col[kept]
        p, q = part.take(row), cols.take(col)
        nearness = score(listed_corners(gram, p.pairs, q.pairs), p.terms, q.terms)
        found.append(_best_of_list(nearness, row, col, len(part), len(cols)))
    return joined(found)


def _best_of_list(
    nearness: Tensor, row: Tensor, col: Tensor, r: int, c: int
) -> tuple[Tensor, Tensor]:
    """The highest of the scores that each of r rows has, and the lowest column that has it."""
    best = nearness.new_full((r,), -torch.inf).scatter_reduce_(0, row, nearness, "amax")
    col = torch.where(nearness == best[row], col, c)
    lowest = col.new_full((r,), c).scatter_reduce_(0, row, col, "amin")
    return lowest.masked_fill_(lowest == c, -1).unsqueeze(1), best.unsqueeze(1)


class _Ends:
    """The points that are ends of column curves, and the curves that they are ends of."""

    def __init__(self, rows: Curves, cols: Curves, reach: Tensor, n: int) -> None:
        point = torch.cat([cols.pairs.first, cols.pairs.second])
        self.curve = point.argsort() % len(cols)
        self.degree = torch.bincount(point, minlength=n)
        self.start = self.degree.cumsum(0) - self.degree
        self.reach = reach.new_ones(n).scatter_reduce_(0, point, reach.repeat(2), "amin")
        # Labels as small numbers, which floating point holds exactly; -1 for ends of no curve.
        labels = torch.cat([rows.pairs.label, cols.pairs.label])
        ranks = torch.searchsorted(labels.sort().values, labels).to(reach.dtype)
        self.row_rank, col_rank = ranks[: len(rows)], ranks[len(rows) :]
        self.rank = reach.new_full((n,), -1).index_copy_(0, point, col_rank.repeat(2))
        self.never = torch.finfo(reach.dtype).max / 4
        self.unused = reach.new_zeros(n).masked_fill_(self.degree == 0, -self.never)

    def best_of(self, near: Tensor, rank: Tensor) -> Tensor:
        """The best score of each row with an end of another label.

        Args:
            near: (b, n) scores of rows with points; those of other points are overwritten.
            rank: (b,) of the rows' labels.
        """
        # Arithmetic instead of a mask, which takes as long as ten of these: 1 where labels agree.
        same = (rank.unsqueeze(1) - self.rank).abs_().neg_().add_(1).clamp_(min=0)
        near.sub_(same, alpha=self.never).add_(self.unused)
        return near.amax(1, keepdim=True).clamp_(min=-self.never / 2)

    def within_reach(self, near: Tensor, best: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
        """The ends that the nearest curve of each row can have, as rows and points."""
        bar = torch.addcmul(best.clamp(max=0) - slack, best.clamp(min=0), self.reach)
        row, point = (near >= bar).nonzero(as_tuple=True)
        return row, point

    def curves_of(self, row: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
        """Each row with all curves that end in its point, as rows and columns."""
        degree = self.degree[point]
        before = degree.cumsum(0) - degree
        shift = (self.start[point] - before).repeat_interleave(degree)
        position = torch.arange(len(shift), device=shift.device) + shift
        return row.repeat_interleave(degree), self.curve[position]
