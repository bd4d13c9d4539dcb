"""Which form of a custom op to call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def chosen(op: Any, gram: Tensor) -> Callable[..., Any]:
    """The op, or in eager mode on the CPU the function behind it.

    The Python layers of the dispatcher are a good part of a small step.
    """
    eager = gram.device.type == "cpu" and not torch.compiler.is_compiling()
    function: Callable[..., Any] = op._init_fn if eager else op
    return function
