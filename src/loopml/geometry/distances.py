"""Squared distances of all points to each other, each as good as its own two points allow."""

from __future__ import annotations

import torch
from torch import Tensor

from loopml._checks import values_readable
from loopml.geometry.packing import wide

# Part of what is added up for a squared distance. Below it so many digits of the float64 sum are
# gone that float32 would show it.
_RELATIVE = 2.0**-27
# Numbers that are held at once, several times, in float64: 8 MiB.
_BLOCK = 1 << 20


@torch.no_grad()
def half_sq_distances(points: Tensor, others: Tensor | None = None) -> Tensor:
    """Minus half the squared distances of points (n, d) to ``others`` (m, d): (n, m).

    Where only differences matter these serve as inner products: ``2 g_ij - g_ii - g_jj`` is minus
    the squared distance for both. But an inner product about a common centre has an error of the
    square of the farthest point, and these have none but of their own two points: products in
    float64 measure most, and what is small beside its terms is measured again from the difference
    (where values can be read; a GPU would wait).

    Args:
        points: (n, d).
        others: (m, d); by default the points themselves, whose distance to themselves is 0.
    """
    x, y = wide(points), wide(points if others is None else others)
    centre = y.mean(0) if len(y) else 0
    if others is None:
        return _measured(x, x, centre, symmetric=True).to(points.dtype)
    size = max(1, _BLOCK // max(1, len(y)))
    parts = (x[i : i + size] for i in range(0, max(1, len(x)), size))
    return torch.cat(
        [_measured(part, y, centre, symmetric=False).to(points.dtype) for part in parts]
    )


def _measured(x: Tensor, y: Tensor, centre: Tensor | int, *, symmetric: bool) -> Tensor:
    """The same for points of float64: by products, and small distances by differences."""
    from_x = x - centre
    from_y = from_x if symmetric else y - centre
    half = from_x @ from_y.T
    if symmetric:
        of_x = of_y = half.diagonal() / 2
    else:
        of_x, of_y = (z.square().sum(1) / 2 for z in (from_x, from_y))
    terms = of_x.unsqueeze(1) + of_y
    half = (half - terms).clamp_(max=0)
    if symmetric:
        half.fill_diagonal_(0)
    if values_readable(x):
        small = half > -_RELATIVE * terms
        row, col = (small.triu_(1) if symmetric else small).nonzero(as_tuple=True)
        size = _BLOCK // x.shape[1] + 1
        for i, j in zip(torch.split(row, size), torch.split(col, size), strict=True):
            half[i, j] = measured = (x[i] - y[j]).square_().sum(1).mul_(-0.5)
            if symmetric:
                half[j, i] = measured
    return half
