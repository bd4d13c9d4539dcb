"""What a user hands to an evaluation, as the tensors that it works on, or an error that helps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from loopml._checks import check_finite, check_flag, check_floating, check_squares

Array = Tensor | np.ndarray[Any, Any]

_ORDER = (
    "the arguments are get_accuracy(query, query_labels, reference, reference_labels, "
    "ref_includes_query), in this order"
)


class Inputs(NamedTuple):
    """Queries, and the references that they retrieve."""

    query: Tensor  # (n, d), on the CPU
    labels: Tensor  # (n, ...), as its references' on the device of the calculator
    reference: Tensor  # (m, d)
    ref_labels: Tensor  # (m, ...)
    excluded: bool  # row i of the references is query i, which does not retrieve itself


def take_inputs(
    query: Array,
    query_labels: Array,
    reference: Array | None,
    reference_labels: Array | None,
    ref_includes_query: bool,
    *,
    cosine: bool,
    any_labels: bool,
    device: torch.device,
) -> Inputs:
    """The arguments of a call; directions if ``cosine``, other labels than integers if allowed."""

    def rows(name: str, x: object) -> Tensor:
        x = take_embeddings(name, x)
        return directions(x) if cosine else x

    def classes(name: str, labels: object, rows_name: str, n: int) -> Tensor:
        if any_labels:
            return _take_any_labels(name, labels, rows_name, n, alone=alone).to(device)
        return take_labels(name, labels, rows_name, n, alone=alone).to(device)

    check_flag("ref_includes_query", ref_includes_query)
    alone = reference is None
    if alone and reference_labels is not None:
        raise ValueError("reference_labels was given without reference; give both or neither")
    if not alone and reference_labels is None:
        raise ValueError("reference was given without reference_labels; give both or neither")
    x = rows("query", query)
    y = classes("query_labels", query_labels, "query", len(x))
    if alone:
        return Inputs(x, y, x, y, True)
    ref = rows("reference", reference)
    ref_y = classes("reference_labels", reference_labels, "reference", len(ref))
    if ref.shape[1] != x.shape[1]:
        raise ValueError(
            f"reference must have as many columns as query, got {ref.shape[1]} and {x.shape[1]}"
        )
    if (
        ref_includes_query
        and not (
            len(ref) >= len(x)
            and torch.allclose(ref[: len(x)].double(), x.double())  # up to rounding
            and torch.equal(ref_y[: len(x)], y)
        )
    ):
        raise ValueError(
            f"reference must begin with the {len(x)} rows of query, labels included, "
            "if ref_includes_query, got others; use torch.cat([query, others])"
        )
    return Inputs(x, y, ref, ref_y, ref_includes_query)


def single(name: str, x: Tensor, device: torch.device) -> Tensor:
    """In float32 on this device, for a ``knn_func`` or ``kmeans_func`` of the user."""
    y = x.to(device, torch.float32)
    if not y.isfinite().all():
        raise ValueError(
            f"{name} must fit into float32, which knn_func and kmeans_func take, "
            f"got {float(x.abs().max()):.0e}; scale the embeddings"
        )
    return y


def take_embeddings(name: str, x: object) -> Tensor:
    """(n, d) on the CPU, where values can be read; float32, or float64 if it came as that."""
    if isinstance(x, Tensor | np.ndarray) and (x.ndim != 2 or 0 in x.shape):
        raise ValueError(
            f"{name} must have shape (rows, dim) with at least one of each, "
            f"got {tuple(x.shape)}; {_ORDER}"
        )
    if isinstance(x, np.ndarray):
        if x.dtype.kind != "f":
            raise TypeError(
                f"{name} must be floating point, got {x.dtype}; use {name}.astype(np.float32)"
            )
        x = _tensor(x, np.float32 if x.itemsize <= 4 else np.float64)
    check_floating(name, x)
    assert isinstance(x, Tensor)
    x = x.detach().cpu()
    check_finite(name, x)
    if x.dtype != torch.float64:
        return x.float()  # distances are taken in float64, where no square of these overflows
    check_squares(name, x)
    return x


def directions(x: Tensor) -> Tensor:
    """Rows divided by their norm, in float64; a zero row stays zero, any other has norm 1."""
    # Largest entries of 1 keep the squares in range, and make multiples of a row equal to it.
    largest = x.abs().amax(dim=1, keepdim=True).double()
    x = x.double() / torch.where(largest > 0, largest, 1.0)
    return x.div_(torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min_(1.0))


def take_labels(name: str, labels: object, embeddings_name: str, n: int, *, alone: bool) -> Tensor:
    """(n,) int64, from integers of any width or whole floating numbers.

    The names of a message are those of a call with references, unless the queries are ``alone``.
    """
    if isinstance(labels, Tensor | np.ndarray) and labels.shape != (n,):
        fix = f"use {name}.reshape(-1)" if tuple(labels.shape) in ((n, 1), (1, n)) else _ORDER
        raise ValueError(
            f"{name} must have shape ({n},), one per row of {embeddings_name}, "
            f"got {tuple(labels.shape)}; {fix}"
        )
    if not isinstance(labels, Iterable):
        raise TypeError(
            f"{name} must be one integer per row of {embeddings_name}, in a tensor or a NumPy "
            f"array, got {labels!r}"
        )
    labels = _numeric(labels)
    if not isinstance(labels, Tensor) or labels.is_complex():
        every = "[*query_labels]" if alone else "[*query_labels, *reference_labels]"
        what = getattr(labels, "dtype", None) or type(labels).__name__
        raise TypeError(
            f"{name} must be integers in a tensor or a NumPy array, got {what}; number them"
            f"{'' if alone else ' together'}: "
            f"np.unique(np.array({every}, dtype=str), return_inverse=True)[1]"
        )
    if labels.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got bool; use torch.as_tensor({name}).long()")
    if labels.is_floating_point():
        _check_whole(name, labels, alone)
    return labels.long()


def _take_any_labels(name: str, labels: object, rows_name: str, n: int, *, alone: bool) -> Tensor:
    """(n, ...) float32, as pytorch-metric-learning hands labels to a comparison of the user."""
    own = _numeric(labels)
    if not isinstance(own, Tensor):
        return take_labels(name, own, rows_name, n, alone=alone)
    if len(own) != n:
        raise ValueError(f"{name} must have one entry per row of {rows_name}, {n}, got {len(own)}")
    return own.float()


def _numeric(labels: object) -> object:
    """An array of numbers as a tensor, anything else as it is."""
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iufb":
        return labels
    wider = {"i": np.int64, "u": np.int64, "f": np.float64, "b": np.bool_}
    if labels.dtype in (np.float16, np.float32):
        return _tensor(labels, labels.dtype.newbyteorder("="))
    return _tensor(labels, wider[labels.dtype.kind])


def _check_whole(name: str, labels: Tensor, alone: bool) -> None:
    """Raise unless every label is a whole number that its dtype tells from the next one."""
    if not labels.isfinite().all():
        raise ValueError(f"{name} must be finite, got NaN or infinity; leave those rows out")
    if (labels != labels.round()).any():
        every = "torch.as_tensor(query_labels)"
        if not alone:
            every = f"torch.cat([{every}, torch.as_tensor(reference_labels)])"
        raise TypeError(
            f"{name} must be integers, got fractions in {labels.dtype}; number the classes: "
            f"torch.unique({every}, return_inverse=True)[1]"
        )
    limit = 2 / torch.finfo(labels.dtype).eps
    if (labels.abs() >= limit).any():
        raise TypeError(
            f"{name} must be below {limit:.0f} in {labels.dtype}, where integers beyond it are "
            f"rounded, got {float(labels.abs().max()):.0f}; keep them integers from the start"
        )


def _tensor(x: np.ndarray[Any, Any], dtype: Any) -> Tensor:
    """Of native byte order and positive strides, as PyTorch wants it."""
    return torch.as_tensor(np.ascontiguousarray(x, dtype))
