"""Train on the glyphs with and without synthetic negatives, and compare on unseen scripts.

Each combination of loss, kind of negatives and seed is one training of the same small net on the
same batches. Every second epoch measures Recall@1 and MAP@R on characters of scripts that training
never saw. Each image in turn is the query. Needs `pip install ".[examples]"`. From the root of the
repository:

    python examples/train_glyphs.py                          # triplet, about 3 minutes
    python examples/train_glyphs.py --losses supcon circle --seeds 0 1 2
    python examples/train_glyphs.py --resume                 # go on where a run was stopped
    tensorboard --logdir runs/glyphs

The output folder receives `metrics.csv` (a row for each evaluation), `summary.json` and the figure
`recall_at_1.png`. Each run has a folder there with its checkpoint, its metrics and its TensorBoard
events. On the CPU a resumed run equals an uninterrupted one bit for bit, if both have the same
`--threads`.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import faiss
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from kit import glyphs
from kit.training import (
    KINDS,
    LOSSES,
    Training,
    embed,
    epoch_of_batches,
    fixed_batch,
    hardest_negatives,
    kinds_for,
    retrieval,
)

# What the kinds of negatives are, and how their curves look: Okabe and Ito's palette; marker and
# line tell them apart without colour, too.
MEANINGS = {
    "none": "the plain loss: all tuples of the batch (hphn: the hardest)",
    "every_positive": "real, the hardest for each positive pair: pytorch-metric-learning's miner",
    "loop_index": "real, chosen by LoOpMiner: the lines that the README recommends",
    "expansion": "synthetic, Embedding Expansion",
    "loop": "synthetic, LoOp",
}
STYLES = {
    "none": {"color": "#000000", "marker": "o", "linestyle": ":"},
    "every_positive": {"color": "#CC79A7", "marker": "D", "linestyle": "-."},
    "loop_index": {"color": "#009E73", "marker": "v", "linestyle": "-"},
    "expansion": {"color": "#E69F00", "marker": "s", "linestyle": "--"},
    "loop": {"color": "#0072B2", "marker": "^", "linestyle": "-"},
}
Row = dict[str, Any]
bar_line = 1  # on the terminal, below the bar that counts the runs


@dataclass(frozen=True)
class Run:
    """One training."""

    loss: str
    synthesis: str
    seed: int

    def __str__(self) -> str:
        """Also the name of the run's folder."""
        return f"{self.loss}-{self.synthesis}-{self.seed}"


