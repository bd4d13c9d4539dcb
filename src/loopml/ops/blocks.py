"""The search that scores every row curve against every column curve, block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from loopml._types import Pairs
from loopml.ops.scores import grid_corners
from loopml.selection import largest

# Numbers in a temporary of one block: 128 KiB of float32. A score has two dozen temporaries.
_BLOCK = 1 << 15

# Scores of pairs of curves from their corners and the terms of both, as in ``ops.scores``.
Score = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Curves:
    """Curves with what is known of each alone."""

    pairs: Pairs
    own: Tensor  # (3, p) products of their ends with themselves
    terms: Tensor  # (t, ..., p)

    def take(self, index: Tensor | slice) -> Curves:
        """The curves at ``index``."""
        if isinstance(index, slice):
            return Curves(self.pairs.take(index), self.own[:, index], self.terms[..., index])
        own, terms = (x.index_select(-1, index) for x in (self.own, self.terms))
        return Curves(self.pairs.take(index), own, terms)

    def __len__(self) -> int:
        return len(self.pairs.first)


def search_all(
    inner: Tensor, rows: Curves, cols: Curves, score: Score, k: int
) -> tuple[Tensor, Tensor]:
    """The ``k`` highest scores of each row over the columns of another label.

    Args:
        inner: (a, b) products of the points of row curves with those of column curves.
        rows: r row curves.
        cols: c column curves.
        score: of pairs of curves.
        k: how many.

    Returns:
        Columns and scores, (r, k); ties go to the lowest column, and NaN is no score. Where there
        are fewer than k, column -1 with score -inf.
    """
    per_pair = rows.terms[0, ..., :1].numel() * cols.terms[0, ..., :1].numel()
    step = max(1, _BLOCK // max(1, len(cols) * per_pair))
    q = cols.terms.unsqueeze(-2)
    found = []
    for start in range(0, max(1, len(rows)), step):
        part = rows if step >= len(rows) else rows.take(slice(start, start + step))
        corner = grid_corners(inner, part.pairs, cols.pairs)
        allowed = part.pairs.label.unsqueeze(1) != cols.pairs.label
        found.append(largest(score(corner, part.terms.unsqueeze(-1), q), allowed, k))
    return found[0] if len(found) == 1 else joined(found)


def joined(found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The results of consecutive blocks as one."""
    index, value = zip(*found, strict=True)
    return torch.cat(index), torch.cat(value)


def rows_with_columns(rows: Pairs, cols: Pairs) -> Tensor | None:
    """Which rows have a column of another label, (r,), or None where all may have.

    Rows without one, as in a batch of a single class, need no scores. To know them takes a look at
    the values, which would wait for a GPU.
    """
    if cols.label.device.type != "cpu" or len(cols.label) == 0:
        return None
    least, most = cols.label.aminmax()
    has = rows.label != least
    return None if bool(least != most) or bool(has.all()) else has


def filled_up(found: tuple[Tensor, Tensor], has: Tensor, missing: float) -> tuple[Tensor, Tensor]:
    """What was found for the rows in ``has``, with -1 and ``missing`` for the others."""
    index, value = found
    shape = len(has), index.shape[1]
    indices, values = index.new_full(shape, -1), value.new_full(shape, missing)
    indices[has], values[has] = index, value
    return indices, values
