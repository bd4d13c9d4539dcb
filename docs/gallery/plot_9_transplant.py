r"""How a synthetic negative is carried to an anchor
================================================

A rotation takes a point of the positive curve to the anchor, and the negative goes with it.

The nearest points of two curves are :math:`z_p` on the curve of the positive pair :math:`(a, p)`
and :math:`z_n` on the curve of the negative pair. Neither is a row of the batch. A loss compares
rows: it reads the distance from the row :math:`a` to another row. So the library rotates the sphere
until :math:`z_p` lies on :math:`a`. That moves :math:`z_n` to :math:`n'`, and :math:`n'` is the row
that ``LoOpMiner().synthesize`` adds. In this picture :math:`z_n` is an end of its curve. It may
also lie inside.

**What to see:** a rotation keeps angles. So the angle from :math:`a` to :math:`n'` is the angle
from :math:`z_p` to :math:`z_n`. A loss that reads the distance from :math:`a` to :math:`n'` reads
the distance of the two curves. :doc:`/concepts/transplant` has the formula.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.patheffects import withStroke
from torch.nn.functional import normalize

from loopml import LoOpMiner
from loopml.geometry import closest_on_arcs

BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito
rows = normalize(
    torch.tensor([[-0.62, -0.5, 0.6], [0.85, -0.3, 0.45], [0.28, 0.12, 0.95], [0.5, 0.75, 0.42]])
)
a, p, n1, n2 = rows
labels = torch.tensor([0, 0, 1, 1])

best = closest_on_arcs(*rows)
z_p, z_n = best.point_p, best.point_q

batch = LoOpMiner().synthesize(rows, labels)
anchor, _, negative = batch.indices_tuple
carried = batch.ref_emb[negative[anchor == 0]][0]  # n', for the anchor in row 0
torch.testing.assert_close((a - carried).norm(), (z_p - z_n).norm())


def arc(start, end):
    """Points of a great-circle arc."""
    share = torch.linspace(0, 1, 60).unsqueeze(1)
    return normalize((1 - share) * start + share * end)


def path(start):
    """The way of a point of the sphere, while z_p goes to a."""
    axis = normalize(torch.linalg.cross(z_p, a), dim=0)
    whole = torch.arccos(z_p @ a)
    angle = torch.linspace(0, 1, 60).unsqueeze(1) * whole
    along = (start @ axis) * axis
    across = start - along
    return along + angle.cos() * across + angle.sin() * torch.linalg.cross(axis, across)


figure, axes = plt.subplots(figsize=(7.4, 6.2), layout="constrained")
half_turn = torch.linspace(0, torch.pi, 100)
for level in torch.linspace(-0.75, 0.75, 7):
    radius = (1 - level**2).sqrt()
    axes.plot(half_turn.cos() * radius, level.expand(100), color="0.92", linewidth=0.8)
    axes.plot(half_turn.sin() * level / 0.75, half_turn.cos(), color="0.92", linewidth=0.8)
axes.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.7"))

axes.plot(*arc(a, p)[:, :2].T, color=BLUE, linewidth=3.5, label="curve of the positive pair")
axes.plot(*arc(n1, n2)[:, :2].T, color=ORANGE, linewidth=3.5, label="curve of the negative pair")
for start in (z_p, z_n):
    way = path(start)[8:53, :2]
    axes.plot(*way[:-4].T, color="0.2", linewidth=2, linestyle=":", zorder=3)
    arrow = {"arrowstyle": "-|>,head_width=0.5,head_length=0.9", "color": "0.2"}
    axes.annotate("", way[-1], way[-6], arrowprops=arrow, zorder=4)
for start, end, side in ((z_p, z_n, 12), (a, carried, -12)):
    line = arc(start, end)
    axes.plot(*line[:, :2].T, "k--", linewidth=2.5, zorder=3)
    angle = torch.arccos(start @ end).rad2deg()
    axes.annotate(
        f"{angle:.0f}°",
        line[30, :2],
        (side, 0),
        textcoords="offset points",
        ha="left" if side > 0 else "right",
        va="center",
        size=15,
        weight="bold",
    )
axes.plot([], [], "k--", linewidth=2.5, label="the same angle, twice")
axes.plot([], [], ":", color="0.2", linewidth=2, label="the rotation that takes $z_p$ to $a$")

named = (
    ("$a$", a, "o", BLUE, (-20, -8)),
    ("$p$", p, "o", BLUE, (12, -6)),
    ("$z_p$", z_p, "o", "black", (2, -26)),
    ("$z_n$", z_n, "s", "black", (14, -12)),
    ("$n'$", carried, "s", "black", (-8, 16)),
    ("", n2, "s", ORANGE, (0, 0)),
)
for name, point, marker, color, shift in named:
    axes.plot(*point[:2], marker, color=color, markersize=11, markeredgecolor="white", zorder=5)
    text = axes.annotate(name, point[:2], shift, textcoords="offset points", size=18, zorder=6)
    text.set_path_effects([withStroke(linewidth=4, foreground="white")])
axes.set(aspect="equal", xlim=(-1.05, 1.05), ylim=(-1.03, 1.03))
axes.set_title("The angle from $a$ to $n'$ is the angle from $z_p$ to $z_n$")
axes.axis("off")
figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=11)
plt.show()
