"""Memory for time: a function whose temporaries are computed again for its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from loopml.geometry.lengths import is_traced


class _Recomputed(torch.autograd.Function):
    """The function without its graph, which the gradient makes anew."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, of_result: Tensor) -> Any:
        # Where the gradient is to be differentiated again, the graph has to lead to the tensors; by
        # aliases, since one tensor may come from another.
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            tensors = [
                x.view_as(x) if again or not needed else x.detach().requires_grad_()
                for x, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
            ]
            result = ctx.function(*tensors)
        wanted = [x for x in tensors if x.requires_grad]
        found = iter(torch.autograd.grad(result, wanted, of_result, create_graph=again))
        return None, *(next(found) if x.requires_grad else None for x in tensors)


def recomputed(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function(*tensors)``, whose gradient keeps the tensors and no temporaries.

    ``torch.utils.checkpoint`` does the same for modules, and its first call takes more memory than
    a block of temporaries that it would save.

    Args:
        function: deterministic; what else it uses must have no gradient.
        tensors: all that it is to be differentiated by.

    Returns:
        Its result, which differentiates twice. A compiler and a transform see the function itself.
    """
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if not wanted or any(is_traced(x) for x in tensors):
        return function(*tensors)
    result: Tensor = _Recomputed.apply(function, *tensors)  # type: ignore[no-untyped-call,unused-ignore]
    return result
