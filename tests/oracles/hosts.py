"""Which pytorch-metric-learning the tests run with, and how to see a loss of it unreduced."""

from __future__ import annotations

from typing import Any

import pytorch_metric_learning
from pytorch_metric_learning import losses, reducers

# A double of release 3 has the contract of its documentation, and some of its losses.
DOUBLE: bool = getattr(pytorch_metric_learning, "DOUBLE", False)
IS_3 = hasattr(losses.BaseMetricLossFunction, "objective_terms")


def unreduced(loss: Any, *arguments: Any, **more: Any) -> dict[str, Any]:
    """The elements of a loss, with their indices."""
    if IS_3:
        return loss.loss_terms(*arguments, **more)
    reducer, loss.reducer = loss.reducer, reducers.DoNothingReducer()
    try:
        return loss(*arguments, **more)
    finally:
        loss.reducer = reducer


def in_double(build: Any, *arguments: Any) -> bool:
    """Whether the double has this loss; the package itself has all."""
    if DOUBLE:
        try:
            build(*arguments)
        except NotImplementedError:
            return False
    return True
