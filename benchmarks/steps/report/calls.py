"""Calls of operators, and the time that kernels take to compile."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.steps.cases import CASES, without_kernels
from benchmarks.steps.report.markdown import code, table

TIMES = " \N{MULTIPLICATION SIGN} "


def lines_of(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, none where it is not there."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def calls_section(calls: Sequence[Mapping[str, str]]) -> list[str]:
    """What small batches spend their time on."""
    if not calls:
        return []
    count = {row["case"]: row["calls"] for row in calls}
    body = [
        [code(name), n, count.get(without_kernels(name), "")]
        for name, n in count.items()
        if not CASES[name].without_kernels
    ]
    return [
        "## Calls of operators",
        "",
        "A small batch takes the time of its calls of PyTorch operators: a few microseconds each, "
        "whatever they compute. A kernel of numba replaces many of them. Counted on "
        f"{calls[0]['batch'].replace(' x ', TIMES)}.",
        "",
        table(["step", "calls", "without numba"], body),
        "",
    ]


def compilation_section(compiled: Sequence[Mapping[str, str]]) -> list[str]:
    """The seconds of the first use."""
    if not compiled:
        return []
    seconds = {row["cache"]: row["seconds"] for row in compiled}
    return [
        "## Compilation",
        "",
        "Numba compiles the kernels when they are first called. For all steps of ours on this page "
        f"that took {seconds['empty']} s, once. In a later process they were loaded in "
        f"{seconds['filled']} s. No time above has any of it.",
        "",
    ]
