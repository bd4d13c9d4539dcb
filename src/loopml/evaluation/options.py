"""What a user asks an evaluation for, or an error that helps."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral

from loopml._checks import check_count

Names = tuple[str, ...] | list[str]


def chosen(known: list[str], include: Names, exclude: Names) -> list[str]:
    """Those of the known scores that are included, or all if none is, without the excluded."""
    _check_scores("include", include, known)
    _check_scores("exclude", exclude, known)
    return [name for name in known if name in (include or known) and name not in exclude]


def check_recall_at(recall_at: object) -> tuple[int, ...]:
    """The K's, sorted, each once."""
    if isinstance(recall_at, str | bytes) or not isinstance(recall_at, Iterable):
        raise TypeError(
            f"recall_at must be a list of integers, got {recall_at!r}; write recall_at=(1, 2)"
        )
    return tuple(sorted({check_count("recall_at", rank, 1) for rank in recall_at}))


def check_k(k: object) -> int | str | None:
    """``k`` if it is a count, None or "max_bin_count"."""
    if k is None or k == "max_bin_count":
        return None if k is None else "max_bin_count"
    if isinstance(k, bool) or not isinstance(k, Integral) or k < 1:
        raise ValueError(f"k must be an integer of at least 1, None or 'max_bin_count', got {k!r}")
    return int(k)


def _check_scores(name: str, given: object, known: list[str]) -> None:
    """Raise unless ``given`` is a list of scores that there are."""
    if not isinstance(given, tuple | list):
        raise TypeError(
            f"{name} must be a tuple or list of scores, got {given!r}; write {name}=('NMI',)"
        )
    if unknown := [score for score in given if score not in known]:
        raise ValueError(
            f"{name} must be among {', '.join(known)}, got {', '.join(map(str, unknown))}; "
            "other K's go into recall_at, and what the constructor left out stays out"
        )
