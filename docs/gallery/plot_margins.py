r"""Recall@1 by margin, for real and synthetic negatives
====================================================

How much the margin of a triplet loss matters, and how much the kind of its negatives.

Each point is the mean of three trainings of the study, judged on the validation classes. A bar goes
from the worst of the three to the best. The learning rate is 0.001 on glyphs and 0.0003 on emoji.
Two kinds of negatives are real: *every positive* is the hard mining of pytorch-metric-learning that
keeps every positive pair, *LoOp, real* is the miner ``LoOpMiner()``. Two are synthetic.

**What to see:** on glyphs the bars overlap, so three trainings do not tell the kinds apart. On
emoji the two real kinds are above the two synthetic ones from a margin of 0.4 on. With 0.2 all four
are lower there.
"""

# Needs a file of a clone of loopml. Run from the root of the clone:
# python docs/gallery/plot_margins.py

import csv
from pathlib import Path

import matplotlib.pyplot as plt

FILE = "benchmarks/results/retrieval_study_tuning.csv"
here = Path.cwd()
root = next(folder for folder in (here, *here.parents) if (folder / FILE).exists())
with (root / FILE).open(newline="") as file:
    rows = [row for row in csv.DictReader(file) if (row["loss"], row["idea"]) == ("triplet", "")]

MARGINS = ("0.2", "0.4", "0.8", "1.2")
RATES = {"glyphs": "0.001", "emoji": "0.0003"}
KINDS = {  # colours of Okabe and Ito
    "every_positive": ("every positive", {"color": "black", "marker": "o", "linestyle": ":"}),
    "loop_index": ("LoOp, real", {"color": "#0072B2", "marker": "^", "linestyle": "-"}),
    "loop": ("LoOp, synthetic", {"color": "#D55E00", "marker": "D", "linestyle": "-."}),
    "expansion": ("EE, synthetic", {"color": "#E69F00", "marker": "s", "linestyle": "--"}),
}

figure, panels = plt.subplots(1, 2, figsize=(7.4, 4.6), layout="constrained")
for axes, (dataset, rate) in zip(panels, RATES.items(), strict=True):
    for shift, (kind, (name, style)) in enumerate(KINDS.items()):
        recalls = [
            [
                100 * float(row["recall_at_1"])
                for row in rows
                if (row["dataset"], row["synthesis"]) == (dataset, kind)
                and (row["margin"], row["learning_rate"]) == (margin, rate)
            ]
            for margin in MARGINS
        ]
        places = [place + 0.08 * (shift - 1.5) for place in range(len(MARGINS))]
        means = [sum(found) / len(found) for found in recalls]
        axes.plot(places, means, label=name, **style)
        axes.vlines(places, *zip(*((min(x), max(x)) for x in recalls), strict=True), style["color"])
    axes.set(title=dataset, xlabel="margin", xticks=range(len(MARGINS)), xticklabels=MARGINS)
    axes.grid(color="0.9")
panels[0].set_ylabel("Recall@1 on validation classes, %")
handles, names = panels[0].get_legend_handles_labels()
figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
plt.show()
