"""Draw the picture of the README: two arcs on a sphere and the nearest points of each method.

Run ``python docs/figures/idea.py`` from the root of the repository; it writes ``idea.png`` beside
itself. Needs matplotlib (extra ``examples``).
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from loopml.geometry import closest_on_arcs

POSITIVE, NEGATIVE = "#0072B2", "#D55E00"  # Okabe-Ito blue and vermillion
ENDPOINTS = normalize(
    torch.tensor(
        [[-0.62, -0.75, -0.30], [0.65, -0.72, 0.02], [-0.40, -0.45, 0.95], [0.02, -0.95, 0.22]],
        dtype=torch.float64,
    )
)


def arc(a: Tensor, b: Tensor, fractions: Tensor) -> Tensor:
    """Points at ``fractions`` of the angle of the arc from ``a`` to ``b``."""
    angle = torch.arccos(a @ b)
    weights = torch.stack([torch.sin((1 - fractions) * angle), torch.sin(fractions * angle)])
    return (weights / torch.sin(angle)).T @ torch.stack([a, b])


def expanded(a: Tensor, b: Tensor, n: int) -> Tensor:
    """Both ends and the n points of Embedding Expansion between them."""
    t = torch.linspace(0, 1, n + 2, dtype=torch.float64).unsqueeze(1)
    return normalize((1 - t) * a + t * b)


def nearest(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest two points of two sets."""
    return min(product(p, q), key=lambda pair: float((pair[0] - pair[1]).norm()))


def main() -> None:
    """Write the picture."""
    p0, p1, q0, q1 = ENDPOINTS
    best = closest_on_arcs(p0, p1, q0, q1)
    chosen = {
        "endpoints (mining)": (*nearest(torch.stack([p0, p1]), torch.stack([q0, q1])), ":", "0.35"),
        "Embedding Expansion, n = 2": (
            *nearest(expanded(p0, p1, 2), expanded(q0, q1, 2)),
            "--",
            "#009E73",
        ),
        "LoOp (exact)": (best.point_p, best.point_q, "-", "black"),
    }

    figure = plt.figure(figsize=(8.2, 4.6), dpi=150)
    axes = figure.add_axes((-0.08, -0.1, 0.74, 1.2), projection="3d")
    azimuth, polar = np.mgrid[0 : 2 * np.pi : 49j, 0 : np.pi : 25j]
    sphere = (
        np.cos(azimuth) * np.sin(polar),
        np.sin(azimuth) * np.sin(polar),
        np.cos(polar),
    )
    axes.plot_wireframe(*(0.985 * x for x in sphere), color="0.86", linewidth=0.4)
    line = torch.linspace(0, 1, 100, dtype=torch.float64)
    for ends, color, name in (((p0, p1), POSITIVE, "positive"), ((q0, q1), NEGATIVE, "negative")):
        axes.plot(*arc(*ends, line).T, color=color, linewidth=2.2)
        inner = expanded(*ends, 2)[1:-1]
        axes.scatter(*inner.T, color=color, s=34, marker="D", edgecolor="white", depthshade=False)
        axes.scatter(
            *torch.stack(ends).T,
            color=color,
            s=52,
            edgecolor="white",
            depthshade=False,
            label=f"{name} pair",
        )
    axes.scatter([], [], [], color="0.5", marker="D", s=34, label="points of the expansion")
    for name, (a, b, style, color) in chosen.items():
        distance = float((a - b).norm())
        label = f"{name}: {distance:.3f}"
        axes.plot(*torch.stack([a, b]).T, style, color=color, linewidth=2, label=label, zorder=9)
    axes.set_box_aspect((1, 1, 1))
    axes.view_init(elev=12, azim=-86)
    axes.set_xlim(-0.8, 0.8)
    axes.set_ylim(-0.8, 0.8)
    axes.set_zlim(-0.8, 0.8)
    axes.set_axis_off()
    figure.legend(loc="center right", frameon=False, fontsize=9, title="distance to the negative")
    figure.savefig(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
