"""What we want to reach, and whether we do.

Targets are the rows of `targets.csv`: a part of the results, what is measured, a case, the
yardstick it is divided by (none: the amount itself), and the largest mean that is good
enough. It is over the settings with that batch and, where they are given, that many rows of a class
and references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from benchmarks.steps.report.markdown import code, geometric_mean, number, table
from benchmarks.steps.report.ratios import Ratio, mean_ratio, where
from benchmarks.steps.results import Row, comparisons

OF_SETTING = ("batch", "per_class", "references")
UNITS = {"time": "ms", "memory": "MB"}
MET, MISSED = "met", "**missed**"


def measured(target: Mapping[str, str], rows: Sequence[Row]) -> float:
    """What was reached; NaN where it was not measured."""
    found = comparisons(rows, target["part"], target["measure"])
    chosen = where(found, **{name: int(target[name]) for name in OF_SETTING if target[name]})
    case, over = target["case"], target["over"]
    if over:
        return mean_ratio(Ratio(case, over), chosen)
    return geometric_mean(c[case].amount for c in chosen if case in c)


def targets_section(rows: Sequence[Row], targets: Sequence[Mapping[str, str]]) -> list[str]:
    """Which targets are met and which are missed."""
    body = []
    for target in targets:
        value = measured(target, rows)
        if isnan(value):
            continue
        at_most = float(target["at_most"])
        batch = target["batch"]
        if target["references"]:
            batch += f" against {int(target['references']):,}, {target['per_class']} a class"
        unit = "" if target["over"] else f" {UNITS[target['measure']]}"
        body.append(
            [
                target["measure"],
                code(target["case"]),
                code(target["over"]) if target["over"] else "",
                batch,
                f"{at_most:g}{unit}",
                f"{number(value)}{unit}",
                MET if value <= at_most else MISSED,
            ]
        )
    if not body:
        return []
    missed = sum(line[-1] == MISSED for line in body)
    return [
        "## Targets",
        "",
        "What we set out to reach, with numba. Nobody else asked for it. "
        f"{missed} of {len(body)} targets are missed.",
        "",
        table(["of", "step", "over", "batch", "at most", "measured", ""], body),
        "",
    ]
