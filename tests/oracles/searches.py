"""The arguments of a search for curves among one set of points, from their Gram matrix."""

from collections.abc import Callable

import torch
from torch import Tensor

from loopml._types import Gram, Pairs, Side
from loopml.ops import scores

# How n rows are in classes.
LAYOUTS: dict[str, Callable[[int], Tensor]] = {
    "pairs": lambda n: torch.arange(n) // 2,
    "fours": lambda n: torch.arange(n) // 4,
    "uneven": lambda n: (torch.arange(n) ** 0.5).long() - 3,
    "shuffled": lambda n: torch.randperm(n) % 7,
    "lone": torch.arange,
    "two": lambda n: (torch.arange(n) >= n // 2).long() * 2**40,
}


def gram_of(inner: Tensor) -> Gram:
    """The products (n, n) of points with themselves."""
    square = inner.diagonal()
    return Gram(inner, square, square)


def side(inner: Tensor, pairs: Pairs) -> Side:
    """The curves that join two of the points."""
    return Side(pairs, inner[pairs.first, pairs.second])


def problem(inner: Tensor, rows: Pairs, cols: Pairs) -> tuple[Gram, Side, Side]:
    """What the searches of ``loopml.ops`` take, but for their options."""
    of_rows = side(inner, rows)
    same = cols.first is rows.first  # the compiler of torch 2.4 compares tuples by their elements
    return gram_of(inner), of_rows, of_rows if same else side(inner, cols)


def own_products(inner: Tensor, pairs: Pairs) -> Tensor:
    """The products of the ends of curves with themselves: (3, p)."""
    return scores.own_products(side(inner, pairs), inner.diagonal())
