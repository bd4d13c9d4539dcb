"""Make `docs/benchmarks.md` and its first figure from the rows that `run.py` wrote.

    python -m benchmarks.steps.report

Every number and every verdict in that page is computed here. Where a comparison was measured more
than once the last counts. Targets are the rows of `targets.csv`: a part of the results
("targets", "original" or "memory"), what is measured ("time" or "memory"), a case, the yardstick it
is divided by, a batch, and the largest mean ratio that is good enough.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from math import ceil, exp, log
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from benchmarks.provenance import RESULTS, ROOT
from benchmarks.steps import cases
from benchmarks.steps.batches import Setting
from benchmarks.steps.cases import BATCH_HARD, CASES, FLOOR, ON_SYNTHETIC, SYNTHETIC
from benchmarks.steps.figures import draw_step_times
from benchmarks.steps.gate import ROWS
from benchmarks.steps.results import Comparison, Row, comparisons, read
from benchmarks.steps.suites import ON_ANY_EMBEDDINGS

PAGE = ROOT / "docs" / "benchmarks.md"
TARGETS_FILE = Path(__file__).with_name("targets.csv")


class Ratio(NamedTuple):
    """A case over a yardstick."""

    case: str
    over: str


OF_BATCH = (cases.LOOP_CONSECUTIVE, cases.LOOP, cases.EXPANSION, cases.INDEX_MINER)
HELD_TO = (
    *(Ratio(case, BATCH_HARD) for case in OF_BATCH),
    *(Ratio(case, FLOOR) for case in OF_BATCH),
    Ratio(SYNTHETIC, ON_SYNTHETIC),
)


# --- rows --------------------------------------------------------------------------------------


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive numbers; NaN of none."""
    logs = [log(value) for value in values]
    return exp(fmean(logs)) if logs else float("nan")


def mean_ratio(ratio: Ratio, found: Iterable[Comparison]) -> float:
    """The geometric mean over the comparisons that have both."""
    pairs = [(c[ratio.case], c[ratio.over]) for c in found if {*ratio} <= c.keys()]
    return geometric_mean(case.amount / over.amount for case, over in pairs if over.amount > 0)


def grouped(
    found: Mapping[Setting, Comparison], key: Callable[[Setting], Any]
) -> dict[Any, list[Comparison]]:
    """Comparisons by something of their setting, in its order."""
    settings = sorted(found, key=key)
    return {k: [found[s] for s in group] for k, group in groupby(settings, key)}


