"""Time: the figure of growth, and the table of ratios."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.steps.batches import Setting
from benchmarks.steps.cases import BATCH_HARD, ONE_PRODUCT
from benchmarks.steps.report.markdown import (
    code,
    geometric_mean,
    listed,
    number,
    over,
    spread,
    table,
)
from benchmarks.steps.report.ratios import OVER_ONE_PRODUCT, RATIOS, by_batch
from benchmarks.steps.results import Row, comparisons


def over_settings(found: Iterable[Setting]) -> str:
    """What a mean is over."""
    settings = list(found)
    dims = listed(sorted({s.dim for s in settings}))
    classes = listed(sorted({s.per_class for s in settings}))
    kinds = listed(dict.fromkeys(s.embeddings for s in settings))
    return f"{dims} dimensions, {classes} rows of a class, {kinds} embeddings"


def growth_section(rows: Sequence[Row], figure: str) -> list[str]:
    """How times grow with the batch."""
    if not comparisons(rows, "growth", "time"):
        return []
    return [
        "## Growth",
        "",
        f"![Time of a step by batch size, ours in colour, others in grey]({figure})",
        "",
        "*Ours in colour: solid with numba, dashed without. What is not ours in grey. Bands hold "
        "the middle 60 % of the rounds. A line ends where memory would run out.*",
        "",
    ]


def cells(values: Sequence[float], *, with_range: bool) -> str:
    """A mean, bold where ours takes longer."""
    mean = geometric_mean(values)
    text = spread(values) if with_range else number(mean)
    if mean < 1 or not values:
        return text
    first, *rest = text.split(" ", 1)
    return " ".join([f"**{first}**", *rest])


def ratios_section(rows: Sequence[Row]) -> list[str]:
    """The ratios, with and without numba."""
    found = comparisons(rows, "table", "time")
    if not found:
        return []
    batches = sorted({s.batch for s in found})
    shares: list[float] = []  # what single kinds of batches take of the mean over them
    body = []
    for ratio in (*RATIOS, *OVER_ONE_PRODUCT):
        with_kernels, without = (by_batch(r, found) for r in (ratio, ratio.without_kernels()))
        shares += [v / geometric_mean(values) for values in without.values() for v in values]
        body.append(
            [
                over(ratio),
                *(cells(values, with_range=True) for values in with_kernels.values()),
                *(cells(values, with_range=False) for values in without.values()),
            ]
        )
    each = len(found) // len(batches)
    return [
        "## Time",
        "",
        "The time of our step over the time of another. Below 1 ours is faster. **Bold: ours is "
        "slower.** "
        f"A number is a geometric mean over {each} kinds of batches: {over_settings(found)}. In "
        "brackets are the least and the greatest of them. Without numba a single kind takes from "
        f"{number(min(shares))} to {number(max(shares))} times the mean.",
        "",
        table(
            [
                "step over step",
                *(f"{batch} rows" for batch in batches),
                *(f"{batch}, without numba" for batch in batches),
            ],
            body,
        ),
        "",
        f"- {code(BATCH_HARD)} is `TripletMarginLoss` on the tuples of `BatchHardMiner`. It is the "
        "hard mining that most people use.",
        "- *Alone* is a miner without a loss.",
        "- A `SyntheticLoss` is compared with its inner loss on the plain batch. It does the work "
        "of that loss too, on more distances.",
        f"- {code(ONE_PRODUCT)} normalises the batch and multiplies it by itself, forward and "
        "backward. It is not the least possible: our search needs no backward of its product.",
        "",
    ]
