r"""Where the gradient pulls
========================

One batch, one triplet loss, three kinds of negatives: which embeddings move, and where to.

One batch in the plane, three classes, the same triplet loss on three kinds of negatives. An arrow
is a step of gradient descent for one embedding. The distance is Euclidean without normalisation, so
the curves are straight segments.

**What to see:** on real rows a push goes from row to row. With synthetic negatives it goes between
points *of the segments*, and both ends of a segment take their share of it, the nearer end the
larger one. The dotted lines join the points between which LoOp pushes.
"""

import matplotlib.pyplot as plt
import torch
from pytorch_metric_learning.distances import LpDistance

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner
from loopml.geometry import closest_on_segments

STYLES = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^")]  # of Okabe and Ito
batch = torch.tensor(
    [[-1.6, 0.9], [1.5, 1.25], [-1.7, -0.55], [-0.2, 0.3], [0.3, -1.0], [1.9, 0.2]]
)
labels = torch.tensor([0, 0, 1, 1, 2, 2])

# The three losses differ in their synthesizer alone.
synthesizers = {
    "real rows": None,
    "Embedding Expansion": EmbeddingExpansion(n_points=2, normalize=False),
    "LoOp": LoOpMiner(),
}
figure, panels = plt.subplots(2, 2, figsize=(7.4, 6.2), layout="constrained")
panels = panels.flatten()
for axes, (name, synthesizer) in zip(panels[:3], synthesizers.items(), strict=True):
    embeddings = batch.clone().requires_grad_()
    distance = LpDistance(normalize_embeddings=False)
    loss = HPHNTripletLoss(margin=1.0, synthesizer=synthesizer, distance=distance)
    value = loss(embeddings, labels)
    value.backward()

    for label, (color, marker) in enumerate(STYLES):
        rows = batch[labels == label]
        axes.plot(*rows.T, color=color, linewidth=1.5, alpha=0.5)
        axes.plot(*rows.T, marker, color=color, markersize=9)
    axes.quiver(*batch.T, *-embeddings.grad.T, angles="xy", scale_units="xy", scale=1, zorder=3)
    axes.set(title=f"{name}: loss {value:.2f}", aspect="equal", xlim=(-2.4, 2.4), ylim=(-1.7, 2.1))
    axes.set(xticks=[], yticks=[])

# The points of the expansion, which are not normalised here, and the nearest points of LoOp.
between = EmbeddingExpansion(n_points=2, normalize=False).expand(batch, labels)[0][len(batch) :]
panels[1].plot(*between.T, "D", color="0.35", markersize=5)

for first, second in ((0, 1), (0, 2), (1, 2)):
    p, q = batch[labels == first], batch[labels == second]
    nearest = closest_on_segments(*p, *q)
    panels[2].plot(*torch.stack([nearest.point_p, nearest.point_q]).T, ":", color="0.3")

key = panels[3]
for label, (color, marker) in enumerate(STYLES):
    key.plot([], [], marker, color=color, markersize=9, label=f"class {label}")
key.plot([], [], "k", marker=r"$\rightarrow$", markersize=16, ls="", label="step of an embedding")
key.plot([], [], "D", color="0.35", markersize=5, label="point of Embedding Expansion")
key.plot([], [], ":", color="0.3", label="nearest points of LoOp")
key.legend(loc="center", frameon=False, fontsize=11)
key.axis("off")
plt.show()
