"""The search on CUDA: the Triton kernels, where Triton is installed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from torch import Tensor


def use_kernel(op: Any, name: str, device: str = "cuda") -> None:
    """Make the kernel of that name the implementation of an op for the one nearest curve.

    More than one nearest, and all of them where there is no Triton, stay with pure torch. Triton is
    imported when an op is first called on CUDA, so that importing loopml does not load it.
    """

    def nearest(*args: Any) -> tuple[Tensor, Tensor]:
        *curves, k = args
        found: tuple[Tensor, Tensor]
        if k == 1 and importlib.util.find_spec("triton"):
            found = getattr(importlib.import_module("loopml.ops.triton"), name)(*curves)
        else:
            found = op._init_fn(*args)
        return found

    op.register_kernel(device, nearest)
