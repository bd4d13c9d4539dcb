"""The compiled functions for the CPU, where numba is installed."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from loopml.geometry.lengths import is_traced


@cache
def kernels() -> Any | None:
    """The module of compiled functions, or None where there is no numba.

    It is imported when it is first needed, so that importing loopml does not load numba. One that
    does not fit the NumPy beside it is told of once, and is not used.
    """
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        importlib.import_module("numba")
    except ImportError as error:
        warnings.warn(
            f"numba is installed but cannot be imported ({error}), so loopml computes in PyTorch "
            "alone; install a numba that fits, or uninstall it",
            stacklevel=2,
        )
        return None
    return importlib.import_module("loopml.ops.numba")


def kernels_for(x: Tensor) -> Any | None:
    """The module of compiled functions, if they can read ``x``.

    They cannot read what a compiler or a transform traces, nor the tensors of other devices and of
    other libraries.
    """
    plain = type(x) is Tensor and x.device.type == "cpu" and not is_traced(x)
    return kernels() if plain else None


_BATCHED: Any = torch._C._parse_dispatch_key("Batched")


def is_batched(gradient: Tensor) -> bool:
    """Whether autograd computes several gradients at a time, which ``kernels_for`` cannot see."""
    batched: bool = torch._C._dispatch_keys(gradient).has(_BATCHED)
    return batched