def main(argv: Sequence[str] | None = None) -> None:
    """Train, then write and print the results."""
    options = parse(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys(product(options.losses, options.synthesis, options.seeds))
    runs = [Run(*name) for name in names if name[1] in kinds_for(name[0])]
    rows_of_runs = train_all(runs, options)
    rows = [row for rows in rows_of_runs for row in rows]
    last = [rows[-1] for rows in rows_of_runs]
    write_csv(options.out / "metrics.csv", rows)
    (options.out / "summary.json").write_text(json.dumps(last, indent=2) + "\n")
    draw(rows).savefig(options.out / "recall_at_1.png", dpi=150)
    print(table(last))
    print(f"Figure: {options.out / 'recall_at_1.png'}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Train on glyphs with and without synthetic negatives, test on unseen scripts.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--losses",
        nargs="+",
        choices=LOSSES,
        default=["triplet"],
        metavar="LOSS",
        help=f"any of {', '.join(LOSSES)}, with their default options but for a margin of 0.8 of"
        " triplet and hphn",
    )
    add(
        "--synthesis",
        nargs="+",
        choices=KINDS,
        default=list(KINDS),
        metavar="KIND",
        help=f"where negatives come from: any of {', '.join(KINDS)}; hphn mines for itself and is"
        " not trained on the tuples of a miner",
    )
    add("--seeds", nargs="+", type=int, default=[0], metavar="SEED", help="one run for each")
    add("--epochs", type=positive, default=16, help="passes over the training images")
    add(
        "--eval-every",
        type=positive,
        default=2,
        metavar="EPOCHS",
        help="epochs between evaluations; the last epoch is always evaluated",
    )
    add("--jobs", type=positive, default=2, help="trainings at a time, each in its own process")
    add(
        "--threads",
        type=positive,
        default=1,
        help="CPU threads of each training; more can be far slower on a busy machine",
    )
    add("--device", type=torch.device, default="cpu", help="cpu, cuda or cuda:N")
    add("--data", type=Path, default=glyphs.FILE, help="file written by data/build_glyphs.py")
    add("--out", type=Path, default=Path("runs/glyphs"), help="output folder")
    add(
        "--resume",
        action="store_true",
        help="go on from the checkpoints in the output folder; finished runs are not repeated",
    )
    return parser.parse_args(argv)


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def train_all(runs: Sequence[Run], options: argparse.Namespace) -> list[list[Row]]:
    """The metrics of each run, which depend on neither the other runs nor ``--jobs``."""
    one = partial(train, options=options)
    if options.jobs == 1 or len(runs) == 1:
        return [one(run) for run in tqdm(runs, unit="run")]
    context = multiprocessing.get_context("spawn")
    lines = context.SimpleQueue()
    for line in range(1, options.jobs + 1):
        lines.put(line)
    setup = {"initializer": start_worker, "initargs": (context.RLock(), lines)}
    with ProcessPoolExecutor(options.jobs, context, **setup) as pool:
        return list(tqdm(pool.map(one, runs), total=len(runs), unit="run"))


def start_worker(lock: Any, lines: Any) -> None:
    """Give each process a line of its own for its progress bar."""
    global bar_line
    tqdm.set_lock(lock)
    bar_line = lines.get()


def train(run: Run, options: argparse.Namespace) -> list[Row]:
    """Train one run, or what is left of it, and return its metrics."""
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    folder = options.out / str(run)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    training = Training(run.loss, run.synthesis, run.seed, options.device)
    if options.resume and checkpoint.exists():
        training.load(checkpoint)
    else:
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
    if training.epoch >= options.epochs:
        return training.rows

    train_set, test_set = glyphs.load("train", options.data), glyphs.load("test", options.data)
    probe = fixed_batch(train_set.images, train_set.labels)
    left = range(training.epoch + 1, options.epochs + 1)
    with SummaryWriter(folder, purge_step=left[0]) as writer:
        for epoch in tqdm(left, str(run), position=bar_line, leave=False, disable=None):
            batches = epoch_of_batches(train_set, train_set.labels)
            start = time.perf_counter()
            loss = training.run_epoch(batches)
            seconds = time.perf_counter() - start
            writer.add_scalar("train_loss", loss, epoch)
            if epoch % options.eval_every == 0 or epoch == options.epochs:
                test_embeddings = embed(training.net, test_set.images, options.device)
                probe_embeddings = embed(training.net, probe.images, options.device)
                metrics = {
                    **retrieval(test_embeddings, test_set.labels),
                    **hardest_negatives(probe_embeddings, probe.labels),
                }
                for name, value in metrics.items():
                    writer.add_scalar(name.replace("hardest_", "hardest_negative/"), value, epoch)
                speed = {"ms_per_step": 1000 * seconds / len(batches)}
                training.rows.append(
                    {**vars(run), "epoch": epoch, "train_loss": loss, **metrics, **speed}
                )
                write_csv(folder / "metrics.csv", training.rows)
            training.save(checkpoint)
    return training.rows


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line for each row, with the names of the first row as header."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def group(rows: Sequence[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """The rows by their values of ``names``, in order of appearance."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def draw(rows: Sequence[Row]) -> Figure:
    """Recall@1 over training: a panel for each loss, the mean of the seeds and their range."""
    panels = group(rows, "loss")
    figure = Figure(figsize=(max(6, 4.2 * len(panels)), 3.8), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, ((loss,), of_loss) in zip(all_axes, panels.items(), strict=True):
        for (synthesis,), of_line in group(of_loss, "synthesis").items():
            by_epoch = sorted(group(of_line, "epoch").items())
            epochs = [epoch for (epoch,), _ in by_epoch]
            recall = [[row["recall_at_1"] for row in seeds] for _, seeds in by_epoch]
            style = STYLES[synthesis]
            axes.plot(epochs, [fmean(seeds) for seeds in recall], label=synthesis, **style)
            low, high = [min(seeds) for seeds in recall], [max(seeds) for seeds in recall]
            axes.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.set(title=loss, xlabel="Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel("Recall@1 on unseen scripts")
    all_axes[0].legend()
    return figure


def table(last: Sequence[Row]) -> str:
    """The last evaluation of each loss and synthesis: means of the seeds, with their deviation."""
    header = ("loss", "synthesis", "Recall@1", "gain", "MAP@R", "real", "EE", "LoOp", "ms/step")
    cells = [header]
    for (loss, synthesis), rows in group(last, "loss", "synthesis").items():
        recall = [row["recall_at_1"] for row in rows]
        plain = [r["recall_at_1"] for r in last if (r["loss"], r["synthesis"]) == (loss, "none")]
        hardest = [
            fmean(row[f"hardest_{kind}"] for row in rows) for kind in ("real", "expansion", "loop")
        ]
        cells.append(
            (
                *(loss, synthesis),
                f"{fmean(recall):.3f}" + (f" ± {stdev(recall):.3f}" if len(recall) > 1 else ""),
                f"{fmean(recall) - fmean(plain):+.3f}" if plain and synthesis != "none" else "",
                f"{fmean(row['map_at_r'] for row in rows):.3f}",
                *(f"{distance:.3f}" for distance in hardest),
                f"{fmean(row['ms_per_step'] for row in rows):.0f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    lines.insert(1, "-" * max(map(len, lines)))
    legend = [
        f"{kind}: {meaning}"
        for kind, meaning in MEANINGS.items()
        if any(row["synthesis"] == kind for row in last)
    ]
    legend.append(
        "gain: of Recall@1 over none; real, EE, LoOp: mean distance to the hardest negative"
    )
    return "\n".join([*lines, *legend])


if __name__ == "__main__":
    main()
