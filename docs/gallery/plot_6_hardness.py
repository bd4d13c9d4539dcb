r"""How hard the negatives are, over a training
===========================================

The distance to the hardest negative early in a training: among real rows, with EE, and with LoOp.

A small net learns the shipped glyphs, characters of many scripts in many fonts, with the HPHN
triplet loss on the negatives of LoOp and ``real_until_apart=True``. Every eighth step we look at
one fixed batch: how far is the hardest negative of an anchor, among real rows, with Embedding
Expansion (EE, 2 points) and with LoOp?

**What to see:** the synthetic negatives are nearer than the real ones from the first step to the
last. As the classes come apart, the lead of the synthetic ones gets smaller. Two points of EE come
so close to LoOp that their lines nearly coincide.
"""

# Needs the glyphs of a clone of loopml. Run from the root of the clone:
# PYTHONPATH=examples python docs/gallery/plot_6_hardness.py

from itertools import islice

import matplotlib.pyplot as plt
import torch

from kit import glyphs
from kit.training import Training, embed, epoch_of_batches, fixed_batch, hardest_negatives
from loopml import HPHNTripletLoss, LoOpMiner

STEPS, LOOK = 80, 8
train = glyphs.load("train")
fixed = fixed_batch(train.images, train.labels)

training = Training("hphn", "loop", 0, torch.device("cpu"))
training.loss = HPHNTripletLoss(synthesizer=LoOpMiner(), real_until_apart=True)


def look():
    """The mean distance of an anchor to its hardest negative of each kind."""
    return hardest_negatives(embed(training.net, fixed.images, training.device), fixed.labels)


looks = [look()]
batches = iter(epoch_of_batches(train, train.labels, length=STEPS * 128))
for _ in range(STEPS // LOOK):
    training.run_epoch(islice(batches, LOOK))
    looks.append(look())

styles = {  # colours of Okabe and Ito
    "hardest_real": ("real", {"color": "black", "linestyle": ":", "marker": "o"}),
    "hardest_expansion": ("EE", {"color": "#E69F00", "linestyle": "--", "marker": "s"}),
    "hardest_loop": ("LoOp", {"color": "#0072B2", "linestyle": "-", "marker": "^"}),
}
steps = range(0, STEPS + 1, LOOK)
figure, (top, bottom) = plt.subplots(2, 1, figsize=(7.4, 6), sharex=True, layout="constrained")
for name, (label, style) in styles.items():
    top.plot(steps, [look[name] for look in looks], label=label, **style)
    if name != "hardest_real":
        gap = [100 * (1 - look[name] / look["hardest_real"]) for look in looks]
        bottom.plot(steps, gap, label=label, **style)
top.set(ylabel="distance to the hardest negative", ylim=(0, None))
bottom.set(xlabel="step", ylabel="nearer than the real one by, %", ylim=(0, None))
top.set_title("The hardest negative of an anchor, mean over 128 anchors")
for axes in (top, bottom):
    axes.grid(color="0.9")
    axes.legend()
plt.show()
