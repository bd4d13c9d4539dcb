r"""Where two arcs come nearest as one moves
========================================

Four moments of a movement: nearest at two ends, at one end, inside both arcs, and crossing.

The blue arc rests. The orange arc comes from the side, passes above the blue one and comes down on
it. The unit sphere has four dimensions here, because in three dimensions two arcs can be nearest
inside both only where they cross. The picture is a map of that sphere into space that keeps angles.
The grey line is the shadow of the orange arc on the floor.

**What to see:** where the nearest point is inside an arc, the dashed line is at a right angle to
the arc (we look from above the floor, so most right angles do not look like one). Where the nearest
point is an end, it need not be. The distance has no jump where the case changes. Where the arcs
cross, the distance is 0 and there is no direction to push in.
"""

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import normalize

from loopml.geometry import closest_on_arcs

BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito

# Where the middle of the orange arc is at four moments: to the right, away from us, up.
moments = torch.tensor([[1.6, 1.1, 0.7], [0.3, 1.1, 0.7], [-0.1, 0.0, 0.7], [-0.1, 0.0, 0.0]])


def on_sphere(places):
    """Unit vectors of four dimensions whose directions are those of places in space."""
    return normalize(torch.cat([places, torch.ones(*places.shape[:-1], 1)], -1), dim=-1)


blue = on_sphere(torch.tensor([[-0.9, 0.0, 0.0], [0.9, 0.0, 0.0]]))
half = torch.tensor([0.2, 0.8, 0.0])  # from the middle of the orange arc to its end


def orange_at(moment):
    """The two ends of the orange arc at a moment between 0 and 3."""
    first = min(int(moment), 2)
    middle = torch.lerp(moments[first], moments[first + 1], moment - first)
    return on_sphere(torch.stack([middle - half, middle + half]))


def drawn(points):
    """Places on the page: the map of the sphere, which keeps angles, seen from above the floor."""
    x, y, z = (points[..., :3] / (1 + points[..., 3:])).unbind(-1)
    return torch.stack([x + 0.5 * y, z + 0.45 * y])


def draw_arc(axes, ends, **style):
    """An arc of the sphere."""
    share = torch.linspace(0, 1, 60).unsqueeze(1)
    axes.plot(*drawn(normalize((1 - share) * ends[0] + share * ends[1])), **style)


def draw_moment(axes, moment):
    """The two arcs and the line between their nearest points."""
    orange = orange_at(moment)
    for level in torch.linspace(-0.6, 0.6, 5):
        for line in ([[level, -0.7, 0], [level, 0.7, 0]], [[-0.7, level, 0], [0.7, level, 0]]):
            places = torch.tensor(line)
            axes.plot(*drawn(on_sphere(2 * places)), color="0.9", linewidth=0.8)
    shadow = on_sphere(orange[:, :3] / orange[:, 3:] * torch.tensor([1.0, 1.0, 0.0]))
    draw_arc(axes, shadow, color="0.75", linewidth=3)
    for ends, color, marker in ((blue, BLUE, "o"), (orange, ORANGE, "s")):
        draw_arc(axes, ends, color=color, linewidth=3)
        axes.plot(*drawn(ends), marker, color=color, markersize=8)
    best = closest_on_arcs(*blue, *orange)
    nearest = drawn(torch.stack([best.point_p, best.point_q]))
    axes.plot(*nearest, "k--", linewidth=2, zorder=5)
    axes.plot(*nearest, "ko", markersize=5, zorder=6)
    axes.set(aspect="equal", xlim=(-0.62, 0.74), ylim=(-0.25, 0.55))
    axes.axis("off")


def case(closest):
    """How many of the nearest points lie inside their arc; 3 where the arcs cross."""
    inside = int(0 < closest.s < 1) + int(0 < closest.t < 1)
    return 3 if closest.distance < 1e-3 else inside


CASES = ("end and end", "inside and end", "inside and inside", "crossing")
figure, panels = plt.subplot_mosaic(
    [["0", "1"], ["2", "3"], ["d", "d"]],
    figsize=(7.4, 7.2),
    height_ratios=[1, 1, 0.7],
    layout="constrained",
)
for moment in range(4):
    axes, best = panels[str(moment)], closest_on_arcs(*blue, *orange_at(moment))
    draw_moment(axes, moment)
    axes.set_title(f"{moment + 1}. {CASES[case(best)]}: {best.distance:.2f}")

times = torch.linspace(0, 3, 301)
solved = [closest_on_arcs(*blue, *orange_at(float(time))) for time in times]
distances = [float(best.distance) for best in solved]
axes = panels["d"]
axes.plot(times, distances, color="black", linewidth=2)
axes.plot(range(4), distances[::100], "ko", markersize=8)
axes.set(xticks=range(4), xticklabels=["1", "2", "3", "4"], ylabel="distance", ylim=(0, None))
axes.set_xlabel("the movement, from picture 1 to picture 4")
axes.grid(color="0.9")
plt.show()
