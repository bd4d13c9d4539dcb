r"""The nine ways a minimum can sit
===============================

Where the nearest points of two curves can lie: inside both, at one end, at two ends.

The distance between a point of one curve and a point of another is a function on the unit square:
s says where on the first curve, t where on the second. Its minimum may lie inside the square, on
one of the four edges (one point is an end of its curve) or in one of the four corners (both are).

**What to see:** each panel is another pair of arcs, placed where its minimum sits: corners in the
corners, edges on the edges, the interior in the middle. Darker is nearer. In the outer panels the
valley runs on beyond the square, so that its lowest point within lies on the border. The formula
is the same for all nine.
"""

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import normalize

from loopml.geometry import closest_on_arcs

generator = torch.Generator().manual_seed(3)
ends = normalize(torch.randn(4, 4000, 5, generator=generator), dim=-1)
s, t, *_ = closest_on_arcs(*ends)


def side(fraction):
    """0 at the start of a curve, 2 at its end, 1 well between, and -1 else."""
    between = (fraction > 0.3) & (fraction < 0.7)
    return torch.where(fraction == 0, 0, torch.where(fraction == 1, 2, torch.where(between, 1, -1)))


# Of 4000 random pairs of arcs take the first of each kind whose minimum is clearly of that kind.
kind = torch.stack([side(s), side(t)], 1)
chosen = {
    (i, j): int((kind == torch.tensor([i, j])).all(1).nonzero()[0])
    for i in range(3)
    for j in range(3)
}


def arc(start, end, fractions):
    """Points at fractions of the angle of an arc."""
    angle = torch.arccos(start @ end)
    weights = torch.stack([((1 - fractions) * angle).sin(), (fractions * angle).sin()])
    return (weights / angle.sin()).T @ torch.stack([start, end])


grid = torch.linspace(0, 1, 60)
star = {"color": "white", "markeredgecolor": "black", "markersize": 18}
figure, panels = plt.subplots(
    3, 3, figsize=(7.4, 8), sharex=True, sharey=True, layout="constrained"
)
names = {0: "start", 1: "inside", 2: "end"}
for (i, j), index in chosen.items():
    axes = panels[2 - j, i]
    p0, p1, q0, q1 = ends[:, index]
    # The landscape point by point, and the minimum as the library has it.
    landscape = torch.cdist(arc(p0, p1, grid), arc(q0, q1, grid))
    axes.contourf(grid, grid, landscape.T, levels=14, cmap="cividis")
    axes.plot(s[index], t[index], "*", clip_on=False, zorder=9, **star)
    axes.set_title(f"s: {names[i]}, t: {names[j]}", fontsize=10, pad=11)
    axes.set(xticks=[0, 1], yticks=[0, 1], aspect="equal")
    axes.tick_params(pad=9)
figure.supxlabel("s, on the first arc")
figure.supylabel("t, on the second arc")

# How many of these pairs of arcs have their minimum in a corner, on an edge and inside. Mining real
# rows finds the first alone.
inside = ((s > 0) & (s < 1)).int() + ((t > 0) & (t < 1)).int()
for name, count in zip(("corner", "edge", "interior"), inside.bincount(), strict=True):
    print(f"{name:8} {count / len(s):.0%}")
plt.show()
