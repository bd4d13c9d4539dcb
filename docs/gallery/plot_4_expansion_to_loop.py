r"""Embedding Expansion tends to LoOp
=================================

More points bring Embedding Expansion nearer to LoOp: how fast, and how much two points leave.

With n points between the ends of each curve, Embedding Expansion compares :math:`(n + 2)^2` pairs
of points. Its distance to the hardest negative, EE(n), tends to that of LoOp as n grows.
:doc:`/concepts/sampling` derives how fast.

**What to see:** on the left the distance, averaged over random pairs of arcs: no number of points
goes below LoOp. On the right how much longer EE(n) is than LoOp. Doubling n divides that by about
four, and it stays under the bound that is derived. The papers' two points leave about one per cent.
"""

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import normalize

from loopml import EmbeddingExpansion
from loopml.geometry import closest_on_arcs

GREEN, VERMILLION = "#009E73", "#D55E00"  # of Okabe and Ito

# A thousand pairs of arcs in 16 dimensions, with ends about 60 degrees apart.
generator = torch.Generator().manual_seed(0)
pairs, dim = 1000, 16
common = torch.randn(pairs, 1, dim, generator=generator, dtype=torch.float64)
noise = torch.randn(pairs, 4, dim, generator=generator, dtype=torch.float64)
ends = normalize(common + noise, dim=-1)
p0, p1, q0, q1 = ends.unbind(1)
loop = closest_on_arcs(p0, p1, q0, q1).distance


def expanded_distance(n):
    """The least distance between the ends and n points between of each pair of arcs."""
    labels = torch.arange(2 * pairs).repeat_interleave(2)
    expansion = EmbeddingExpansion(n_points=n, pairing="consecutive")
    between = expansion.expand(ends.reshape(-1, dim), labels)[0][4 * pairs :]
    # Point 1 of every pair, then point 2 of every pair, and so on.
    p, q = between.view(n, pairs, 2, dim).permute(2, 1, 0, 3)
    p, q = torch.cat([ends[:, :2], p], 1), torch.cat([ends[:, 2:], q], 1)
    return torch.cdist(p, q).amin((1, 2))


def half_spacing(start, end, n):
    """Half of the largest angle between neighbouring points of an arc."""
    half = torch.arccos((start * end).sum(1)) / 2
    return torch.atan(half.tan() / (n + 1))


numbers = torch.tensor([0, 1, 2, 4, 8, 16, 32])
distances = torch.stack([expanded_distance(int(n)) for n in numbers])
reach = torch.stack([half_spacing(p0, p1, n) + half_spacing(q0, q1, n) for n in numbers])
excess = distances / loop - 1
bound = (loop**2 + reach**2).sqrt() / loop - 1
assert (excess <= bound + 1e-12).all()

figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 4.2), layout="constrained")
left.plot(numbers, distances.mean(1), "D--", color=GREEN, label="EE(n)")
left.axhline(loop.mean(), color="black", label="LoOp")
left.set(xlabel="n, points between the ends", ylabel="mean distance", title="Distance")
left.set_ylim(0.735, None)
left.annotate("mining", (0, distances[0].mean()), (10, -4), textcoords="offset points")
left.legend()

low, middle, high = torch.quantile(excess, torch.tensor([0.1, 0.5, 0.9]).double(), 1)
right.plot(numbers, bound.median(1).values, "^:", color=VERMILLION, label="the bound (median)")
right.plot(numbers, middle, "D--", color=GREEN, label="EE(n) over LoOp (median)")
right.fill_between(numbers, low, high, color=GREEN, alpha=0.2, label="10 to 90 % of pairs")
right.set_xscale("symlog", linthresh=1)
right.set_yscale("log")
right.set_xticks(numbers, [str(int(n)) for n in numbers], minor=False)
right.set(xlabel="n, points between the ends", title="How much longer EE(n) is")
right.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
right.legend()
for axes in (left, right):
    axes.grid(color="0.9")
plt.show()
