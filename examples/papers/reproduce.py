"""Train and test on CUB-200-2011, CARS196 and Stanford Online Products as the papers did.

Network, batches, augmentation, optimiser and schedule are by default those of the official code of
Embedding Expansion and LoOp. From the root of the repository, with `pip install -e ".[reproduce]"`:

    python -m examples.papers.reproduce --dataset cub200 --data-dir data \
        --loss hphn --synthesis loop \
        --weights googlenet-1378be20.pth --save-dir runs/cub200-loop
    python -m examples.papers.reproduce ... --resume        # go on where a run was stopped
    python -m examples.papers.reproduce --preset cub200-hphn-loop ...
    torchrun --nproc-per-node 2 -m examples.papers.reproduce ...

The save folder receives `metrics.csv` (a row for each epoch), TensorBoard events, `last.pt` (what
it takes to go on) and `best.pt` (the weights with the highest Recall@K, of the smallest K).

A stopped epoch is run again from its start. Its batches, augmentation and random layers depend on
the seed and the epoch alone, so on a CPU a resumed run equals an uninterrupted one bit for bit,
with one and the same number of threads.
"""

from __future__ import annotations

import csv
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from examples.kit.saving import replacing
from examples.papers.datasets import Split, load, surprise
from examples.papers.options import parse
from examples.papers.processes import Process, start_process
from examples.papers.training import Training

Row = dict[str, float]


def main(argv: Sequence[str] | None = None) -> None:
    """Train, or train on."""
    options = parse(argv)
    with start_process(options.device) as process:
        try:
            training = begin(options, process)
        except (OSError, ValueError) as error:
            sys.exit(f"error: {error}")
        run(training)


def begin(options: Namespace, process: Process) -> Training:
    """A training at its start, or where the save folder has it.

    Raises:
        OSError: data or weights are missing.
        ValueError: options do not fit the data, the weights or the save folder.
    """
    last = options.save_dir / "last.pt"
    begun = last.exists()  # asked once: while others get ready, the first process may save it
    if begun and not options.resume:
        raise ValueError(
            f"there is a run in {options.save_dir}; give --resume to go on with it, "
            "or another --save-dir"
        )
    train, test = load(options.dataset, options.data_dir)
    if warning := surprise(options.dataset, train, test):
        process.say(f"WARNING: {warning}")
    check_batch(options, train, process)
    training = Training(options, train, test, process)
    if begun:
        training.load(last)
    start = options.weights or "random weights; the papers start from ImageNet's (see --weights)"
    process.say(
        f"{options.backbone} from {last if begun else start}",
        f"{len(training.batches)} steps of {training.classes} x {options.instances_per_class} "
        f"images in an epoch, {training.epoch} of {options.epochs} epochs done",
    )
    return training


def check_batch(options: Namespace, train: Split, process: Process) -> None:
    """Refuse batches that processes cannot share, and say so if there are too few classes."""
    instances, world = options.instances_per_class, process.world
    wanted = options.batch_size // instances
    if wanted % world:
        raise ValueError(
            f"--batch-size {options.batch_size} holds {wanted} classes of {instances} images, "
            f"which {world} processes cannot share evenly"
        )
    classes = train.classes // world * world
    if classes < 2:
        raise ValueError(
            f"a batch needs {max(2, world)} classes or more for {world} process(es), "
            f"{train.folder} has {train.classes} to train on"
        )
    if classes < wanted:
        process.say(
            f"WARNING: batches hold {classes * instances} images, not {options.batch_size}: "
            f"{instances} of each class, and {train.classes} classes to train on."
        )


def run(training: Training) -> None:
    """Take the epochs that are left; the first process keeps their results."""
    options, process = training.options, training.process
    writer = open_folder(training) if process.first else None
    while training.epoch < options.epochs:
        rate = training.scheduler.get_last_lr()[0]
        loss = training.run_epoch()
        row = {"epoch": training.epoch, "learning_rate": rate, "train_loss": loss}
        if training.epoch % options.eval_every == 0 or training.epoch == options.epochs:
            row |= training.evaluate()
        training.rows.append(row)
        if writer:
            keep(training, writer)
    if writer:
        writer.close()


def open_folder(training: Training) -> SummaryWriter:
    """Write what the checkpoint knows: a killed process may have logged more or less than that."""
    folder = training.options.save_dir
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    writer = SummaryWriter(folder)
    for row in training.rows:
        log(row, writer)
    if training.rows:
        write_csv(folder / "metrics.csv", training.rows)
    else:
        training.save(folder / "last.pt")  # now the folder is known as taken
    return writer


def log(row: Row, writer: SummaryWriter) -> None:
    """Show an epoch in TensorBoard."""
    for name, value in row.items():
        if name != "epoch":
            writer.add_scalar(name, value, int(row["epoch"]))


def keep(training: Training, writer: SummaryWriter) -> None:
    """Write what the last epoch left: weights if they are the best, checkpoint, metrics."""
    folder, rows, row = training.options.save_dir, training.rows, training.rows[-1]
    recall = f"recall_at_{training.options.recall_at[0]}"
    if recall in row:
        training.process.say("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
        if not any(old.get(recall, 0) >= row[recall] for old in rows[:-1]):
            with replacing(folder / "best.pt") as temporary:
                torch.save({"net": training.net.state_dict(), **row}, temporary)
    training.save(folder / "last.pt")
    write_csv(folder / "metrics.csv", rows)
    log(row, writer)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line for each epoch; where it was not evaluated the scores are empty."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, max(rows, key=len).keys())
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