# --- text --------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Two or three digits; nothing where there is no value."""
    if np.isnan(value):
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(head: Sequence[object], lines: Iterable[Sequence[object]]) -> str:
    """In Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def listed(values: Iterable[object]) -> str:
    """1, 2 and 3."""
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}" if most else last


def over_settings(found: Iterable[Setting]) -> str:
    """What a mean is over."""
    settings = list(found)
    dims = listed(sorted({s.dim for s in settings}))
    classes = listed(sorted({s.per_class for s in settings}))
    kinds = listed(dict.fromkeys(s.embeddings for s in settings))
    return f"{dims} dimensions, {classes} per class and {kinds} embeddings"


def source(found: Mapping[Setting, Comparison]) -> str:
    """Which code, on which machine."""
    rows = [row for comparison in found.values() for row in comparison.values()]

    def of(*names: str) -> str:
        return listed(sorted({" ".join(str(getattr(row, n)) for n in names) for row in rows}))

    return (
        f"Commit {of('commit')}, {min(row.date for row in rows)[:10]}; {of('cpu')}, "
        f"{of('cores')} cores, {of('threads')} thread(s), {of('platform')}; Python {of('python')}, "
        f"torch {of('torch')}, pytorch-metric-learning {of('pml')}, loopml {of('loopml')}."
    )


# --- sections ----------------------------------------------------------------------------------


def verdict(ratio: Ratio, means: Mapping[int, float]) -> str:
    """Where a case takes less time than its yardstick and where more."""
    parts = []
    for word, holds in (("faster", lambda x: x < 1), ("slower", lambda x: x >= 1)):
        at = {batch: value for batch, value in means.items() if holds(value)}
        if at:
            factors = listed(f"{number(value)} at batch {batch}" for batch, value in at.items())
            parts.append(f"{word}, its time times {factors}")
    return f"- `{ratio.case}`: {'; '.join(parts)}."


def targets_section(rows: Sequence[Row], file: Path) -> list[str]:
    """Which targets are met and which are missed."""
    with file.open(newline="") as lines:
        targets = list(csv.DictReader(lines))
    body = []
    for target in targets:
        ratio, batch = Ratio(target["case"], target["over"]), int(target["batch"])
        found = comparisons(rows, target["part"], target["measure"])
        mean = mean_ratio(ratio, (c for s, c in found.items() if s.batch == batch))
        if not np.isnan(mean):
            met = mean <= float(target["at_most"])
            result = "met" if met else "**missed**"
            body.append([target["measure"], *ratio, batch, target["at_most"], number(mean), result])
    if not body:
        return []
    missed = sum(line[-1] != "met" for line in body)
    return [
        "## Targets",
        "",
        f"{missed} of {len(body)} are missed. Ratios are geometric means over the settings of the "
        "sections below.",
        "",
        table(["of", "step", "over", "batch", "at most", "measured", ""], body),
        "",
    ]


def ratios_section(rows: Sequence[Row]) -> list[str]:
    """The ratios that the library is held to."""
    found = comparisons(rows, "targets", "time")
    if not found:
        return []
    by_batch = grouped(found, lambda s: s.batch)
    means = {r: {b: mean_ratio(r, c) for b, c in by_batch.items()} for r in HELD_TO}
    body = [
        [ratio.case, ratio.over, *map(number, of_batch.values())]
        for ratio, of_batch in means.items()
    ]
    each = len(found) // len(by_batch)
    return [
        "## Steps over hard mining and over the floor",
        "",
        "Time of forward and backward over that of the yardstick in the same interleaved run; "
        f"geometric mean of {each} settings: {over_settings(found)}.",
        "",
        table(["step", "over", *(f"batch {b}" for b in by_batch)], body),
        "",
        f"Against `{BATCH_HARD}`:",
        "",
        *(verdict(ratio, means[ratio]) for ratio in HELD_TO if ratio.over == BATCH_HARD),
        "",
        source(found),
        "",
    ]


def original_section(rows: Sequence[Row]) -> list[str]:
    """The transcription over ours: time and memory."""
    lines = []
    sources = []
    ratio = Ratio(cases.ORIGINAL, cases.LOOP_CONSECUTIVE)
    for measure, unit in (("time", "ms"), ("memory", "MB")):
        found = comparisons(rows, "original", measure)
        sources += [source(found)] if found else []
        for setting, comparison in found.items():
            theirs, ours = (comparison[case] for case in ratio)
            lines.append(
                [
                    measure,
                    str(setting),
                    f"{number(theirs.amount)} {unit}",
                    f"{number(ours.amount)} {unit}",
                    number(theirs.amount / ours.amount) if ours.amount > 0 else "",
                ]
            )
    if not lines:
        return []
    return [
        "## The papers' algorithm over ours",
        "",
        "The official code is for a retired framework. `benchmarks/steps/original.py` follows its "
        "algorithm in PyTorch (every pair of pairs in d dimensions, ten candidates, autograd "
        "through them) without its Python loops, so that it is a lower bound. Against "
        f"`{cases.LOOP_CONSECUTIVE}`:",
        "",
        table(["", "batch", "theirs, transcribed", "ours", "ratio"], lines),
        "",
        *dict.fromkeys(sources),
        "",
    ]


def fit(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent e of y ~ x^e: least squares of logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def growth(found: Iterable[Comparison], name: str) -> str:
    """The exponent over pairs and their range, on the upper half of the sizes of a case."""
    rows = sorted((c[name] for c in found if name in c), key=lambda row: row.pairs)
    rows = rows[-max(3, ceil(len(rows) / 2)) :]
    if len({row.pairs for row in rows}) < 3:
        return ""
    exponent = fit([row.pairs for row in rows], [row.amount for row in rows])
    return f"{exponent:.2f} ({rows[0].pairs} to {rows[-1].pairs})"


def scaling_section(rows: Sequence[Row], figure: str) -> list[str]:
    """How times grow."""
    batch, pairs = comparisons(rows, "batch", "time"), comparisons(rows, "pairs", "time")
    if not batch:
        return []
    columns = {
        f"batches, {per_class} a class": found
        for per_class, found in grouped(batch, lambda s: s.per_class).items()
    } | {
        f"classes, in batches of {size}": found
        for size, found in grouped(pairs, lambda s: s.batch).items()
    }
    body = [[name, *(growth(found, name) for found in columns.values())] for name in CASES]
    return [
        "## Growth",
        "",
        f"![Time of a step by batch size, ours in colour, PML and the floor in grey]({figure})",
        "",
        "The exponent e in time ~ p^e, in brackets the range of p, the positive pairs of a batch: "
        "least squares of logarithms over the upper half of the sizes, where fixed costs no longer "
        "count. Either batches grow, and with them the pairs, or the classes within a batch.",
        "",
        table(["step", *columns], body),
        "",
        source({**batch, **pairs}),
        "",
    ]


def embeddings_section(rows: Sequence[Row]) -> list[str]:
    """Whether it matters what the embeddings are."""
    found = comparisons(rows, "embeddings", "time")
    if not found:
        return []
    columns: dict[str, list[Comparison]] = {}
    for key in (lambda s: s.embeddings, lambda s: f"{s.dim}-d", lambda s: f"{s.per_class} a class"):
        columns |= grouped(found, key)
    body = [
        [name, *(number(mean_ratio(Ratio(name, BATCH_HARD), c)) for c in columns.values())]
        for name in ON_ANY_EMBEDDINGS
        if name != BATCH_HARD
    ]
    batches = listed(sorted({s.batch for s in found}))
    return [
        "## Every step, by what the batch is like",
        "",
        f"Over `{BATCH_HARD}`; geometric means over what a column does not name, among batches of "
        f"{batches}, {over_settings(found)}.",
        "",
        table(["step", *columns], body),
        "",
        source(found),
        "",
    ]


def memory_section(rows: Sequence[Row]) -> list[str]:
    """Peaks of one step."""
    found = comparisons(rows, "memory", "memory")
    if not found:
        return []
    columns = sorted(found, key=lambda s: (s.dim, s.per_class))
    body = []
    for name in dict.fromkeys(name for comparison in found.values() for name in comparison):
        cells = []
        for setting in columns:
            row = found[setting].get(name)
            ratios = [f"{number(x)}x" for x in (row.over_floor, row.over_pml) if x] if row else []
            cells.append(f"{number(row.amount)} ({', '.join(ratios)})" if row else "")
        body.append([name, *cells])
    sizes = listed(sorted({s.batch for s in found}))
    head = [f"{s.dim}-d, {s.per_class} a class" for s in columns]
    return [
        "## Memory",
        "",
        f"How far one step raises the peak of a fresh process, in MB, at batch {sizes}, and in "
        f"brackets over the floor and over `{BATCH_HARD}`. With more of a class the pairs grow in "
        "the same batch.",
        "",
        table(["step", *head], body),
        "",
        source(found),
        "",
    ]


def calls_section(file: Path, rows: Sequence[Row]) -> list[str]:
    """What small batches spend their time on."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        calls = list(csv.DictReader(lines))
    small = calls[0]
    setting = Setting(int(small["batch"]), int(small["dim"]), int(small["per_class"]), "random")
    times = comparisons(rows, "batch", "time").get(setting, {})
    body = []
    for row in calls:
        n = int(row["forward"]) + int(row["backward"])
        each = f"{1e3 * times[row['case']].amount / n:.1f}" if row["case"] in times else ""
        body.append([row["case"], row["forward"], row["backward"], each])
    return [
        "## Calls",
        "",
        f"A batch of {setting.batch} takes no longer than its calls of PyTorch operators: a step "
        "costs their number times a few microseconds, whatever they compute. That is what stands "
        "between us and the targets for small batches.",
        "",
        table(["step", "calls forward", "backward", "µs per call"], body),
        "",
        f"{setting}; commit {small['commit']}; `python -m benchmarks.steps.calls`.",
        "",
    ]


