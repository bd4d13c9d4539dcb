"""Numbers and tables as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp, isnan, log
from statistics import fmean

DASH = "\N{EN DASH}\N{WORD JOINER}"  # of a range, whose ends stay on one line


def number(value: float) -> str:
    """Two or three digits; nothing where there is no value."""
    if isnan(value):
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def power(value: str) -> str:
    """A number to one digit, as a formula where it is far from 1."""
    digit, exponent = f"{float(value):.0e}".split("e")
    if int(exponent) == 0:
        return digit
    factor = "" if digit == "1" else rf"{digit} \cdot "
    return f"${factor}10^{{{int(exponent)}}}$"


def listed(values: Iterable[object]) -> str:
    """1, 2 and 3."""
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}" if most else last


def table(head: Sequence[object], lines: Iterable[Sequence[object]]) -> str:
    """In Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def code(name: str) -> str:
    """A case as it stands in sentences and tables."""
    return f"`{name}`"


def over(names: Iterable[str]) -> str:
    """A case over another, each on a line of its own in a table."""
    return "<br>over ".join(map(code, names))


def spread(values: Sequence[float]) -> str:
    """The geometric mean, and the range where there is one."""
    mean = number(geometric_mean(values))
    if len(values) < 2:
        return mean
    return f"{mean} ({span(values)})"


def span(values: Sequence[float]) -> str:
    """The least and the greatest."""
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low}{DASH}{high}"


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive numbers; NaN of none."""
    logs = [log(value) for value in values]
    return exp(fmean(logs)) if logs else float("nan")
