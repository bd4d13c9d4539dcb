"""Draw the picture of the README: one pair of each of two classes, as three methods see them.

Run ``python docs/figures/idea.py`` from the root of the repository; it writes ``idea.png`` beside
itself. Needs matplotlib (extra ``examples``).
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from torch import Tensor
from torch.nn.functional import normalize

from loopml.geometry import closest_on_arcs

POSITIVE, NEGATIVE = "#0072B2", "#D55E00"  # Okabe-Ito blue and vermillion
# x to the right, y up, z towards the reader; two samples of a class, then two of another.
ENDPOINTS = normalize(
    torch.tensor(
        [[-0.66, -0.51, 0.55], [0.62, -0.25, 0.75], [-0.38, 0.67, 0.64], [-0.05, -0.12, 0.99]],
        dtype=torch.float64,
    )
)
SAMPLES = (("a", "DejaVu Sans"), ("a", "STIXGeneral"), ("g", "DejaVu Sans"), ("g", "STIXGeneral"))
BESIDE = ((-0.14, 0.14), (0.14, 0.14), (-0.22, -0.02), (-0.22, 0.0))  # of its letter


def between(a: Tensor, b: Tensor, n: int) -> Tensor:
    """Both ends of an arc and n points between them, as Embedding Expansion has them."""
    t = torch.linspace(0, 1, n + 2, dtype=torch.float64).unsqueeze(1)
    return normalize((1 - t) * a + t * b)


def nearest(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest two points of two sets."""
    return min(product(p, q), key=lambda pair: float((pair[0] - pair[1]).norm()))


def draw_sphere(axes: Axes) -> None:
    """The outline, and the front of some circles of latitude and longitude."""
    angle = torch.linspace(0, torch.pi, 100)
    across, up = angle.cos(), angle.sin()
    for level in torch.linspace(-0.75, 0.75, 5):
        axes.plot(across * (1 - level**2).sqrt(), level.expand(100), color="0.9", linewidth=0.8)
        axes.plot(up * level / 0.75, across, color="0.9", linewidth=0.8)
    axes.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.75", linewidth=0.8))


def draw_samples(axes: Axes) -> None:
    """The four samples: the points and what they are embeddings of."""
    for row, ((letter, font), shift) in enumerate(zip(SAMPLES, BESIDE, strict=True)):
        color, marker = (POSITIVE, "o") if row < 2 else (NEGATIVE, "s")
        x, y = ENDPOINTS[row, :2].tolist()
        axes.plot(x, y, marker, color=color, markersize=9, markeredgecolor="white", zorder=5)
        style = "italic" if font.startswith("STIX") else "normal"
        axes.text(
            *(x + shift[0], y + shift[1], letter),
            color=color,
            family=font,
            style=style,
            size=21,
            ha="center",
            va="center",
        )


def main() -> None:
    """Write the picture."""
    p0, p1, q0, q1 = ENDPOINTS
    best = closest_on_arcs(p0, p1, q0, q1)
    panels = (
        ("Mining", "compares the samples", nearest(ENDPOINTS[:2], ENDPOINTS[2:])),
        (
            "Embedding Expansion",
            "adds points between them",
            nearest(between(p0, p1, 2), between(q0, q1, 2)),
        ),
        ("LoOp", "takes the whole curves", (best.point_p, best.point_q)),
    )
    figure, all_axes = plt.subplots(1, 3, figsize=(8, 3.55), dpi=200)
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.1, top=0.83, wspace=0.02)
    for axes, (name, does, (z_p, z_n)) in zip(all_axes, panels, strict=True):
        draw_sphere(axes)
        for ends, color in (((p0, p1), POSITIVE), ((q0, q1), NEGATIVE)):
            if name == "LoOp":
                axes.plot(*between(*ends, 98)[:, :2].T, color=color, linewidth=3.5)
            elif name == "Embedding Expansion":
                inner = between(*ends, 2)[1:-1, :2].T
                axes.plot(*inner, "D", color="white", markersize=7, markeredgecolor=color, mew=2)
        x, y, _ = torch.stack([z_p, z_n]).T
        axes.plot(x, y, "k--", linewidth=2, zorder=6)
        axes.plot(x, y, "k.", markersize=9, zorder=7)
        axes.annotate(
            f"{(z_p - z_n).norm():.2f}",
            (float(x.mean()), float(y.mean())),
            (-20, 7) if name == "Mining" else (8, 3),
            textcoords="offset points",
            size=14,
            weight="bold",
            path_effects=[withStroke(linewidth=4, foreground="white")],
            zorder=8,
        )
        draw_samples(axes)
        axes.set_title(does, size=11, pad=3)
        axes.text(0.5, 1.13, name, size=13, weight="bold", ha="center", transform=axes.transAxes)
        axes.set(aspect="equal", xlim=(-1.03, 1.03), ylim=(-1.03, 1.03))
        axes.axis("off")
    handles = [
        plt.Line2D([], [], color=POSITIVE, marker="o", linestyle="", markersize=8),
        plt.Line2D([], [], color=NEGATIVE, marker="s", linestyle="", markersize=8),
        plt.Line2D([], [], color="black", linestyle="--", marker=".", linewidth=2),
    ]
    names = [
        "positive pair (class a)",
        "negative pair (class g)",
        "distance to the hardest negative",
    ]
    figure.legend(
        handles,
        names,
        loc="lower center",
        ncols=3,
        frameon=False,
        fontsize=11,
        borderaxespad=0.2,
        columnspacing=1.2,
        handletextpad=0.5,
    )
    figure.savefig(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
