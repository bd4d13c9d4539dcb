r"""Where a synthetic negative lies between two images
==================================================

Two pairs of real images, the nearest points between them, and what real images lie near there.

A net has learned the shipped glyphs for one epoch. These images are of other scripts. Of 32
characters with four images each we take two pairs of different characters that come nearest to each
other well inside both curves. A synthetic negative is a point of the sphere of embeddings: it is no
image, and nothing is drawn from it. But we can ask which real images lie nearest to it.

**What to see:** the synthetic negative (black square) is nearer to the upper curve than any of the
four images is to one of the other pair. The weights say how much of the embedding of each image is
in it. A blue frame marks the character of the positive pair, an orange frame the character of the
negative pair, a grey frame another one. Images of several characters are near the synthetic
negative: it lies where classes meet, which makes it hard.
"""

# Needs the glyphs of a clone of loopml. Run from the root of the clone:
# PYTHONPATH=examples python docs/gallery/plot_between_images.py

import matplotlib.pyplot as plt
import torch
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from torch.nn.functional import normalize

from kit import glyphs
from kit.training import Training, embed, epoch_of_batches, fixed_batch
from loopml.geometry import closest_on_arcs

BLUE, ORANGE = "#0072B2", "#D55E00"  # of Okabe and Ito
CPU = torch.device("cpu")
train, test = glyphs.load("train"), glyphs.load("test")

training = Training("triplet", "loop_index", 0, CPU)  # the recommended lines, from seed 0
training.run_epoch(epoch_of_batches(train, train.labels))
net = training.net

# All curves of the batch against all: a curve joins two images of a character.
batch = fixed_batch(test.images, test.labels)
rows = normalize(embed(net, batch.images, CPU))
same = batch.labels.unsqueeze(1) == batch.labels
curves = torch.triu(same, diagonal=1).nonzero()
first, second = curves.T
best = closest_on_arcs(
    *(rows[ends].unsqueeze(1) for ends in (first, second)), *(rows[ends] for ends in curves.T)
)
inside = (best.s - 0.5).abs().maximum((best.t - 0.5).abs()) < 0.2
kept = inside & ~same[first.unsqueeze(1), first]
positive, negative = divmod(int(best.distance.where(kept, torch.inf).argmin()), len(curves))
found = [value[positive, negative] for value in best]
s, t, z_p, z_n, distance = found
ends = (*curves[positive].tolist(), *curves[negative].tolist())

# The real images nearest to the synthetic negative, of all 7,828 of the unseen scripts.
to_synthetic = (normalize(embed(net, test.images, CPU)) - z_n).norm(dim=1)
near = to_synthetic.topk(6, largest=False).indices.tolist()
real = torch.cdist(rows[list(ends[:2])], rows[list(ends[2:])]).min()


def weights(share, start, end):
    """What each end of an arc adds to a point of it, as parts of 1."""
    angle = torch.arccos(start @ end)
    parts = torch.stack([((1 - share) * angle).sin(), (share * angle).sin()])
    return (parts / parts.sum()).tolist()


def show(axes, image, x, y, color):
    """An image in a frame, at a place of the axes."""
    picture = OffsetImage(1 - image[0], cmap="gray", zoom=1.9, clim=(0, 1))
    frame = {"edgecolor": color, "linewidth": 3}
    axes.add_artist(AnnotationBbox(picture, (x, y), pad=0.15, bboxprops=frame))


figure, axes = plt.subplots(figsize=(7.4, 5.6), layout="constrained")
lines = (
    (3.0, BLUE, "positive pair", s, ends[:2], "o"),
    (1.9, ORANGE, "negative pair", t, ends[2:], "s"),
)
for y, color, name, share, pair, marker in lines:
    axes.plot([0, 1], [y, y], color=color, linewidth=3, zorder=1)
    axes.plot(torch.linspace(0, 1, 5), [y] * 5, "|", color=color, markersize=14, mew=2)
    axes.plot(share, y, marker, color="black", markersize=11, zorder=3)
    for row, x in zip(pair, (-0.1, 1.1), strict=True):
        show(axes, batch.images[row], x, y, color)
    start, end = weights(share, *rows[list(pair)])
    side = 1 if color == BLUE else -1
    axes.text(
        *(share, y + 0.2 * side, f"{start:.2f} of the left + {end:.2f} of the right"),
        ha="center",
        va="bottom" if side > 0 else "top",
    )
    axes.text(-0.1, y + 0.38, name, color=color, ha="center", weight="bold")
axes.plot([s, t], [3.0, 1.9], "k--", linewidth=2)
middle = float(s + t) / 2
axes.text(middle + 0.04, 2.45, f"distance {distance:.2f}", va="center", weight="bold")
axes.text(1.1, 2.45, f"nearest two real\nimages: {real:.2f}", va="center", ha="center")

axes.text(
    0.5,
    1.18,
    "real images nearest to the synthetic negative, with their distance to it",
    ha="center",
)
positive_class, negative_class = batch.labels[ends[0]], batch.labels[ends[2]]
for x, row in zip(torch.linspace(-0.1, 1.1, 6).tolist(), near, strict=True):
    label = test.labels[row]
    color = BLUE if label == positive_class else ORANGE if label == negative_class else "0.7"
    show(axes, test.images[row], x, 0.72, color)
    axes.text(x, 0.22, f"{to_synthetic[row]:.2f}", ha="center")
axes.set(xlim=(-0.22, 1.22), ylim=(0.1, 3.6))
axes.set_title("The nearest points of two curves between real images")
axes.axis("off")
plt.show()