def conditioning_section(file: Path, figure: str) -> list[str]:
    """Errors near contact."""
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    marks = ("1", "0.01", "0.0001", "1e-06", "1e-08")
    body: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        key = (f"{row['curve']}s", row["method"], row["dtype"])
        body.setdefault(key, {})[row["separation"]] = f"{float(row['median_error']):.0e}"
    return [
        "## Accuracy where curves nearly touch",
        "",
        f"![Relative error of distances by true distance, in float32 and float64]({figure})",
        "",
        "Median error of the distance over the distance, against a search in extended precision on "
        f"the same rounded inputs, {rows[0]['problems']} pairs of curves each. An error of 1 is a "
        "distance read as 0.",
        "",
        table(
            ["curves", "distance", "dtype", *(f"{m} apart" for m in marks)],
            ([*key, *(cells.get(mark, "") for mark in marks)] for key, cells in body.items()),
        ),
        "",
        f"Commit {rows[0]['commit']}, {rows[0]['date'][:10]}; "
        "`python -m benchmarks.accuracy.conditioning`.",
        "",
    ]


# --- the page ----------------------------------------------------------------------------------


def page(rows: Sequence[Row], targets: Path, calls: Path, conditioning: Path, figures: str) -> str:
    """All sections that there are rows for."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m benchmarks.steps.report` from the files in `benchmarks/results`, "
        "which are written by",
        "",
        "```bash",
        "run='python -m benchmarks.steps.run --output benchmarks/results/steps.csv'",
        "$run --suite targets --budget 5",
        "$run --suite memory",
        "$run --suite scaling --batch 32 64 128 256 512 1024 2048 --budget 3",
        "$run --suite scaling --batch 4096 8192 --per-class 2 --budget 1",
        "$run --suite embeddings --batch 128 --dim 128 512 --budget 2",
        "python -m benchmarks.steps.calls",
        "python -m benchmarks.accuracy.conditioning",
        "```",
        "",
        "Cases that are compared take turns in one process. No time is taken before each loss has "
        f"the right value on the first {ROWS} rows of that very batch, and a finite gradient on "
        "all of it. Times are medians; they depend on the machine and its load, their ratios much "
        "less. A ratio above 1 is a step slower than its yardstick. "
        f"`{BATCH_HARD}` is `TripletMarginLoss` with `BatchHardMiner` of pytorch-metric-learning "
        f"(PML); the {FLOOR} is normalising the batch, one product of it with itself, and the "
        "backward of both.",
        "",
        *targets_section(rows, targets),
        *ratios_section(rows),
        *original_section(rows),
        *calls_section(calls, rows),
        *scaling_section(rows, f"{figures}/step_time.png"),
        *embeddings_section(rows),
        *memory_section(rows),
        *conditioning_section(conditioning, f"{figures}/conditioning.png"),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and its figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, default=RESULTS / "steps.csv")
    parser.add_argument("--calls", type=Path, default=RESULTS / "calls.csv")
    parser.add_argument("--conditioning", type=Path, default=RESULTS / "conditioning.csv")
    parser.add_argument("--targets", type=Path, default=TARGETS_FILE)
    parser.add_argument("--output", type=Path, default=PAGE)
    parser.add_argument("--figures", type=Path, default=PAGE.parent / "figures")
    options = parser.parse_args(arguments)
    rows = read(options.input)
    figures = os.path.relpath(options.figures, options.output.parent)
    options.output.write_text(
        page(rows, options.targets, options.calls, options.conditioning, figures)
    )
    times = comparisons(rows, "batch", "time")
    if times:
        draw_step_times(times, options.figures / "step_time.png")


if __name__ == "__main__":
    main()
