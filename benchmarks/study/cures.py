"""Cures of the collapse of HPHN with synthetic negatives, side by side.

HPHN on the glyphs with each cure below: first epochs, which count as collapsed as in
`benchmarks.study.collapse`, and whole trainings, judged by Recall@1 on unseen scripts. From the
root of the repository:

    python -m benchmarks.study.cures

adds to `benchmarks/results/collapse_cures.csv` a row for each epoch of each training that it lacks
(all take about a quarter of an hour on one core), and prints a table.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from statistics import mean
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.reducers import DoNothingReducer
from torch import Tensor, nn

from benchmarks.provenance import RESULTS, commit_and_machine
from benchmarks.study.collapse import NEAR
from examples.kit import glyphs
from examples.kit.training import (
    Training,
    embed,
    epoch_of_batches,
    fixed_batch,
    hardest_negatives,
    make_loss,
    retrieval,
)

FILE = RESULTS / "collapse_cures.csv"
KEPT = "real_until_apart"  # an option of the loss
RATES = (3e-4, 1e-3)
load = cache(glyphs.load)
RAMP = 129  # steps until all negatives are synthetic: three epochs


def selective(d_ap: Tensor, real: Tensor, synthetic: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Pull no positive that is farther than the negative (Xuan et al., ECCV 2020)."""
    return torch.where(synthetic < d_ap, d_ap.detach(), d_ap), synthetic


def ramp(d_ap: Tensor, real: Tensor, synthetic: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """From real negatives to synthetic ones, in equal steps."""
    share = min(1, step / RAMP)
    return d_ap, (1 - share) * real + share * synthetic


def real_while_half(
    d_ap: Tensor, real: Tensor, synthetic: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """The real negative while the synthetic one is nearer than half of the positive."""
    return d_ap, torch.where(synthetic < d_ap / 2, real, synthetic)


Cure = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
CURES: Mapping[str, Cure | None] = MappingProxyType(
    {  # None: the library has it
        "none": None,
        "selective": selective,
        "ramp": ramp,
        "real while half": real_while_half,
        KEPT: None,
    }
)


class Cured(nn.Module):
    """HPHN on the distances that a cure makes of its own; every row of a batch is an anchor."""

    def __init__(self, cure: Cure, synthesis: str, margin: float) -> None:
        super().__init__()
        self.cure, self.margin, self.step = cure, margin, 0
        # No distance on the unit sphere reaches this margin, so its elements tell d_an.
        self.elements = make_loss("hphn", synthesis, margin=4.0, reducer=DoNothingReducer())

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean over anchors."""
        between, same = LpDistance()(embeddings), labels.unsqueeze(1) == labels
        d_ap = between.masked_fill(~same, 0).amax(1)
        real = between.masked_fill(same, torch.inf).amin(1)
        synthetic = d_ap + 4 - self.elements(embeddings, labels)["loss"]["losses"]
        d_ap, d_an = self.cure(d_ap, real, synthetic, self.step)
        self.step += 1
        return torch.relu(d_ap - d_an + self.margin).mean()


class Trial(NamedTuple):
    """One training with a cure."""

    cure: str
    synthesis: str
    margin: float
    learning_rate: float
    epochs: int
    seed: int


def trials() -> Iterator[Trial]:
    """First epochs with each cure, and whole trainings with those that prevent a collapse."""
    for cure, synthesis, rate, seed in product(CURES, ("expansion", "loop"), RATES, range(6)):
        yield Trial(cure, synthesis, 0.2, rate, epochs=1, seed=seed)
    for seed in range(5):
        yield Trial("none", "none", 0.8, 1e-3, epochs=12, seed=seed)
        for cure in (KEPT, "selective", "ramp")[: 1 if seed > 2 else None]:
            yield Trial(cure, "loop", 0.8, 1e-3, epochs=12, seed=seed)


def try_cure(trial: Trial) -> list[dict[str, Any]]:
    """A row for each epoch, the last with the Recall@1 on unseen scripts."""
    torch.set_num_threads(1)
    data = load("train")
    batch = fixed_batch(data.images, data.labels)
    training = Training("hphn", "none", trial.seed, torch.device("cpu"))
    training.optimizer = torch.optim.Adam(training.net.parameters(), lr=trial.learning_rate)
    cure, kept = CURES[trial.cure], trial.cure == KEPT
    training.loss = (
        Cured(cure, trial.synthesis, trial.margin)
        if cure
        else make_loss("hphn", trial.synthesis, margin=trial.margin, real_until_apart=kept)
    )
    rows = []
    for epoch in range(trial.epochs):
        loss = training.run_epoch(epoch_of_batches(data, data.labels))
        near = hardest_negatives(embed(training.net, batch.images, training.device), batch.labels)
        rows.append({**trial._asdict(), "epoch": epoch + 1, "train_loss": loss, **near})
    if trial.epochs > 1:
        test = load("test")
        found = retrieval(embed(training.net, test.images, training.device), test.labels)
        rows[-1]["recall_at_1"] = found["recall_at_1"]
    return rows


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """For each cure the first epochs that ended collapsed, and Recall@1 of whole trainings.

    In brackets the mean distance to the hardest real negative, and the difference to plain HPHN.
    """
    header = [f"first epochs collapsed, learning rate {rate:g}" for rate in RATES]
    lines = [f"| cure | {' | '.join(header)} | Recall@1 % |", "|---" * (2 + len(RATES)) + "|"]
    for cure in CURES:
        cells = []
        for rate in RATES:
            of_cell = (cure, str(rate), "1")
            nearest = [
                float(row["hardest_real"])
                for row in rows
                if (row["cure"], row["learning_rate"], row["epochs"]) == of_cell
            ]
            near = sum(distance < NEAR for distance in nearest)
            cells.append(f"{near} of {len(nearest)} ({mean(nearest):.2f})")
        lines.append(f"| {cure} | {' | '.join(cells)} | {_recall(rows, cure, 'loop')} |")
    lines.append(f"| real negatives alone | | | {_recall(rows, 'none', 'none')} |")
    return "\n".join(lines)


def _recall(rows: Sequence[Mapping[str, str]], cure: str, synthesis: str) -> str:
    """The mean over seeds, and how far it is from that of plain HPHN from the same ones."""
    plain, ours = (
        {
            row["seed"]: 100 * float(row["recall_at_1"])
            for row in rows
            if row["recall_at_1"] and (row["cure"], row["synthesis"]) == cell
        }
        for cell in (("none", "none"), (cure, synthesis))
    )
    if not ours:
        return ""
    if synthesis == "none":
        return f"{mean(ours.values()):.1f}"
    difference = mean(ours[seed] - plain[seed] for seed in ours)
    return f"{mean(ours.values()):.1f} ({difference:+.1f})"


def main() -> None:
    """Train what has no rows yet, one after the other; rows are written as a training ends."""
    where = commit_and_machine()
    names = [*Trial._fields, "epoch", "train_loss", "hardest_real", "hardest_expansion"]
    names += ["hardest_loop", "recall_at_1", *where]
    done = {tuple(row[name] for name in Trial._fields) for row in committed()}
    with FILE.open("a", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")  # other distances
        if not done:
            writer.writeheader()
        for trial in trials():
            if tuple(map(str, trial)) not in done:
                writer.writerows({**row, **where} for row in try_cure(trial))
                file.flush()
    print(table(committed()))


def committed() -> list[dict[str, str]]:
    """The rows that are there."""
    if not FILE.exists():
        return []
    with FILE.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
