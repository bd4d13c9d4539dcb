"""Time: the figure of growth, and the table of ratios."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.steps.batches import Setting
from benchmarks.steps.cases import BATCH_HARD, ONE_PRODUCT
from benchmarks.steps.report.markdown import code, listed, number, source, table
from benchmarks.steps.report.ratios import OVER_ONE_PRODUCT, RATIOS, by_batch
from benchmarks.steps.results import Row, comparisons, rows_of


def over_settings(found: Iterable[Setting]) -> str:
    """What a mean is over."""
    settings = list(found)
    dims = listed(sorted({s.dim for s in settings}))
    classes = listed(sorted({s.per_class for s in settings}))
    kinds = listed(dict.fromkeys(s.embeddings for s in settings))
    return f"{dims} dimensions, {classes} rows per class and {kinds} embeddings"


def growth_section(rows: Sequence[Row], figure: str) -> list[str]:
    """How times grow with the batch."""
    found = comparisons(rows, "growth", "time")
    if not found:
        return []
    return [
        "## Growth",
        "",
        f"![Time of a step by batch size, ours in colour, others in grey]({figure})",
        "",
        "Forward and backward of the loss, without the net. Ours is in colour: solid lines with "
        "numba, dashed ones without. What is not ours is in grey. Bands hold the middle 60 % of "
        "the rounds. A line ends where memory would run out.",
        "",
        source(rows_of(found), "growth"),
        "",
    ]


def ratios_section(rows: Sequence[Row]) -> list[str]:
    """The ratios, with and without numba."""
    found = comparisons(rows, "table", "time")
    if not found:
        return []
    batches = sorted({s.batch for s in found})
    body = []
    for ratio in (*RATIOS, *OVER_ONE_PRODUCT):
        means = (by_batch(r, found) for r in (ratio, ratio.without_kernels()))
        cells = [number(mean) for of_batch in means for mean in of_batch.values()]
        body.append([*map(code, ratio), *cells])
    each = len(found) // len(batches)
    return [
        "## Time",
        "",
        "The time of our step over the time of another. Below 1 ours is faster, above 1 it is "
        f"slower. Each number is a geometric mean over {each} kinds of batches: "
        f"{over_settings(found)}.",
        "",
        table(
            [
                "step",
                "over",
                *(f"batch {batch}" for batch in batches),
                *(f"{batch}, without numba" for batch in batches),
            ],
            body,
        ),
        "",
        f"- {code(BATCH_HARD)} is `TripletMarginLoss` on the tuples of `BatchHardMiner`. It is the "
        "hard mining that most people use, and the nearest thing to HPHN on real rows.",
        "- *Alone* is a miner without the loss after it.",
        "- A `SyntheticLoss` is compared with its inner loss on the plain batch. It does the work "
        "of that loss, too, on more distances.",
        f"- {code(ONE_PRODUCT)} normalises the batch and multiplies it by itself, forward and "
        "backward. Ours can take less: the search is a product without a backward.",
        "",
        source(rows_of(found), "table"),
        "",
    ]
