"""Tensors as arrays, which compiled functions read and write in place."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


def rows_of(x: Tensor) -> np.ndarray[Any, Any]:
    """The numbers of a tensor, row after row, so that a function is compiled for one layout."""
    # A call for each tensor that has no gradient would cost as much as a small search.
    plain = x.detach() if x.requires_grad else x
    array: np.ndarray[Any, Any] = plain.contiguous().numpy()
    return array
