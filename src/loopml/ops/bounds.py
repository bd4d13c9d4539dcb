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

import torch
from torch import Tensor

from loopml.geometry.gram import listed_corners
from loopml.ops.blocks import BLOCK, Curves, Score, joined, search_all

# Up to this many pairs of curves, scoring all of them takes fewer calls.
_FEW = 1 << 13
# Scoring a pair of curves from a list takes so many times as long as from a grid.
_LIST = 7


def search_nearest(
    gram: Tensor,
    rows: Curves,
    cols: Curves,
    score: Score,
    to_points: Callable[[Tensor, Tensor, Tensor], Tensor],
    reach: Tensor,
) -> tuple[Tensor, Tensor]:
    """The highest score of each row over the columns of another label.

    Args:
        gram: (n, n).
        rows: r curves.
        cols: c curves.
        score: what is sought; a score is an inner product, or grows with it through 0.
        to_points: the score of row curves with points, from the points' products with both ends.
        reach: (c,) the least part of its score with any point that one end of a column curve has.

    Returns:
        As :func:`search_all` with k = 1.
    """
    r, n = len(rows), len(gram)
    if r * len(cols) <= _FEW:
        return search_all(gram, rows, cols, score, 1)
    ends = _Ends(rows, cols, reach, n)
    # What rounding can make of a product.
    slack = 32 * torch.finfo(gram.dtype).eps * gram.diagonal().amax()
    found = []
    step = max(1, BLOCK // n)
    for start in range(0, r, step):
        block = slice(start, start + step)
        part = rows.take(block)
        first, second = (gram.index_select(0, end) for end in part.pairs[:2])
        near = to_points(first, second, part.terms.unsqueeze(-1))
        row, point = ends.within_reach(near, ends.row_rank[block], slack)
        if int(ends.degree[point].sum()) * _LIST > len(part) * len(cols):
            found.append(search_all(gram, part, cols, score, 1))
            continue
        row, col = ends.curves_of(row, point)
        p, q = part.take(row), cols.take(col)
        nearness = score(listed_corners(gram, p.pairs, q.pairs), p.terms, q.terms)
        best = nearness.new_full((len(part),), -torch.inf).scatter_reduce_(0, row, nearness, "amax")
        col = torch.where(nearness == best[row], col, len(cols))
        lowest = col.new_full((len(part),), len(cols)).scatter_reduce_(0, row, col, "amin")
        lowest.masked_fill_(lowest == len(cols), -1)
        found.append((lowest.unsqueeze(1), best.unsqueeze(1)))
    return joined(found)


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
        self.unused = torch.where(self.degree == 0, -self.never, 0)

    def within_reach(self, near: Tensor, rank: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
        """The ends that a curve which is the nearest of its row can have.

        Args:
            near: (b, n) scores of rows with points; overwritten.
            rank: (b,) of the rows' labels.
            slack: error of a score.

        Returns:
            Rows and points.
        """
        # Arithmetic instead of a mask: 1 where the labels agree, else 0.
        same = (rank.unsqueeze(1) - self.rank).abs_().neg_().add_(1).clamp_(min=0)
        near.sub_(same, alpha=self.never).add_(self.unused)
        best = near.amax(1, keepdim=True).clamp_(min=-self.never / 2)
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
