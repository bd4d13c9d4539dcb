"""Errors of distances near contact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.steps.report.markdown import power, table

MARKS = ("1", "0.01", "0.0001", "1e-06", "1e-08")


def accuracy_section(rows: Sequence[Mapping[str, str]], figure: str) -> list[str]:
    """From the rows of `benchmarks/accuracy/conditioning.py`."""
    if not rows:
        return []
    body: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        key = (f"{row['curve']}s", row["method"], row["dtype"])
        body.setdefault(key, {})[row["separation"]] = power(row["median_error"])
    first = rows[0]
    return [
        "## Accuracy where curves nearly touch",
        "",
        f"![Relative error of distances by true distance, in float32 and float64]({figure})",
        "",
        "Median error of the distance over the distance. The truth is a search in extended "
        f"precision on the same rounded inputs, {first['problems']} pairs of curves each. An error "
        "of 1 is a distance read as 0.",
        "",
        table(
            ["curves", "distance", "dtype", *(f"{power(mark)} apart" for mark in MARKS)],
            ([*key, *(cells.get(mark, "") for mark in MARKS)] for key, cells in body.items()),
        ),
        "",
    ]
