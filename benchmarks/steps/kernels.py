"""The library with its compiled kernels, which need numba, and without them.

The search on the CPU asks `loopml.compiled.kernels` for the compiled functions, and computes in
PyTorch where that returns None.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from loopml import compiled


def used() -> str:
    """The numba that compiles them, as "numba 0.68"; empty where there are none."""
    return f"numba {version('numba')}" if compiled.kernels() else ""


def _nothing() -> Any:
    return None


@contextmanager
def pure() -> Iterator[None]:
    """PyTorch alone: what an installation without numba does."""
    kernels, compiled.kernels = compiled.kernels, _nothing
    try:
        yield
    finally:
        compiled.kernels = kernels
