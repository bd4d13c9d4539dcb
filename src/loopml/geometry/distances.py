"""Squared distances of all points to each other, each as good as its own two points allow."""

from __future__ import annotations

import torch
from torch import Tensor

from loopml._checks import values_readable
from loopml.geometry.packing import wide

# Part of what is added up for a squared distance. Below it so many digits of the float64 sum are
# gone that float32 would show it.
_RELATIVE = 2.0**-27
# Numbers in the differences that are held at once: 8 MiB.
_BLOCK = 1 << 20


@torch.no_grad()
def half_sq_distances(points: Tensor) -> Tensor:
    """Minus half the squared distances of all points (n, d) to each other: (n, n), 0 at itself.

    Where only differences matter these serve as inner products: ``2 g_ij - g_ii - g_jj`` is minus
    the squared distance for both. But an inner product about a common centre has an error of the
    square of the farthest point, and these have none but of their own two points: products in
    float64 measure most, and what is small beside its terms is measured again from the difference
    (where values can be read; a GPU would wait).
    """
    x = wide(points)
    centred = x - x.mean(0) if len(x) else x
    half = centred @ centred.T
    half_sq = half.diagonal() / 2
    terms = half_sq.unsqueeze(1) + half_sq
    half = (half - terms).clamp_(max=0).fill_diagonal_(0)
    if values_readable(points):
        row, col = (half > -_RELATIVE * terms).triu_(1).nonzero(as_tuple=True)
        size = _BLOCK // x.shape[1] + 1
        for i, j in zip(torch.split(row, size), torch.split(col, size), strict=True):
            measured = (x[i] - x[j]).square_().sum(1).mul_(-0.5)
            half[i, j] = half[j, i] = measured
    return half.to(points.dtype)
