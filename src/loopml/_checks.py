"""Argument checks whose messages name the argument, what was expected and what came.

Checks of *values* (NaN, zero vectors, mixed pairs) read the tensor. That is free on the CPU but
stalls a CUDA stream, so elsewhere they run only where the environment sets
``LOOPML_CHECK_VALUES=1``. They are skipped inside ``torch.compile`` and ``torch.func``.
"""

from __future__ import annotations

import math
import os
from numbers import Integral, Real

import torch
from torch import Tensor

_CHECK_EVERYWHERE = os.environ.get("LOOPML_CHECK_VALUES", "0") == "1"


def values_readable(x: Tensor) -> bool:
    """Whether looking at the values of ``x`` costs no synchronisation and breaks no trace."""
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x):
        return False
    return x.device.type == "cpu" or _CHECK_EVERYWHERE


def check_floating(name: str, x: object) -> None:
    """Raise unless ``x`` is a real floating point tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(x).__name__}; "
            "convert it with torch.as_tensor"
        )
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}; use {name}.float()")


def check_finite(name: str, x: Tensor) -> None:
    """Raise if ``x`` holds NaN or infinity and its values are readable."""
    # A finite sum has finite terms, and takes a tenth of the time; a sum may still overflow.
    if values_readable(x) and not (
        bool(torch.isfinite(x.detach().sum())) or bool(torch.isfinite(x).all())
    ):
        raise ValueError(
            f"{name} must be finite, got NaN or infinity; "
            "check the learning rate, the loss scale and the inputs of the model"
        )


def check_squares(name: str, x: Tensor) -> None:
    """Raise if squared distances between rows of ``x`` overflow, and values are readable."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    largest = math.sqrt(torch.finfo(dtype).max / x.shape[-1]) / 8
    if values_readable(x) and x.numel() and not float(x.detach().abs().amax()) <= largest:
        check_finite(name, x)
        raise ValueError(
            f"{name} must have entries of at most {largest:.0e}, since squared distances are "
            f"computed in {dtype}, got {float(x.detach().abs().amax()):.0e}; "
            "scale them or use float64"
        )


def check_embeddings(name: str, x: object) -> None:
    """Raise unless ``x`` is an (n, d) floating point tensor with d >= 1 and usable values."""
    check_floating(name, x)
    assert isinstance(x, Tensor)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(
            f"{name} must have shape (batch, dim) with dim >= 1, got {tuple(x.shape)}; "
            f"flatten it with {name}.flatten(1)"
        )
    check_squares(name, x)


def check_labels(name: str, labels: object, embeddings_name: str, n: int) -> None:
    """Raise unless ``labels`` is an (n,) integer tensor."""
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(labels).__name__}; "
            "convert it with torch.as_tensor"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got {labels.dtype}; use {name}.long()")
    if labels.shape != (n,):
        raise ValueError(
            f"{name} must have shape ({n},), one per row of {embeddings_name}, "
            f"got {tuple(labels.shape)}"
        )


def check_batch(
    embeddings: object, labels: object, ref_emb: object = None, ref_labels: object = None
) -> None:
    """Raise unless the four are what pytorch-metric-learning calls a batch and its references."""
    check_embeddings("embeddings", embeddings)
    assert isinstance(embeddings, Tensor)
    check_labels("labels", labels, "embeddings", len(embeddings))
    if (ref_emb is None) != (ref_labels is None):
        given, missing = ("ref_emb", "ref_labels")[:: 1 if ref_labels is None else -1]
        raise ValueError(f"{given} was given without {missing}; give both or neither")
    if ref_emb is None:
        return
    check_embeddings("ref_emb", ref_emb)
    assert isinstance(ref_emb, Tensor)
    check_labels("ref_labels", ref_labels, "ref_emb", len(ref_emb))
    if ref_emb.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"ref_emb must have as many columns as embeddings, "
            f"got {ref_emb.shape[1]} and {embeddings.shape[1]}"
        )


def check_endpoints(points: dict[str, Tensor], ndim: int | None = None) -> None:
    """Raise unless the named curve endpoints are finite, of one dtype, and fit each other."""
    for name, x in points.items():
        check_floating(name, x)
    reference_name, reference = next(iter(points.items()))
    for name, x in points.items():
        if x.ndim == 0 or (ndim is not None and x.ndim != ndim):
            wanted = "(..., d)" if ndim is None else "(p, d)"
            raise ValueError(f"{name} must have shape {wanted}, got {tuple(x.shape)}")
        if x.shape[-1] != reference.shape[-1] or x.shape[-1] == 0:
            raise ValueError(
                f"{name} must have as many coordinates (>= 1) as {reference_name}, "
                f"got {x.shape[-1]} and {reference.shape[-1]}"
            )
        if x.dtype != reference.dtype:
            raise TypeError(
                f"{name} must have the dtype of {reference_name}, got {x.dtype} and "
                f"{reference.dtype}; cast one with .to(dtype)"
            )
        check_finite(name, x)


def check_broadcast(points: dict[str, Tensor]) -> None:
    """Raise unless the leading axes of the named tensors broadcast."""
    shape: tuple[int, ...] = ()
    for name, x in points.items():
        try:
            shape = tuple(torch.broadcast_shapes(shape, x.shape[:-1]))  # type: ignore[no-untyped-call]
        except RuntimeError:
            raise ValueError(
                f"{name} must have leading axes that broadcast with {shape}, those of the "
                f"arguments before it, got {tuple(x.shape[:-1])}; insert axes with .unsqueeze"
            ) from None


def check_same_length(points: dict[str, Tensor]) -> None:
    """Raise unless the named tensors have as many rows as each other."""
    (reference_name, reference), *others = points.items()
    for name, x in others:
        if len(x) != len(reference):
            raise ValueError(
                f"{name} must have as many rows as {reference_name}, "
                f"got {len(x)} and {len(reference)}: a curve has one start and one end"
            )


def check_nonzero(name: str, x: Tensor) -> None:
    """Raise if a row of ``x`` is zero, so that it has no direction, and values are readable."""
    if values_readable(x) and bool((x == 0).all(dim=-1).any()):
        raise ValueError(
            f"{name} must hold directions, got a zero vector; drop it or use the segment functions"
        )


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def check_count(name: str, value: object, minimum: int) -> int:
    """Return ``value`` if it is an integer of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r} of type {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def check_flag(name: str, value: object) -> bool:
    """Return ``value`` if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def check_nonnegative(name: str, value: object) -> float:
    """Return ``value`` as a float if it is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be finite and at least 0, got {value}")
    return float(value)
