r"""How hard the negatives are, over a training
===========================================

A small net learns the shipped glyphs, characters of many scripts in many fonts, with the HPHN
triplet loss: its first epoch on real negatives, then on those of LoOp. Several times an epoch we
look at one fixed batch: how far is the hardest negative of an anchor, among real rows, with
Embedding Expansion (2 points), and with LoOp?

**What to see:** the synthetic negatives are nearer than the real ones from the first step to the
last. As classes contract, their curves become short, and there is less to find on them: the gap
narrows. Two points of Embedding Expansion come so close to LoOp that their lines nearly coincide.
"""

import matplotlib.pyplot as plt
import torch

from kit import glyphs  # of the folder examples, as the next
from kit.training import (
    BATCH_SIZE,
    Training,
    embed,
    epoch_of_batches,
    fixed_batch,
    hardest_negatives,
)
from loopml import HPHNTripletLoss, LoOpMiner

train = glyphs.load("train")
batch = fixed_batch(train.images, train.labels)
training = Training("hphn", "none", seed=0, device=torch.device("cpu"))

# %%
# Eight batches at a time, then a look. The first epoch on real negatives keeps the embedding from
# collapsing into a point (:doc:`/choosing`).

EPOCHS, STEPS = 4, 8
looks = []
for epoch in range(EPOCHS):
    if epoch == 1:
        training.loss = HPHNTripletLoss(synthesizer=LoOpMiner())
    batches = list(epoch_of_batches(train, train.labels))
    for start in range(0, len(batches), STEPS):
        embeddings = embed(training.net, batch.images, training.device)
        looks.append((epoch + start / len(batches), hardest_negatives(embeddings, batch.labels)))
        training.run_epoch(batches[start : start + STEPS])

# %%

styles = {
    "hardest_real": ("real", {"color": "black", "linestyle": ":", "marker": "o"}),
    "hardest_expansion": ("EE", {"color": "#E69F00", "linestyle": "--", "marker": "s"}),
    "hardest_loop": ("LoOp", {"color": "#0072B2", "linestyle": "-", "marker": "^"}),
}
epochs = [epoch for epoch, _ in looks]
figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6.4), sharex=True, layout="constrained")
for name, (label, style) in styles.items():
    top.plot(epochs, [look[name] for _, look in looks], label=label, markersize=5, **style)
for name in ("hardest_expansion", "hardest_loop"):
    label, style = styles[name]
    gap = [1 - look[name] / look["hardest_real"] for _, look in looks]
    bottom.plot(epochs, gap, label=label, markersize=5, **style)
top.set(ylabel="distance to the hardest negative", title=f"Mean over {BATCH_SIZE} anchors")
bottom.set(xlabel="epoch", ylabel="nearer than the real one by")
bottom.yaxis.set_major_formatter("{x:.0%}")
bottom.set_yticks([0, 0.1, 0.2, 0.3])
bottom.set_ylim(0, 0.31)
bottom.set_xticks(range(EPOCHS + 1))
for axes in (top, bottom):
    axes.axvline(1, color="0.6", linewidth=1)
    axes.grid(color="0.9")
    axes.legend()
top.annotate("LoOp from here", (1, 0.02), (4, 0), textcoords="offset points", color="0.3")
top.set_ylim(0, None)
