r"""A collapse, and the option that prevents it
===========================================

HPHN on the negatives of LoOp, from random weights, with and without ``real_until_apart=True``.

Two trainings start from the same weights and see the same batches of the shipped glyphs. Their
losses differ in one option. Every fourth step we look at a fixed batch, and measure how far the
hardest real negative of an anchor is. The mean over the anchors is what the picture shows.

**What to see:** without the option the embeddings of all classes move together, and the distance
falls to nearly nothing. With the option an anchor keeps its real negative until classes are apart.
The distance also falls in the first steps, and then it grows.
"""

# Needs the glyphs of a clone of loopml. Run from the root of the clone:
# PYTHONPATH=examples python docs/gallery/plot_collapse.py

from itertools import islice

import matplotlib.pyplot as plt
import torch

from kit import glyphs
from kit.training import Training, embed, epoch_of_batches, fixed_batch, hardest_negatives
from loopml import HPHNTripletLoss, LoOpMiner

STEPS, LOOK = 76, 4
train = glyphs.load("train")
fixed = fixed_batch(train.images, train.labels)


def hardest_real(net):
    """The mean distance of an anchor to its hardest real negative."""
    embedded = embed(net, fixed.images, torch.device("cpu"))
    return hardest_negatives(embedded, fixed.labels)["hardest_real"]


def distances_over_a_training(loss_fn):
    """That distance before the first step and after every fourth."""
    training = Training("hphn", "loop", 0, torch.device("cpu"))
    training.loss = loss_fn
    found = [hardest_real(training.net)]
    batches = iter(epoch_of_batches(train, train.labels, length=STEPS * 128))
    for _ in range(STEPS // LOOK):
        training.run_epoch(islice(batches, LOOK))
        found.append(hardest_real(training.net))
    return found


plain = distances_over_a_training(HPHNTripletLoss(synthesizer=LoOpMiner()))
cured = distances_over_a_training(HPHNTripletLoss(synthesizer=LoOpMiner(), real_until_apart=True))

steps = range(0, STEPS + 1, LOOK)
figure, axes = plt.subplots(figsize=(7.4, 4.4), layout="constrained")
axes.plot(steps, cured, "o-", color="#0072B2", label="real_until_apart=True")  # of Okabe and Ito
axes.plot(steps, plain, "s--", color="#D55E00", label="real_until_apart=False, the default")
axes.set(xlabel="step", ylabel="distance to the hardest real negative", ylim=(0, None))
axes.set_title("HPHN with LoOp, margin 0.2, learning rate 0.001, seed 0", fontsize=11)
axes.grid(color="0.9")
axes.legend()
plt.show()
