r"""The distance between two curves, over s and t
=============================================

One pair of arcs as a landscape: mining, Embedding Expansion and LoOp look for its low places.

Each point (s, t) of the square is a point of the first arc
and a point of the second, and its height is their distance. Every method looks for a low place, and
they differ only in where they look.

**What to see:** mining looks at the four corners. Embedding Expansion looks at the nodes of a grid.
LoOp finds the lowest point of all. No node can be lower than it, whatever their number: so
``ends >= EE(n) >= LoOp``.
"""

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import normalize

from loopml import EmbeddingExpansion
from loopml.geometry import closest_on_arcs

ends = normalize(
    torch.tensor(
        [[1, 0.9, 0, 0.2], [1, -0.7, 0, 0.2], [1, 0, 1.2, -0.2], [1, 0.3, -0.6, -0.2]],
        dtype=torch.float64,
    )
)
p0, p1, q0, q1 = ends
best = closest_on_arcs(p0, p1, q0, q1)


def arc(start, end, fractions):
    """Points at fractions of the angle of an arc."""
    angle = torch.arccos(start @ end)
    weights = torch.stack([((1 - fractions) * angle).sin(), (fractions * angle).sin()])
    return (weights / angle.sin()).T @ torch.stack([start, end])


def fraction_of_angle(start, end, points):
    """Where on the arc points lie."""
    return torch.arccos((points @ start).clamp(-1, 1)) / torch.arccos(start @ end)


# The points of Embedding Expansion divide the chord evenly, and are then projected onto the sphere.
# So they divide the angle a little unevenly: their grid is not quite regular.
labels = torch.tensor([0, 0, 1, 1])
points = EmbeddingExpansion(n_points=2).expand(ends, labels)[0]
p_points, q_points = points[[0, 4, 6, 1]], points[[2, 5, 7, 3]]
s_nodes, t_nodes = (
    fraction_of_angle(p0, p1, p_points),
    fraction_of_angle(q0, q1, q_points),
)
nodes = torch.cdist(p_points, q_points)
i, j = divmod(int(nodes.argmin()), 4)

grid = torch.linspace(0, 1, 200, dtype=torch.float64)
landscape = torch.cdist(arc(p0, p1, grid), arc(q0, q1, grid))

figure, axes = plt.subplots(figsize=(7.4, 6.8), layout="constrained")
filled = axes.contourf(grid, grid, landscape.T, levels=24, cmap="cividis")
lines = axes.contour(grid, grid, landscape.T, levels=[0.5, 0.75, 1], colors="white", linewidths=0.8)
axes.clabel(lines, fmt="%.2f", fontsize=9)
figure.colorbar(filled, label="distance", ticks=[0.5, 0.75, 1])

white = {"color": "white", "markeredgecolor": "black", "linestyle": "", "clip_on": False}
s_all, t_all = (x.flatten() for x in torch.meshgrid(s_nodes, t_nodes, indexing="ij"))
axes.plot(s_all, t_all, marker="D", markersize=7, label="nodes of EE(2)", **white)
axes.plot(
    [0, 0, 1, 1],
    [0, 1, 0, 1],
    marker="o",
    markersize=13,
    label=f"ends: {nodes[[0, 0, 3, 3], [0, 3, 0, 3]].min():.3f} at best",
    **white,
)
axes.plot(
    s_nodes[i],
    t_nodes[j],
    marker="D",
    markersize=13,
    label=f"best node: {nodes.min():.3f}",
    **white,
)
axes.plot(best.s, best.t, marker="*", markersize=22, label=f"LoOp: {best.distance:.3f}", **white)
axes.set(xlabel="s, on the first arc", ylabel="t, on the second arc", aspect="equal")
axes.set_title("The distance between a point of each arc")
axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=2, frameon=False)
plt.show()
