r"""An embedding before and after
=============================

A small net maps glyphs to 64 dimensions. Here are the images of eight characters in a plane, by the
first two principal components, before training and after four epochs. The scripts are not among
those that it was trained on: nothing that you see was learned by heart.

**What to see:** before training a class is spread out among others. After it, most are groups of
their own. Two groups that overlap in this plane may still be apart in the other 62 dimensions: what
counts is Recall@1, here over all 7,828 images of unseen scripts.
"""

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import normalize

from kit import glyphs  # of the folder examples, as the next
from kit.training import Training, embed, epoch_of_batches, retrieval
from loopml import HPHNTripletLoss, LoOpMiner

COLORS = ["#000000", "#E69F00", "#56B4E9", "#009E73"]
COLORS += ["#0072B2", "#D55E00", "#CC79A7", "#999999"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]

train, test = glyphs.load("train"), glyphs.load("test")
generator = torch.Generator().manual_seed(1)
shown = torch.randperm(len(test.characters), generator=generator)[:8]

# %%
# One epoch on real negatives, then on those of LoOp.

training = Training("hphn", "none", seed=0, device=torch.device("cpu"))
before = embed(training.net, test.images, training.device)
for epoch in range(4):
    if epoch == 1:
        training.loss = HPHNTripletLoss(synthesizer=LoOpMiner())
    training.run_epoch(epoch_of_batches(train, train.labels))
after = embed(training.net, test.images, training.device)

# %%


def draw(axes, embeddings, title):
    """The shown classes in the plane of their first two principal components."""
    kept = torch.isin(test.labels, shown)
    points, labels = normalize(embeddings[kept]), test.labels[kept]
    centered = points - points.mean(0)
    plane = centered @ torch.linalg.svd(centered, full_matrices=False).Vh[:2].T
    for label, color, marker in zip(shown, COLORS, MARKERS, strict=True):
        rows = labels == label
        axes.plot(*plane[rows].T, marker, color=color, markersize=7, alpha=0.8)
    recall = retrieval(embeddings, test.labels)["recall_at_1"]
    axes.set(title=f"{title}: Recall@1 {recall:.2f}", xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")


def draw_key(axes):
    """An image of each class beside its marker."""
    for x, (label, color, marker) in enumerate(zip(shown, COLORS, MARKERS, strict=True)):
        axes.plot(x, 0, marker, color=color, markersize=10)
        image = test.images[test.labels == label][0, 0].numpy()
        axes.imshow(image, cmap="gray_r", extent=(x + 0.15, x + 0.65, -0.25, 0.25))
    axes.set(xlim=(-0.5, 8), ylim=(-0.3, 0.3))
    axes.axis("off")


figure, axes = plt.subplot_mosaic(
    [["before", "after"], ["key", "key"]],
    figsize=(11, 6.2),
    height_ratios=[7, 1],
    layout="constrained",
)
draw(axes["before"], before, "Before training")
draw(axes["after"], after, "After training")
draw_key(axes["key"])
