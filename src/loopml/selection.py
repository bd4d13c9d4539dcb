"""Masked arg-max and k largest of score rows, with ties broken by the lowest index."""

from __future__ import annotations

import torch
from torch import Tensor

from loopml.compiled import kernels_for


def largest(scores: Tensor, allowed: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` highest allowed scores of each row, highest first.

    Args:
        scores: (b, c).
        allowed: (b, c) bool.
        k: how many, at most c where there are columns; rows with fewer allowed are filled up.

    Returns:
        Indices (b, k), -1 where there is no allowed score left, and scores (b, k), -inf there.
        Equal scores come in the order of their indices, and NaN is never chosen.
    """
    b, c = scores.shape
    scores = torch.where(allowed, scores, -torch.inf).nan_to_num(-torch.inf, torch.inf, -torch.inf)
    if c == 0:
        value = scores.new_full((b, k), -torch.inf)
        return torch.full_like(value, -1, dtype=torch.int64), value
    if k == 1:
        value, index = scores.max(1, keepdim=True)  # the first of equal ones, as documented
    else:
        value, index = scores.sort(dim=1, descending=True, stable=True)
        value, index = value[:, :k], index[:, :k]
    return torch.where(value > -torch.inf, index, -1), value


def smallest_per_group(value: Tensor, group: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """The position of the lowest finite value of each group.

    Args:
        value: (e,) scores.
        group: (e,) the group of each, in [0, groups).
        groups: how many groups there are.

    Returns:
        (groups,) positions into ``value``, 0 where the group has no finite value (the lowest
        position wins a tie), and a (groups,) mask of the groups that have one.
    """
    fast = kernels_for(value)
    if fast is not None:
        position, has = fast.smallest_per_group(value, group, groups)
        return position, has
    e = len(value)
    least = value.new_full((groups,), torch.inf).scatter_reduce(0, group, value, "amin")
    positions = torch.arange(e, device=value.device)
    positions = torch.where((value == least[group]) & (value < torch.inf), positions, e)
    first = positions.new_full((groups,), e).scatter_reduce(0, group, positions, "amin")
    found = first < e
    return torch.where(found, first, 0), found
