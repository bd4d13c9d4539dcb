"""Trade time for memory: compute again in the backward pass what the forward pass would keep.

A (p, q) matrix of distances is small beside what each of its blocks needs on the way there. Kept
for the backward pass all blocks together are many times the result; computed again they are one
block at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from loopml.geometry.lengths import is_traced


def recomputed(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function(*tensors)``, keeping nothing but ``tensors`` for its backward pass.

    Differentiates as often as ``function`` does. Where no gradient is wanted, or a compiler or a
    transform does the differentiating, ``function`` is called as it is.

    Args:
        function: deterministic, and all that it differentiates is in ``tensors``.
        tensors: its arguments.
    """
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if not wanted or any(is_traced(x) for x in tensors):
        return function(*tensors)
    result: Tensor = checkpoint(  # type: ignore[no-untyped-call,unused-ignore]
        function, *tensors, use_reentrant=False, preserve_rng_state=False
    )
    return result
