r"""The search for the nearest curve alone, which scores few pairs of curves and misses none.

A point y of the column curve from q0 to q1 is ``v0 q0 + v1 q1`` with weights of at least 0. So for
any point x

.. math:: \langle x, y \rangle \le (v_0 + v_1) \max_j \langle x, q_j \rangle,

and for y between the ends of a segment of length L, where the weights add up to 1,

.. math:: \min_j |x - q_j|^2 \le v_0 |x - q_0|^2 + v_1 |x - q_1|^2 = |x - y|^2 + v_0 v_1 L^2
          \le |x - y|^2 + L^2 / 4.

Either way a curve can be the nearest only if one of its *ends* comes nearly as close as the nearest
end. There are fewer ends than curves, and their nearness to a curve is simple: score them first,
and then only the curves of those within reach.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from loopml.ops.blocks import Curves, Score, joined, search_all
from loopml.ops.scores import listed_corners

# Numbers in a temporary of one block: 1 MiB of float32. Smaller blocks spend their time in calls,
# larger ones in memory (measured from 2^15 to 2^19 at 256 to 3072 curves).
_BLOCK = 1 << 18
# Up to this many pairs of curves, scoring all of them takes fewer calls.
_FEW = 1 << 13
# From this many pairs on, a sample of rows says first whether the bounds are of any use.
_MANY = 1 << 18
_SAMPLE = 32
# Scoring a pair of curves from a list takes so many times as long as from a grid.
_LIST = 7


class Bound(Protocol):
    """What bounds the scores of row curves with column curves by those with points.

    Attributes:
        least: (2, c) of each column; see :meth:`bar`.
    """

    least: Tensor

    def near(self, rows: Curves) -> Tensor:
        """The scores of b row curves with all n points of columns: (b, n)."""

    def slack(self, rows: Curves, best: Tensor) -> Tensor:
        """What rounding can make of a score with a point, where the best one is (b, 1): (b, 1)."""

    def bar(self, best: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
        """Two factors (b, 1) for the two ``least`` of a column.

        An end of the nearest column scores at least the sum of both products.
        """

    def limit(self, first: Tensor, second: Tensor, slack: Tensor, col: Tensor) -> Tensor:
        """The most that m pairs of a row and a column score.

        Args:
            first: (m,) score of the row with the first end of the column.
            second: (m,) score with its second end.
            slack: (m,) of the row.
            col: (m,) which column.
        """


def search_nearest(
    inner: Tensor, rows: Curves, cols: Curves, score: Score, bound: Bound
) -> tuple[Tensor, Tensor]:
    """The highest score of each row over the columns of another label.

    Returns:
        As :func:`search_all` with k = 1.
    """
    r, n = len(rows), inner.shape[1]
    if r * len(cols) <= _FEW:
        return search_all(inner, rows, cols, score, 1)
    ends = _Ends(rows, cols, bound.least, n)
    if r * len(cols) > _MANY:
        sample = slice(0, r, max(1, r // _SAMPLE))
        if ends.are_many(ends.within_reach(bound, rows.take(sample), sample)[0]):
            return search_all(inner, rows, cols, score, 1)
    found = []
    step = max(1, _BLOCK // n)
    for start in range(0, r, step):
        block = slice(start, start + step)
        part = rows.take(block)
        within, near, best, slack = ends.within_reach(bound, part, block)
        # What is not a number has no bounds.
        listed = bool(torch.isfinite(best + slack).all()) and not ends.are_many(within)
        row, point = within.nonzero(as_tuple=True) if listed else (ends.start[:0],) * 2
        if not listed or int(ends.degree[point].sum()) * _LIST > len(part) * len(cols):
            found.append(search_all(inner, part, cols, score, 1))
            continue
        row, col = ends.curves_of(row, point)
        # Between its ends a column scores at most what the same weights make of both their scores.
        first, second = (near[row, end[col]] for end in cols.pairs[:2])
        limit = bound.limit(first, second, slack[row, 0], col)
        (kept,) = (limit >= best[row, 0]).nonzero(as_tuple=True)
        row, col = row[kept], col[kept]
        p, q = part.take(row), cols.take(col)
        nearness = score(listed_corners(inner, p.pairs, q.pairs), p.terms, q.terms)
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

    def __init__(self, rows: Curves, cols: Curves, least: Tensor, n: int) -> None:
        point = torch.cat([cols.pairs.first, cols.pairs.second])
        self.curve = point.argsort() % len(cols)
        self.degree = torch.bincount(point, minlength=n)
        self.used = int(torch.count_nonzero(self.degree))
        self.start = self.degree.cumsum(0) - self.degree
        self.least = least.new_zeros(2, n).scatter_reduce_(
            1, point.expand(2, -1), least.repeat(1, 2), "amin", include_self=False
        )
        # Labels as their rank among all classes, of which no Gram matrix has more than floating
        # point counts; -1 for ends of no curve.
        labels = torch.cat([rows.pairs.label, cols.pairs.label])
        ranks = torch.unique(labels, return_inverse=True)[1].to(least.dtype)
        self.row_rank, col_rank = ranks[: len(rows)], ranks[len(rows) :]
        self.rank = least.new_full((n,), -1).index_copy_(0, point, col_rank.repeat(2))
        self.never = torch.finfo(least.dtype).max / 4
        self.unused = least.new_zeros(n).masked_fill_(self.degree == 0, -self.never)

    def best_of(self, near: Tensor, rank: Tensor) -> Tensor:
        """The best score of each row with an end of another label: (b, 1).

        Args:
            near: (b, n) scores of rows with points; those of other points are overwritten.
            rank: (b,) of the rows' labels.
        """
        # Arithmetic instead of a mask, which takes as long as ten of these: 1 where labels agree.
        same = (rank.unsqueeze(1) - self.rank).abs_().neg_().add_(1).clamp_(min=0)
        near.sub_(same, alpha=self.never).add_(self.unused)
        return near.amax(1, keepdim=True)

    def within_reach(
        self, bound: Bound, rows: Curves, block: slice
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Which ends the nearest curve of each row can have, by the row's scores with points.

        Args:
            bound: the bound.
            rows: b row curves.
            block: where among all rows they are.

        Returns:
            A mask (b, n), the scores (b, n), the best of each row (b, 1) and its slack (b, 1).
        """
        near = bound.near(rows)
        best = self.best_of(near, self.row_rank[block])
        slack = bound.slack(rows, best)
        of_first, of_second = bound.bar(best, slack)
        bar = torch.addcmul(of_first * self.least[0], of_second, self.least[1])
        # A row without a column of another label has a best end all the same.
        return near >= bar.clamp_(min=-self.never / 2), near, best, slack

    def are_many(self, within: Tensor) -> bool:
        """Whether so many ends are within reach that to list them is no use: a quarter of all."""
        return int(torch.count_nonzero(within)) * 4 > len(within) * self.used

    def curves_of(self, row: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
        """Each row with all curves that end in its point, as rows and columns."""
        degree = self.degree[point]
        before = degree.cumsum(0) - degree
        shift = (self.start[point] - before).repeat_interleave(degree)
        position = torch.arange(len(shift), device=shift.device) + shift
        return row.repeat_interleave(degree), self.curve[position]
