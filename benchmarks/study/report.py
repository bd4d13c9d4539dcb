"""Write the tables of the study's two pages and their figures from what `run.py` measured.

    python -m benchmarks.study.report

The words of `docs/study.md` and `docs/study-details.md` are written by hand. Their tables stand
between `<!-- NAME -->` and `<!-- end -->` and are written here. Intervals are 95 % percentile
bootstraps over seeds; a difference is of trainings with the same seed, so the same batches and
first weights.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, variance

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import bootstrap

from benchmarks.provenance import RESULTS, ROOT
from benchmarks.study.cells import (
    DEFAULT,
    EXPAND,
    IDEAS,
    LOSSES,
    REAL,
    SYNTHESES,
    Cell,
    Setting,
    grid,
    syntheses_of,
)
from benchmarks.study.ledger import (
    FINETUNE,
    HARDNESS,
    IDEA_RUNS,
    STEPS,
    STUDY,
    TUNING,
    TUNING_SEEDS,
    Ledger,
    Row,
    cell_of,
    setting_of,
)
from benchmarks.study.tasks import DATASETS, VARIATIONS

DOCS = ROOT / "docs"
PAGES = ("study.md", "study-details.md")
NO_BREAK = "\N{NO-BREAK SPACE}"  # between the ends of an interval, which stay on one line
COLLAPSED = "†"
NAMES = {
    "hphn": "HPHN",
    "triplet": "triplet",
    "contrastive": "contrastive",
    "multi_similarity": "multi-similarity",
    "n_pair": "N-pair",
    "none": "plain",
    "hard_mining": "hard mining",
    "every_positive": "every positive",
    "class_mates": "class mates",
    "expand": "expand",
    "expansion": "EE",
    "loop_index": "LoOp as miner",
    "loop": "LoOp",
    "warm_up": "warm-up",
    "mixed": "mixed",
    "nearest_4": "4 nearest",
    "consecutive": "consecutive",
    **{
        f"{classes}x{rows}": f"{classes} \N{MULTIPLICATION SIGN} {rows}"
        for classes, rows in ((64, 2), (16, 8), (8, 4), (4, 32))
    },
    "few": "few classes",
    "wrong": "wrong labels",
}
# Okabe and Ito's palette; the marker tells them apart without colour, too.
STYLES = {
    "none": {"color": "#000000", "marker": "o"},
    "hard_mining": {"color": "#999999", "marker": "X"},
    "every_positive": {"color": "#D55E00", "marker": "D"},
    "class_mates": {"color": "#CC79A7", "marker": "P"},
    "expansion": {"color": "#E69F00", "marker": "s"},
    "loop_index": {"color": "#009E73", "marker": "v"},
    "loop": {"color": "#0072B2", "marker": "^"},
}
# The first figure, from top to bottom: synthesis, idea, and what a reader calls it.
TRIPLET_ROWS = {
    ("none", ""): "all triplets",
    ("hard_mining", ""): "batch-hard mining",
    ("every_positive", ""): "every positive (control)",
    ("class_mates", ""): "class mates",
    ("loop_index", ""): "LoOp as miner",
    ("expansion", ""): "EE, synthetic",
    ("loop", ""): "LoOp, synthetic",
    ("loop", "warm_up"): "LoOp after warm-up",
}
Runs = Mapping[Cell, Mapping[int, Row]]  # the rows of a cell by seed


def by_cell(rows: Iterable[Row]) -> Runs:
    """Rows of finished trainings, found by cell and seed."""
    runs: dict[Cell, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        runs[cell_of(row)][int(row["seed"])] = row
    return runs


def column(rows: Mapping[int, Row], name: str) -> list[float]:
    """A score of each seed, in the order of seeds."""
    return [float(rows[seed][name]) for seed in sorted(rows)]


def differences(ours: Mapping[int, Row], theirs: Mapping[int, Row], name: str) -> list[float]:
    """Of a score, for each seed that both have."""
    seeds = sorted(ours.keys() & theirs.keys())
    return [float(ours[seed][name]) - float(theirs[seed][name]) for seed in seeds]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean."""
    if len(set(values)) == 1:
        return values[0], values[0]
    found = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0))
    return found.confidence_interval.low, found.confidence_interval.high


