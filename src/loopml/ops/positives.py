"""The farthest positive of each row."""

from __future__ import annotations

import torch
from torch import Tensor

from loopml._types import Gram
from loopml.compiled import kernels_for
from loopml.ops.eager import chosen
from loopml.pairing import every_two
from loopml.selection import largest

# Up to this many rows a matrix of all pairs takes less time than a list of the positive ones. It is
# always a matrix on a GPU, which would be waited for until the labels are read.
_FEW = 256


@torch.no_grad()
def farthest_positives(gram: Gram, labels: Tensor) -> Tensor:
    """The farthest other row of its label that each row has, in Euclidean distance.

    Args:
        gram: of the rows with themselves, (n, n).
        labels: (n,).

    Returns:
        (n,) rows, -1 where there is none; the lowest of equally far ones.
    """
    op = chosen(_farthest_positives, gram.inner)
    found: Tensor = op(gram.inner, gram.col_square, labels)
    return found


@torch.no_grad()
def farthest_allowed(gram: Gram, allowed: Tensor) -> Tensor:
    """The farthest column that each row may have, in Euclidean distance.

    Args:
        gram: of the rows with the columns, (n, m).
        allowed: (n, m).

    Returns:
        (n,) columns, -1 where none is allowed; the lowest of equally far ones.
    """
    return largest(_farness(gram.inner, gram.col_square), allowed, 1)[0].squeeze(1)


def _farness(products: Tensor, squares: Tensor) -> Tensor:
    """Squared distances, but for the squares of the rows, which are the same for all columns."""
    return squares - 2 * products


@torch.library.custom_op(
    "loopml::farthest_positives",
    mutates_args=(),
    schema="(Tensor inner, Tensor square, Tensor labels) -> Tensor",
)
def _farthest_positives(inner: Tensor, square: Tensor, labels: Tensor) -> Tensor:
    fast = kernels_for(inner)
    if fast is not None:
        farthest: Tensor = fast.farthest_positives(inner, square, labels)
        return farthest
    n = len(labels)
    if n <= _FEW or labels.device.type != "cpu":
        positive = (labels.unsqueeze(1) == labels).fill_diagonal_(False)
        return farthest_allowed(Gram(inner, square, square), positive)
    first, second = every_two(labels)
    row, col = torch.cat([first, second]), torch.cat([second, first])
    farness = _farness(inner[row, col], square[col])
    most = farness.new_full((n,), -torch.inf).scatter_reduce(0, row, farness, "amax")
    col = torch.where(farness == most[row], col, n)
    lowest = col.new_full((n,), n).scatter_reduce(0, row, col, "amin")
    return torch.where(lowest < n, lowest, -1)


@_farthest_positives.register_fake
def _(inner: Tensor, square: Tensor, labels: Tensor) -> Tensor:
    return labels.new_empty(labels.shape, dtype=torch.int64)
