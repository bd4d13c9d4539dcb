"""The figure of step times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.steps import cases
from benchmarks.steps.batches import Setting
from benchmarks.steps.results import Comparison

GREYS: Mapping[str, dict[str, Any]] = {
    cases.ONE_PRODUCT: {"color": "0.65", "linestyle": ":"},
    cases.BATCH_HARD: {"color": "0.35", "linestyle": "-"},
    cases.MULTI_SIMILARITY: {"color": "0.5", "linestyle": "--"},
    cases.ALL_TRIPLETS: {"color": "0.5", "linestyle": "-."},
    cases.ORIGINAL: {"color": "0.2", "linestyle": (0, (1, 1))},
}
# Okabe-Ito, told apart by any eye.
COLORS: Mapping[str, str] = {
    cases.LOOP_CONSECUTIVE: "#0072B2",
    cases.LOOP: "#D55E00",
    cases.EXPANSION: "#009E73",
    cases.SYNTHETIC: "#E69F00",
}
STYLES: Mapping[str, dict[str, Any]] = {
    **GREYS,
    **{name: {"color": color} for name, color in COLORS.items()},
}


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights moved apart so that neighbours are ``gap`` apart, each group about its middle."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    groups: list[list[int]] = []
    for i in order:
        groups.append([i])
        while len(groups) > 1 and _bottom(groups[-1], heights, gap) < (
            _bottom(groups[-2], heights, gap) + len(groups[-2]) * gap
        ):
            last = groups.pop()
            groups[-1] += last
    placed = list(heights)
    for group in groups:
        for k, i in enumerate(group):
            placed[i] = _bottom(group, heights, gap) + k * gap
    return placed


def _bottom(group: Sequence[int], heights: Sequence[float], gap: float) -> float:
    return fmean(heights[i] for i in group) - (len(group) - 1) * gap / 2


def draw_step_times(found: Mapping[Setting, Comparison], path: Path) -> None:
    """Times by batch, of the smallest classes measured, each line with its name at its end."""
    per_class = min(s.per_class for s in found)
    chosen = sorted((s for s in found if s.per_class == per_class), key=lambda s: s.batch)
    last = chosen[-1].batch
    figure, axes = plt.subplots(figsize=(7.4, 5.4), dpi=200)
    for name, color in COLORS.items():
        pure = [c[twin] for s in chosen if (twin := cases.without_kernels(name)) in (c := found[s])]
        axes.plot(
            [row.batch for row in pure],
            [row.amount for row in pure],
            color=color,
            linestyle=(0, (5, 2)),
            linewidth=1,
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="rows of the batch",
        ylabel="ms per step, forward and backward",
    )
    ends = []
    for name, style in STYLES.items():
        line = [found[s][name] for s in chosen if name in found[s]]
        if not line:
            continue
        x = [row.batch for row in line]
        low, middle, high = np.transpose([(r.p20_ms, r.median_ms, r.p80_ms) for r in line])
        axes.plot(x, middle, linewidth=2, **style)
        axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
        if x[-1] == last:
            ends.append((name, line[-1].amount))
        else:  # a line that stops early lies above the others
            axes.annotate(
                name,
                (x[-1], line[-1].amount),
                (0, 6),
                textcoords="offset points",
                ha="right",
                va="bottom",
                color=style["color"],
                fontsize=8.5,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
            )
    figure.subplots_adjust(left=0.09, right=0.655, top=0.94, bottom=0.1)
    # Names beside the axes, in its coordinates, so that their distance is one on paper.
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [to_axes.transform((last, amount))[1] for _, amount in ends]
    for (name, amount), height in zip(ends, spread(heights, 0.04), strict=True):
        axes.annotate(
            name,
            (last, amount),
            (1.04, height),
            textcoords="axes fraction",
            color=STYLES[name]["color"],
            fontsize=8.5,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": STYLES[name]["color"],
                "linewidth": 0.7,
                "relpos": (0, 0.5),  # from the middle of the name's left side
            },
        )
    kind, dim = chosen[0].embeddings, chosen[0].dim
    title = f"{kind} embeddings, {dim} dimensions, {per_class} of a class; dashed: without numba"
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xticks([s.batch for s in chosen], [str(s.batch) for s in chosen])
    axes.minorticks_off()
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path)
    plt.close(figure)
