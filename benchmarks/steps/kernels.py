"""The library with its compiled kernels, which need numba, and without them.

The search on the CPU asks `loopml.ops.cpu.kernels` for the compiled functions, and computes in
PyTorch where that returns None.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from types import ModuleType
from typing import Any


def _seam() -> ModuleType | None:
    """The module that decides, where this version of the library has it."""
    name = "loopml.ops.cpu"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def used() -> str:
    """The numba that compiles them, as "numba 0.68"; empty where there are none."""
    seam = _seam()
    return f"numba {version('numba')}" if seam is not None and seam.kernels() else ""


def _nothing() -> Any:
    return None


@contextmanager
def pure() -> Iterator[None]:
    """PyTorch alone: what an installation without numba does."""
    seam = _seam()
    if seam is None:
        yield
        return
    kernels, seam.kernels = seam.kernels, _nothing
    try:
        yield
    finally:
        seam.kernels = kernels
