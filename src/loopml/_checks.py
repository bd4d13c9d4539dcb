"""Argument checks whose messages name the argument, what was expected and what came.

Checks of *values* (NaN, zero vectors, mixed pairs) read the tensor. That is free on the CPU but
stalls a CUDA stream, so elsewhere they run only where the environment sets
``LOOPML_CHECK_VALUES=1``. They are skipped inside ``torch.compile`` and ``torch.func``. Where they
are skipped a batch with a value that they refuse is made NaN, without looking.
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


def kind_of(value: object) -> str:
    """What ``value`` is, in words: its type, or which class it is instead of an instance."""
    if isinstance(value, type):
        return f"the class {value.__name__} itself; call it: {value.__name__}(...)"
    return type(value).__name__


def check_tensor(name: str, x: object) -> Tensor:
    """Return ``x`` if it is a tensor."""
    if isinstance(x, Tensor):
        return x
    advice = "give the tensor itself"
    for function, convert in (("as_tensor", torch.tensor), ("stack", torch.stack)):
        try:
            convert(x)  # type: ignore[arg-type]
        except Exception:  # it can be anything at all
            continue
        advice = f"convert it with torch.{function}({name})"
        break
    raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}; {advice}")


def check_floating(name: str, x: object) -> Tensor:
    """Return ``x`` if it is a real floating point tensor."""
    x = check_tensor(name, x)
    if not x.is_floating_point():
        real = f"torch.view_as_real({name}).flatten(-2)" if x.is_complex() else f"{name}.float()"
        raise TypeError(f"{name} must be floating point, got {x.dtype}; use {real}")
    return x


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


def _largest(x: Tensor) -> tuple[Tensor, float]:
    """The largest entry of ``x``, NaN if one is, and the one up to which distances can be squared.

    Both are in the dtype that squared distances are computed in.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.detach().abs().amax(), math.sqrt(torch.finfo(dtype).max / x.shape[-1]) / 8


def check_squares(name: str, x: Tensor) -> None:
    """Raise if squared distances between rows of ``x`` overflow, and values are readable."""
    if not values_readable(x) or x.numel() == 0:
        return
    entry, largest = _largest(x)
    if not float(entry) <= largest:
        check_finite(name, x)
        advice = f"scale them, as by {name} / {name}.abs().amax()"
        if x.dtype != torch.float64:
            advice += f", or use {name}.double()"
        raise ValueError(
            f"{name} must have entries of at most {largest:.0e}, since squared distances are "
            f"computed in {torch.promote_types(x.dtype, torch.float32)}, got {float(entry):.0e}; "
            f"{advice}"
        )


def nan_if_unusable(embeddings: Tensor, *others: Tensor) -> Tensor:
    """The embeddings, all NaN if an entry of any of the tensors is one that a check would refuse.

    That is how a value shows which nobody may look at: NaN loses every comparison, so it would be
    no row's nearest, and the loss of a batch without a nearest is a perfect 0.
    """
    for x in (embeddings, *others):
        if x.numel() and not values_readable(x):
            entry, largest = _largest(x)
            # A product, for then the gradient is NaN as well; times 1 no bit changes.
            embeddings = embeddings * torch.where(entry <= largest, 1.0, torch.nan)
    return embeddings


def check_embeddings(name: str, x: object) -> Tensor:
    """Return ``x`` if it is an (n, d) floating point tensor with d >= 1 and usable values."""
    x = check_tensor(name, x)
    if x.ndim != 2 or x.shape[1] == 0:
        if x.ndim == 1 and not x.is_floating_point():
            advice = f" of {x.dtype}; check the order of the arguments, these look like labels"
        elif x.ndim == 1:
            advice = f"; use {name}.unsqueeze(0) for one row, {name}.unsqueeze(1) for one column"
        elif x.ndim > 2:
            advice = (
                f"; use {name}.flatten(1) where the first axis is the batch, "
                f"{name}.flatten(0, -2) where only the last is not"
            )
        else:
            advice = ""
        raise ValueError(
            f"{name} must have shape (batch, dim) with dim >= 1, got {tuple(x.shape)}{advice}"
        )
    check_floating(name, x)
    check_squares(name, x)
    return x


# Integers that torch has no sort and no searchsorted for.
_UNSORTED = (torch.uint16, torch.uint32, torch.uint64)


def _to_integers(labels: Tensor) -> str | None:
    """The call that makes integers of labels, or None if that would merge some."""
    if labels.is_complex():
        return None
    if labels.is_floating_point() and values_readable(labels) and bool((labels % 1 != 0).any()):
        return None
    return ".long()" if labels.is_floating_point() or labels.dtype == torch.bool else ""


def check_labels(name: str, labels: object, embeddings_name: str, n: int) -> Tensor:
    """Return ``labels`` if they are an (n,) integer tensor, in a dtype that torch can sort."""
    number = (
        f"number them: {name} = "
        f"torch.as_tensor(np.unique(np.asarray({name}, str), return_inverse=True)[1]), "
        "once for the whole data set"
    )
    if not isinstance(labels, Tensor):
        try:
            to_integers = _to_integers(torch.tensor(labels))
        except Exception:  # it can be anything at all
            to_integers = None
        convert = f"convert them with torch.as_tensor({name}){to_integers}"
        advice = number if to_integers is None else convert
        raise TypeError(
            f"{name} must be a torch.Tensor of integers, got {type(labels).__name__}; {advice}"
        )
    if labels.shape != (n,):
        if labels.ndim != 1 and labels.numel() == n:
            advice = f"; use {name}.flatten()"
        elif labels.ndim == 2:
            advice = (
                f", a matrix of {labels.dtype}; check the order of the arguments, {name} come "
                f"right after {embeddings_name}; if its rows are one-hot, use "
                f"{name}.int().argmax(1)"
            )
        else:
            advice = ""
        raise ValueError(
            f"{name} must have shape ({n},), one per row of {embeddings_name}, "
            f"got {tuple(labels.shape)}{advice}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        to_integers = _to_integers(labels)
        advice = number if to_integers is None else f"use {name}{to_integers}"
        raise TypeError(f"{name} must be integers, got {labels.dtype}; {advice}")
    if labels.dtype not in _UNSORTED:
        return labels
    converted = labels.long()
    if values_readable(converted) and bool((converted < 0).any()):
        raise ValueError(
            f"{name} must be below 2^63, got {labels.dtype} beyond; use {name}.view(torch.int64), "
            "which keeps them apart"
        )
    return converted


def check_endpoints(points: dict[str, Tensor], ndim: int | None = None) -> None:
    """Raise unless the named curve endpoints are finite, of one dtype, and fit each other."""
    for name, x in points.items():
        check_floating(name, x)
    reference_name, reference = next(iter(points.items()))
    for name, x in points.items():
        if x.ndim == 0 or (ndim is not None and x.ndim != ndim):
            wanted = "(..., d)" if ndim is None else "(p, d)"
            advice = f"{name}.unsqueeze(0)" if x.ndim < (ndim or 1) else f"{name}.flatten(0, -2)"
            raise ValueError(f"{name} must have shape {wanted}, got {tuple(x.shape)}; use {advice}")
        if x.shape[-1] != reference.shape[-1] or x.shape[-1] == 0:
            raise ValueError(
                f"{name} must have as many coordinates (>= 1) as {reference_name}, "
                f"got {x.shape[-1]} and {reference.shape[-1]}"
            )
        if x.dtype != reference.dtype:
            raise TypeError(
                f"{name} must have the dtype of {reference_name}, got {x.dtype} and "
                f"{reference.dtype}; use {name}.to({reference.dtype})"
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
