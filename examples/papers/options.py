"""The command line of `reproduce.py`, with the defaults of the papers' code."""

from __future__ import annotations

import argparse
import csv
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from examples.papers.backbones import BACKBONES
from examples.papers.datasets import LAYOUTS
from examples.papers.losses import LOSSES, SYNTHESES, WITH_MARGIN, WITH_SOFT_MARGIN

PRESETS = Path(__file__).with_name("presets.csv")
# What a resumed run may have otherwise: where it runs, where things are, when it stops and looks.
FREE = ("compile", "data_dir", "device", "epochs", "eval_every", "resume", "save_dir", "workers")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line, of its preset, and else the defaults."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument(
        "--preset",
        choices=(known := presets()),
        metavar="NAME",
        help="the options of a row of the papers' tables; others that are given override them",
    )
    first.add_argument("--list-presets", action="store_true", help="print the presets and stop")
    chosen, rest = first.parse_known_args(argv)
    parser = _parser(first)
    if chosen.list_presets:
        print("\n".join(f"{name}: {line}" for name, line in known.items()))
        parser.exit()
    options = parser.parse_args([*shlex.split(known.get(chosen.preset, "")), *rest])
    del options.preset, options.list_presets
    _check(parser, options)
    return options


def presets() -> dict[str, str]:
    """The arguments of each preset by its name."""
    with PRESETS.open(newline="") as file:
        return {row["preset"]: row["arguments"] for row in csv.DictReader(file)}


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """The options that decide what a training computes, as plain data."""
    kept = {name: value for name, value in vars(options).items() if name not in FREE}
    return {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()}


def flag(name: str) -> str:
    """An option as it is written on the command line."""
    return f"--{name.replace('_', '-')}"


def _parser(parent: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reproduce.py",
        description="Train on CUB-200-2011, CARS196 or Stanford Online Products as the papers did.",
        epilog="An epoch is the papers': as many images as (training classes) x (instances per "
        "class), drawn anew in batches of whole classes. With CARS196 and the defaults it is "
        "98 x 32 = 3,136 images, or 24 steps of 128: less than half a pass over the 8,054 "
        "training images. docs/reproduce.md has the flags' names in the papers' code.",
        parents=[parent],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument_group("data").add_argument
    add("--dataset", choices=list(LAYOUTS), default="cars196", help="in its official layout")
    add("--data-dir", type=Path, default=Path("data"), help="folder of the data set, or above it")
    add("--image-size", type=positive, default=227, help="width and height of the network's input")
    add("--batch-size", type=positive, default=128, help="images in a step, of all processes")
    add(
        "--instances-per-class",
        type=positive,
        default=32,
        help="images of each class in a batch; a class with fewer repeats some",
    )
    add(
        "--workers",
        type=count,
        default=min(10, os.cpu_count() or 1),
        help="loading processes; results do not depend on it",
    )

    add = parser.add_argument_group("model").add_argument
    add("--backbone", choices=list(BACKBONES), default="googlenet", help="of torchvision")
    add("--embed-dim", type=positive, default=512, help="dimension of the embeddings")
    add(
        "--weights",
        type=Path,
        help="state dict to start from, as torchvision saves it for the backbone; the papers start "
        "from ImageNet, without this the start is random",
    )
    add(
        "--freeze-batch-norm",
        action="store_true",
        help="keep the batch normalisations as they are in the weights",
    )

    add = parser.add_argument_group("loss").add_argument
    add("--loss", choices=LOSSES, default="hphn", help="of the papers' tables")
    add(
        "--synthesis",
        choices=SYNTHESES,
        default="expansion",
        help="negatives: real ones, Embedding Expansion's or LoOp's",
    )
    add(
        "--inner-points",
        type=count,
        default=2,
        help="points that Embedding Expansion puts between two embeddings",
    )
    add(
        "--l2norm-synthetic",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="normalise synthetic points; without, LoOp measures segments in place of arcs",
    )
    add(
        "--pairing",
        choices=("consecutive", "all"),
        default="consecutive",
        help="pairs of a class that are joined: images 1 and 2, 3 and 4, ... or each with each",
    )
    add("--margin", type=float, default=1e-5, help=f"of {', '.join(WITH_MARGIN)}")
    add(
        "--soft-margin",
        action="store_true",
        help=f"softplus in place of a margin, for {' and '.join(WITH_SOFT_MARGIN)}",
    )

    add = parser.add_argument_group("optimisation").add_argument
    add("--optim", choices=("adam",), default="adam", help="optimiser")
    add("--lr", type=float, default=1e-4, help="learning rate")
    add("--lr-decay-factor", type=float, default=0.5, help="of the learning rate, at each decay")
    add(
        "--lr-decay-epochs",
        type=numbers,
        default="400,800,1200,1600",
        metavar="N,N,...",
        help="epochs after which the learning rate decays",
    )
    add("--weight-decay", type=float, default=5e-4, help="times the weights, added to the gradient")
    add("--epochs", type=positive, default=4000, help="see below what an epoch is")
    add("--seed", type=count, default=0, help="of weights, batches and augmentation")

    add = parser.add_argument_group("evaluation and files").add_argument
    add(
        "--eval-every",
        type=positive,
        default=5,
        metavar="EPOCHS",
        help="epochs between evaluations; the last epoch is always evaluated",
    )
    add("--recall-at", type=numbers, default="1,2,4,8", metavar="K,K,...", help="K's of Recall@K")
    add("--save-dir", type=Path, default=Path("runs/reproduce"), help="checkpoints and metrics")
    add(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint in the save folder, if there is one",
    )

    add = parser.add_argument_group("machine").add_argument
    add(
        "--device",
        choices=("cpu", "cuda"),
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="under torchrun each process takes a GPU of its own",
    )
    add("--amp", action="store_true", help="mixed precision: float16 on a GPU, bfloat16 on a CPU")
    add("--compile", action="store_true", help="compile the network with torch.compile")
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """What no single option can tell."""
    size, instances = options.batch_size, options.instances_per_class
    if size % instances or size == instances:
        parser.error(
            f"--batch-size must hold two classes or more of --instances-per-class images each, "
            f"got {size} and {instances}"
        )
    if options.pairing == "consecutive" and options.synthesis != "none" and instances % 2:
        parser.error(
            f"--instances-per-class must be even for --pairing consecutive, got {instances}"
        )
    if options.soft_margin and options.loss not in WITH_SOFT_MARGIN:
        parser.error(f"--soft-margin is of {' and '.join(WITH_SOFT_MARGIN)}, not {options.loss}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU")


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    return _whole(text, 1)


def count(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    return _whole(text, 0)


def numbers(text: str) -> list[int]:
    """Increasing whole numbers of at least 1, with commas between, for argparse."""
    return sorted({positive(word) for word in text.split(",")})


def _whole(text: str, least: int) -> int:
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
    return number
