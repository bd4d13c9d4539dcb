"""From the CPU to a device, without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def onto(device: torch.device, x: Tensor) -> Tensor:
    """``x`` on ``device``.

    What goes from the CPU to CUDA is copied from pinned memory, while the CPU goes on. A copy from
    other memory would first wait for all that the GPU has to do.
    """
    if x.device == device:
        return x
    if x.device.type != "cpu" or device.type != "cuda":
        return x.to(device)
    # A compiler cannot trace the pinning, and need not: it keeps constants on the device.
    pinned = x if torch.compiler.is_compiling() else x.pin_memory()
    return pinned.to(device, non_blocking=True)
