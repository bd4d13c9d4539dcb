r"""Nearest neighbours before and after training
============================================

Five images, and what a net finds for each, before and after two epochs.

The net learns on the shipped glyphs: characters of 13 scripts in many fonts. The loss is the one
that we recommend, ``TripletMarginLoss(margin=0.8)`` with the triplets of ``LoOpMiner()``. The
queries are of other scripts, which training never saw. A random generator chose them.

**What to see:** the first column is the query. The others are the five nearest of 7,827 images. A
frame marks an image of the same character as the query.
"""

# Needs the glyphs of a clone of loopml. Run from the root of the clone:
# PYTHONPATH=examples python docs/gallery/plot_0_neighbours.py

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import normalize

from kit import glyphs
from kit.training import Training, embed, epoch_of_batches

BLUE = "#0072B2"  # of Okabe and Ito
train, test = glyphs.load("train"), glyphs.load("test")

CPU = torch.device("cpu")
training = Training("triplet", "loop_index", 0, CPU)  # the recommended lines, from seed 0


def embed_unseen():
    """Unit embeddings of all images of the unseen scripts."""
    return normalize(embed(training.net, test.images, CPU))


before = embed_unseen()
for _ in range(2):
    training.run_epoch(epoch_of_batches(train, train.labels))
after = embed_unseen()

# Five queries of five scripts.
order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0)).tolist()
first_of_script = {int(test.scripts[row]): row for row in reversed(order)}
queries = sorted(first_of_script.values(), key=order.index)[:5]


def nearest(embeddings, query, number=5):
    """The images nearest to a query, but for the query itself."""
    similarity = embeddings @ embeddings[query]
    similarity[query] = -torch.inf
    return similarity.topk(number).indices.tolist()


def show(axes, row, frame=None):
    """An image, with a frame of a colour or without."""
    axes.imshow(1 - test.images[row, 0], cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=frame is not None, color=frame, linewidth=4)


figure = plt.figure(figsize=(7.4, 4.2), layout="constrained")
parts = figure.subfigures(1, 3, width_ratios=[1, 5, 5], wspace=0.06)
panels = [part.subplots(5, n, squeeze=False) for part, n in zip(parts, (1, 5, 5), strict=True)]
for axes, query in zip(panels[0][:, 0], queries, strict=True):
    show(axes, query)
panels[0][0, 0].set_title("query")
for grid, name, embeddings in (
    (panels[1], "before training", before),
    (panels[2], "after two epochs", after),
):
    found = torch.tensor([nearest(embeddings, query) for query in queries])
    for axes_of_query, rows, query in zip(grid, found.tolist(), queries, strict=True):
        for axes, row in zip(axes_of_query, rows, strict=True):
            show(axes, row, BLUE if test.labels[row] == test.labels[query] else None)
    right = (test.labels[found] == test.labels[queries].unsqueeze(1)).sum()
    grid[0, 2].set_title(f"{name}: {right} of 25 right")
plt.show()
