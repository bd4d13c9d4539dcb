r"""Two arcs on a sphere
====================

What Embedding Expansion and LoOp see of two pairs, and how near they say the pairs are.

Two samples of a class span an arc of points that should belong to it, and so do two samples of
another class. Ordinary mining compares the ends of the arcs. Embedding Expansion (EE) puts points
between them and compares all of those. LoOp solves for the nearest points of the arcs themselves.

**What to see:** the dashed line of EE joins two of its points, and neither lies where the arcs come
nearest. The solid line of LoOp is shorter. It starts inside the blue arc, at a right angle to it,
as the shortest way to the inside of a curve has to.
"""

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import normalize

from loopml import EmbeddingExpansion
from loopml.geometry import closest_on_arcs

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"  # of Okabe and Ito
ends = normalize(
    torch.tensor([[-0.62, -0.3, 0.75], [0.65, 0.02, 0.72], [-0.4, 0.95, 0.45], [0.02, 0.22, 0.95]])
)
labels = torch.tensor([0, 0, 1, 1])

# Both methods, in two calls each. expand appends the points between to the batch. The nearest two
# points of different classes are the hardest negative pair.
best = closest_on_arcs(*ends)

points, point_labels = EmbeddingExpansion(n_points=2).expand(ends, labels)
first, second = points[point_labels == 0], points[point_labels == 1]
distances = torch.cdist(first, second)
row, column = divmod(int(distances.argmin()), len(second))

print(f"ends {distances[:2, :2].min():.3f}, EE {distances.min():.3f}, LoOp {best.distance:.3f}")

# The sphere is seen from the front: x to the right, y up, z towards you.


def draw_sphere(axes):
    """The outline and the front of some circles of latitude and longitude."""
    angle = torch.linspace(0, torch.pi, 100)
    half = torch.stack([angle.cos(), angle.sin()])
    for level in torch.linspace(-0.75, 0.75, 7):
        radius = (1 - level**2).sqrt()
        axes.plot(half[0] * radius, level.expand(100), color="0.88", linewidth=0.8)
        axes.plot(half[1] * level / 0.75, half[0], color="0.88", linewidth=0.8)
    axes.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.6"))
    axes.set(aspect="equal", xlim=(-1.05, 1.05), ylim=(-1.05, 1.05))
    axes.axis("off")


def join(axes, p, q, style, color, label):
    """A straight line between two points."""
    axes.plot(*torch.stack([p, q])[:, :2].T, style, color=color, linewidth=2.5, label=label)


figure, panels = plt.subplots(1, 2, figsize=(7.4, 4.9), layout="constrained")
fractions = torch.linspace(0, 1, 100).unsqueeze(1)
for axes in panels:
    draw_sphere(axes)
    for (start, end), color in ((ends[:2], BLUE), (ends[2:], VERMILLION)):
        arc = normalize((1 - fractions) * start + fractions * end)
        axes.plot(*arc[:, :2].T, color=color, linewidth=2.5)
    axes.plot(*ends[:2, :2].T, "o", color=BLUE, markersize=11, label="positive pair")
    axes.plot(*ends[2:, :2].T, "s", color=VERMILLION, markersize=10, label="negative pair")

expansion, loop = panels
expansion.plot(*points[4:, :2].T, "D", color="0.35", markersize=7, label="points between")
join(expansion, first[row], second[column], "--", GREEN, f"hardest of EE: {distances.min():.3f}")
join(loop, best.point_p, best.point_q, "-", "black", f"nearest points: {best.distance:.3f}")
expansion.set_title("Embedding Expansion, 2 points")
loop.set_title("LoOp")
for axes in panels:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), frameon=False)
plt.show()
