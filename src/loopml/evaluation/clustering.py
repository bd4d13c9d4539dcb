"""Clusters against classes, by pairs."""

from __future__ import annotations

import torch
from torch import Tensor


def pairwise_f1(classes: Tensor, clusters: Tensor) -> float:
    """2 T / (C + Y) of pairs, from the cells of the contingency table that are not empty."""
    first = torch.unique(classes, return_inverse=True)[1]
    second = torch.unique(clusters.to(classes.device), return_inverse=True)[1]
    in_class, in_cluster = _pairs(first), _pairs(second)
    in_both = _pairs(first * (second.max() + 1) + second)
    return 2 * in_both / (in_class + in_cluster) if in_class + in_cluster else float("nan")


def _pairs(groups: Tensor) -> int:
    """How many pairs of entries are equal."""
    sizes = torch.unique(groups, return_counts=True)[1]
    return int((sizes * (sizes - 1) // 2).sum())