def best_real(runs: Runs, ledger: Ledger, dataset: str, loss: str) -> Cell | None:
    """Of the kinds of real negatives the one with the highest MAP@R on validation classes."""
    cells = [Cell(dataset, loss, synthesis) for synthesis in REAL]
    cells = [cell for cell in cells if cell in runs]
    if not cells:
        return None
    return max(cells, key=lambda cell: max(ledger.validation_scores(cell).values()))


def scores_table(dataset: str, runs: Runs, ledger: Ledger) -> str:
    """Every cell: its setting, scores with intervals, cost and collapsed epochs."""
    steps = {cell_of(row): float(row["over_plain"]) for row in ledger.rows(STEPS)}
    lines = [
        "| loss | negatives | margin, lr | Recall@1 % | MAP@R % | NMI % | step | collapsed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for loss in LOSSES:
        for synthesis in syntheses_of(loss):
            cell = Cell(dataset, loss, synthesis)
            if not (rows := runs.get(cell)):
                continue
            setting = ledger.best_setting(cell)
            scores = [_percent(column(rows, s)) for s in ("recall_at_1", "map_at_r")]
            clustered = all(row["nmi"] for row in rows.values())
            scores.append(_percent(column(rows, "nmi")) if clustered else "")
            collapsed = int(sum(column(rows, "collapsed")))
            cells = (
                *(NAMES[loss], NAMES[synthesis]),
                f"{setting.margin:g}, {setting.learning_rate:g}",
                *scores,
                *(f"{steps[cell]:.2f}" if cell in steps else "", str(collapsed)),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(values: Sequence[float]) -> str:
    low, high = interval(values)
    return f"{100 * fmean(values):.1f} {_ends(f'{100 * low:.1f}', f'{100 * high:.1f}')}"


def _ends(low: str, high: str) -> str:
    return f"[{low},{NO_BREAK}{high}]"


def triplet_table(runs: Runs, ideas: Runs) -> str:
    """The triplet loss: Recall@1 on every positive, and what other negatives have over it."""
    found = {
        d: {name: runs.get(Cell(d, "triplet", name)) for name in SYNTHESES}
        | {"warm_up": ideas.get(Cell(d, "triplet", "loop", "warm_up"))}
        for d in DATASETS
    }
    controls = [found[d]["every_positive"] for d in DATASETS]
    percents = [_percent(column(rows, "recall_at_1")) if rows else "" for rows in controls]
    lines = [
        f"| negatives | {' | '.join(DATASETS)} |",
        "|---|" + "---|" * len(DATASETS),
        f"| **every positive**, Recall@1 % | {' | '.join(percents)} |",
    ]
    rivals = [(name, "every_positive") for name in SYNTHESES if name != "every_positive"]
    for name, rival in (*rivals, ("warm_up", "every_positive"), ("loop", "expansion")):
        cells = [_over(found[d][name], found[d][rival] or {}) for d in DATASETS]
        title = {"warm_up": "LoOp, warm-up"}.get(name, NAMES[name])
        over = "every positive" if rival == "every_positive" else NAMES[rival]
        lines.append(f"| {title} - {over} | {' | '.join(cells)} |")
    return "\n".join(lines)


def contrasts_table(runs: Runs, ledger: Ledger) -> str:
    """Differences of Recall@1 in points to the best real negatives, each with its interval."""
    ours = ("expansion", "loop", "loop_index")
    lines = [
        f"| loss | data | best real | {' | '.join(NAMES[name] for name in ours)} | LoOp - EE |",
        "|---|---|---|" + "---|" * (len(ours) + 1),
    ]
    for loss in LOSSES:
        if loss == "triplet":  # which has a table of its own
            continue
        for dataset in DATASETS:
            real = best_real(runs, ledger, dataset, loss)
            if real is None:
                continue
            rows = {name: runs.get(real._replace(synthesis=name)) for name in ours}
            cells = [_over(found, runs[real]) for found in rows.values()]
            cells.append(_over(rows["loop"], rows["expansion"] or {}))
            lines.append(
                f"| {NAMES[loss]} | {dataset} | {NAMES[real.synthesis]} | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


def variations_table(runs: Runs) -> str:
    """Recall@1 of triplet on every positive, and what others have over it, in each variation."""
    names = [name for name in (*SYNTHESES, EXPAND) if name != "every_positive"]
    rivals = [Cell("", "triplet", name) for name in names]
    rivals += [Cell("", "hphn", name) for name in ("none", "expansion", "loop")]
    control = Cell("", "triplet", "every_positive")
    every = [f"{base}-{name}" for base in DATASETS for name in VARIATIONS]
    varied = [d for d in every if control._replace(dataset=d) in runs]
    titles = [f"{base}, {NAMES[name]}" for base, _, name in (d.partition("-") for d in varied)]
    means = [fmean(column(runs[control._replace(dataset=d)], "recall_at_1")) for d in varied]
    lines = [
        f"| negatives | {' | '.join(titles)} |",
        "|---|" + "---|" * len(varied),
        f"| **triplet, every positive**, % | {' | '.join(f'{100 * mean:.1f}' for mean in means)} |",
    ]
    for rival in rivals:
        cells = [
            _over(runs.get(rival._replace(dataset=d)), runs[control._replace(dataset=d)])
            for d in varied
        ]
        if any(cells):
            title = f"{NAMES[rival.loss]}, {NAMES[rival.synthesis]}"
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _over(rows: Mapping[int, Row] | None, real: Mapping[int, Row]) -> str:
    """A difference, with a mark if any training collapsed on the way; empty if not measured."""
    if not rows or not real:
        return ""
    collapsed = any(value > 0 for value in column(rows, "collapsed"))
    mark = f" {COLLAPSED}" if collapsed else ""
    return points(differences(rows, real, "recall_at_1")) + mark


def points(values: Sequence[float]) -> str:
    """A mean difference in percentage points with its interval; bold if that excludes 0."""
    low, high = (100 * end for end in interval(values))
    text = f"{signed(100 * fmean(values))} {_ends(signed(low), signed(high))}"
    return f"**{text}**" if low > 0 or high < 0 else text


def signed(value: float) -> str:
    """One decimal; what rounds to zero has no sign."""
    text = f"{value:+.1f}"
    return "0.0" if float(text) == 0 else text


def choice_table(ledger: Ledger) -> str:
    """How far chance moves what margins are chosen by, beside what the settings differ in."""
    found: dict[tuple[str, Cell, Setting], list[float]] = defaultdict(list)
    for row in ledger.rows(TUNING):
        cell, setting = cell_of(row), setting_of(row)
        if not cell.idea and setting in grid(cell):
            found[cell.dataset, cell, setting].append(100 * float(row["map_at_r"]))
    lines = [
        "| data | deviation of a training | of the mean | second best setting below the best |",
        "|---|---|---|---|",
    ]
    for dataset in DATASETS:
        of_setting = [values for (name, *_), values in found.items() if name == dataset]
        deviation = fmean(variance(values) for values in of_setting) ** 0.5
        cells = {cell for name, cell, _ in found if name == dataset}
        ranked = [sorted(ledger.validation_scores(cell).values())[-2:] for cell in cells]
        gap = 100 * median(best - second for second, best in ranked)
        of_mean = deviation / len(TUNING_SEEDS) ** 0.5
        lines.append(f"| {dataset} | {deviation:.2f} | {of_mean:.2f} | {gap:.2f} |")
    return "\n".join(lines)


def ideas_table(runs: Runs, ideas: Runs) -> str:
    """What each idea adds to its cell, in points of Recall@1."""
    lines = [
        f"| data | loss | negatives | {' | '.join(NAMES[idea] for idea in IDEAS)} |",
        "|---|---|---|" + "---|" * len(IDEAS),
    ]
    names = sorted(
        {cell[:3] for cell in ideas if cell.idea in IDEAS}, key=lambda name: [*map(_rank, name)]
    )
    for name in names:
        cells = [
            points(differences(ideas[Cell(*name, idea)], runs[Cell(*name)], "recall_at_1"))
            if Cell(*name, idea) in ideas
            else ""
            for idea in IDEAS
        ]
        lines.append(f"| {name[0]} | {NAMES[name[1]]} | {NAMES[name[2]]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rank(name: str) -> int:
    return [*DATASETS, *LOSSES, *SYNTHESES].index(name)


def default_table(runs: Runs, ideas: Runs) -> str:
    """The recommended lines at their margin, and the best cell of each data set at its own."""
    lines = [
        "| data | recommended % | best of all | its Recall@1 % | recommended - best | "
        "recommended - triplet, every positive | collapsed |",
        "|---|---|---|---|---|---|---|",
    ]
    for dataset in DATASETS:
        ours = ideas.get(DEFAULT._replace(dataset=dataset))
        if ours is None:
            continue
        best = max(
            (cell for cell in runs if cell.dataset == dataset),
            key=lambda cell: fmean(column(runs[cell], "recall_at_1")),
        )
        rivals = (runs[best], runs[Cell(dataset, "triplet", "every_positive")])
        over = " | ".join(points(differences(ours, rows, "recall_at_1")) for rows in rivals)
        name = f"{NAMES[best.loss]}, {NAMES[best.synthesis]}"
        cells = [_percent(column(rows, "recall_at_1")) for rows in (ours, runs[best])]
        collapsed = int(sum(column(ours, "collapsed")))
        lines.append(f"| {dataset} | {cells[0]} | {name} | {cells[1]} | {over} | {collapsed} |")
    return "\n".join(lines)


def finetune_table(rows: Sequence[Row]) -> str:
    """Whole encoders: Recall@1 before, at its best and at the end, time and memory, by loss."""
    found: dict[tuple[int, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        found[int(row["classes"]), row["loss"], row["margin"]].append(row)
    lines = [
        "| training classes | loss | margin | seeds | before % | best % | last % | "
        "CPU s a step | peak memory MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (classes, loss, margin), runs in sorted(found.items(), key=lambda item: item[0][:2]):
        scores = [
            _spread([100 * float(run[f"{when}_recall_at_1"]) for run in runs])
            for when in ("before", "best", "last")
        ]
        seconds = fmean(float(run["cpu_seconds_per_step"]) for run in runs)
        memory = max(int(run["peak_memory_mb"]) for run in runs)
        cells = (str(classes or "all 820"), f"`{loss}`", "" if loss == "st-mnrl" else margin)
        lines.append(
            f"| {' | '.join(cells)} | {len(runs)} | {' | '.join(scores)} | {seconds:.2f} | "
            f"{memory} |"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    """A mean, and the least and the greatest of several."""
    mean = f"{fmean(values):.1f}"
    same = max(values) - min(values) < 0.05
    return mean if same else f"{mean} {_ends(f'{min(values):.1f}', f'{max(values):.1f}')}"


def mates_table(epochs: Sequence[Row]) -> str:
    """How much of the lead of synthetic negatives class mates have, and of LoOp's lead EE.

    Of the last epoch on one training batch, means over seeds: the share is
    ``(real - mates) / (real - LoOp)``, what the nearest real negative of a row's class has of the
    lead of the nearest point of a curve. The least and the greatest over the cells of a loss.
    """
    last: dict[Cell, dict[str, Row]] = defaultdict(dict)
    for row in epochs:
        if not row["idea"] and row["hardest_mates"]:
            last[cell_of(row)][row["seed"]] = row
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for cell, rows in last.items():
        real, mates, expansion, loop = (
            fmean(float(row[f"hardest_{kind}"]) for row in rows.values())
            for kind in ("real", "mates", "expansion", "loop")
        )
        found[cell.dataset, cell.loss].append(
            (100 * (real - mates) / (real - loop), 100 * (expansion / loop - 1))
        )
    lines = [
        "| data | loss | kinds of negatives | share of class mates, % | EE farther than LoOp, % |",
        "|---|---|---|---|---|",
    ]
    for dataset in DATASETS:
        for loss in LOSSES:
            if measured := found[dataset, loss]:
                shares, farther = zip(*measured, strict=True)
                lines.append(
                    f"| {dataset} | {NAMES[loss]} | {len(measured)} | "
                    f"{_range(shares, 0)} | {_range(farther, 1)} |"
                )
    return "\n".join(lines)


def _range(values: Sequence[float], digits: int) -> str:
    low, high = (f"{end:.{digits}f}" for end in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def draw_triplet(runs: Runs, ideas: Runs) -> plt.Figure:
    """Recall@1 of the triplet loss by kind of negatives, every positive marked, by data set."""
    figure, panels = plt.subplots(
        1, len(DATASETS), figsize=(7.4, 3.7), sharey=True, layout="constrained"
    )
    for panel, dataset in zip(panels, DATASETS, strict=True):
        for place, (synthesis, idea) in enumerate(TRIPLET_ROWS):
            rows = (ideas if idea else runs).get(Cell(dataset, "triplet", synthesis, idea))
            if not rows:
                panel.text(
                    0.5,
                    place,
                    "not run",
                    ha="center",
                    va="center",
                    color="0.5",
                    fontsize=9,
                    transform=panel.get_yaxis_transform(),
                )
                continue
            values = [100 * value for value in column(rows, "recall_at_1")]
            mean, (low, high) = fmean(values), interval(values)
            if synthesis == "every_positive":
                panel.axvspan(low, high, color=STYLES[synthesis]["color"], alpha=0.15, linewidth=0)
                panel.axvline(mean, color=STYLES[synthesis]["color"], linewidth=0.8)
            error = [[mean - low], [high - mean]]
            panel.errorbar([mean], [place], xerr=error, markersize=7, **STYLES[synthesis])
        panel.set_title(dataset)
        panel.set_xlabel("Recall@1, %")
        panel.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4, steps=(1, 5, 10)))
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(TRIPLET_ROWS)), list(TRIPLET_ROWS.values()))
    panels[0].invert_yaxis()
    return figure


def draw_recall(runs: Runs) -> plt.Figure:
    """Recall@1 of every cell with its interval, a panel for each data set."""
    figure, panels = plt.subplots(len(DATASETS), 1, figsize=(7.4, 9), layout="constrained")
    for panel, dataset in zip(panels, DATASETS, strict=True):
        for i, synthesis in enumerate(SYNTHESES):
            found = [runs.get(Cell(dataset, loss, synthesis)) for loss in LOSSES]
            places = [k for k, rows in enumerate(found) if rows]
            values = [[100 * x for x in column(rows, "recall_at_1")] for rows in found if rows]
            if not values:
                continue
            means = np.array([fmean(v) for v in values])
            ends = np.array([interval(v) for v in values]).T
            panel.errorbar(
                np.array(places) + 0.1 * (i - (len(SYNTHESES) - 1) / 2),
                means,
                abs(ends - means),
                linestyle="none",
                label=NAMES[synthesis],
                **STYLES[synthesis],
            )
        panel.set_xticks(range(len(LOSSES)), [NAMES[loss] for loss in LOSSES])
        panel.set_xlim(-0.6, len(LOSSES) - 0.4)
        panel.set_title(dataset)
        panel.set_ylabel("Recall@1, %")
        panel.grid(axis="y", alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_hardness(epochs: Sequence[Row], dataset: str = "glyphs") -> plt.Figure:
    """Distance to the nearest real and the nearest LoOp negative over a training, by loss."""
    found: dict[tuple[str, str, int], list[tuple[float, float]]] = defaultdict(list)
    for row in epochs:
        if row["dataset"] == dataset and not row["idea"]:
            found[row["loss"], row["synthesis"], int(row["epoch"])].append(
                (float(row["hardest_real"]), float(row["hardest_loop"]))
            )
    figure, grid_of_panels = plt.subplots(
        2, 3, figsize=(7.4, 5.2), sharex=True, sharey=True, layout="constrained"
    )
    *panels, legend = grid_of_panels.flat
    last = max(epoch for *_, epoch in found)
    for panel, loss in zip(panels, LOSSES, strict=True):
        for synthesis in ("none", "hard_mining", "expansion", "loop_index", "loop"):
            curves = np.array(
                [np.mean(found[loss, synthesis, epoch], axis=0) for epoch in range(1, last + 1)]
            )
            style = {**STYLES[synthesis], "markersize": 3.5}
            panel.plot(range(1, last + 1), curves[:, 0], label=NAMES[synthesis], **style)
            panel.plot(range(1, last + 1), curves[:, 1], color=style["color"], linestyle=":")
        panel.set_title(NAMES[loss])
        panel.grid(alpha=0.3)
    for panel in panels[2:]:
        panel.set_xlabel("epoch")
        panel.tick_params(labelbottom=True)
    figure.supylabel("distance to the hardest negative", fontsize="medium")
    legend.axis("off")
    legend.legend(*panels[0].get_legend_handles_labels(), loc="center")
    return figure


def tables(ledger: Ledger) -> dict[str, Callable[[], str]]:
    """Each table of the pages by its name."""
    runs, ideas = by_cell(ledger.rows(STUDY)), by_cell(ledger.rows(IDEA_RUNS))
    made: dict[str, Callable[[], str]] = {
        "choice": lambda: choice_table(ledger),
        "ideas": lambda: ideas_table(runs, ideas),
        "default": lambda: default_table(runs, ideas),
        "finetune": lambda: finetune_table(ledger.rows(FINETUNE)),
        "variations": lambda: variations_table(runs),
        "mates": lambda: mates_table(ledger.rows(HARDNESS)),
        "triplet": lambda: triplet_table(runs, ideas),
        "contrasts": lambda: contrasts_table(runs, ledger),
    }
    for dataset in DATASETS:
        made[f"scores-{dataset}"] = lambda d=dataset: scores_table(d, runs, ledger)
    return made


def fill(page: str, made: Mapping[str, Callable[[], str]]) -> str:
    """The page with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n\n{made[match[1]]()}\n\n<!-- end -->"

    return re.sub(r"<!-- ([a-z-]+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def main(argv: Sequence[str] | None = None) -> None:
    """Write tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the pages")
    options = parser.parse_args(argv)
    ledger = Ledger(options.results)
    made = tables(ledger)
    for name in PAGES:
        page = options.docs / name
        page.write_text(fill(page.read_text(), made))
    runs, ideas = by_cell(ledger.rows(STUDY)), by_cell(ledger.rows(IDEA_RUNS))
    figures = {
        "study": draw_triplet(runs, ideas),
        "study_losses": draw_recall(runs),
        "study_hardness": draw_hardness(ledger.rows(HARDNESS)),
    }
    for name, figure in figures.items():
        figure.savefig(options.docs / "figures" / f"{name}.png", dpi=200)


if __name__ == "__main__":
    main()
