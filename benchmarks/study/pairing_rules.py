"""Which rows of a large class to join: how much of what all curves find a few of them keep.

A class of s rows has s (s - 1) / 2 curves, and a search looks at the square of their number. Each
rule joins a row with a few others of its class. With d the mean distance from an anchor's curves to
the nearest curve of another class, the table shows ``(real - d) / (real - all)``: the share that a
rule keeps of the lead that all curves have over real rows, its mean and its least over the batches.
A minute, from the root of the repository:

    python -m benchmarks.study.pairing_rules

writes `benchmarks/results/pairing_rules.csv` and prints the table.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.provenance import RESULTS, ROOT, commit_and_machine
from loopml import ops
from loopml._types import Gram, Pairs, Side
from loopml.pairing import nearest_others

GLYPHS = ROOT / "examples" / "kit" / "data" / "glyphs.npz"
SHAPES = ((64, 2, 64), (160, 2, 64), (160, 10, 128), (320, 10, 128))  # rows, classes, dimensions
SEEDS = (0, 1)
# A rule scores how much a row wants each other row of its class, (n, n), and takes the first.
Rule = Callable[[Tensor, Tensor], Tensor]


def nearest(gram: Tensor, labels: Tensor) -> Tensor:
    """The nearest rows of its class."""
    return gram


def farthest(gram: Tensor, labels: Tensor) -> Tensor:
    """The farthest rows of its class."""
    return -gram


def spread(gram: Tensor, labels: Tensor) -> Tensor:
    """Rows at any distance: those of an arbitrary order."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(gram.shape, generator=generator)


def frontier(gram: Tensor, labels: Tensor) -> Tensor:
    """The rows of its class that lie nearest to another class."""
    return nearest_of_others(gram, labels).expand_as(gram)


def nearest_of_others(gram: Tensor, labels: Tensor) -> Tensor:
    """The product of each row with the nearest row of another class: (n,)."""
    square = gram.diagonal()
    return nearest_others(Gram(gram, square, square), labels, labels, similarity=True)


RULES: tuple[tuple[Rule, int], ...] = (
    (nearest, 2),
    (nearest, 4),
    (farthest, 2),
    (farthest, 4),
    (spread, 2),
    (spread, 4),
    (frontier, 1),
    (frontier, 2),
    (frontier, 3),
    (frontier, 4),
)
CHOSEN = ("frontier", 2)  # what `pairing="auto"` does


def chosen(wish: Tensor, labels: Tensor, count: int) -> Tensor:
    """Which rows each row is joined with: (n, n) bool."""
    mates = (labels.unsqueeze(1) == labels).fill_diagonal_(False)
    best = wish.masked_fill(~mates, -torch.inf).topk(count)
    return torch.zeros_like(mates).scatter_(1, best.indices, best.values > -torch.inf)


def mean_distance(gram: Tensor, labels: Tensor, joined: Tensor) -> tuple[float, int]:
    """From the curves that a row is joined by to the nearest of another class; how many there are.

    A curve that a row was joined by without wishing so is another row's.
    """
    first, second = (joined | joined.T).triu().nonzero(as_tuple=True)
    curves = Side(Pairs(first, second, labels[first]), gram[first, second])
    square = gram.diagonal()
    value = ops.nearest_arcs(Gram(gram, square, square), curves, curves)[1][:, 0]
    of_pair = torch.full_like(gram, torch.inf)
    of_pair[first, second] = of_pair[second, first] = value
    cosine = -of_pair.masked_fill(~joined, torch.inf).amin(1)
    return (2 - 2 * cosine).clamp(min=0).sqrt().mean().item(), len(first)


def batches() -> Iterator[tuple[str, Tensor, Tensor]]:
    """Random and clustered unit vectors, and pixels of glyphs whose class is their script."""
    glyphs = np.load(GLYPHS)
    scripts, sizes = np.unique(glyphs["script"], return_counts=True)
    for n, classes, dim in SHAPES:
        for seed in SEEDS:
            generator = torch.Generator().manual_seed(seed)
            labels = torch.arange(n) % classes
            noise = torch.randn(n, dim, generator=generator)
            centres = torch.randn(classes, dim, generator=generator)[labels]
            yield "random", normalize(noise), labels
            yield "loose clusters", normalize(centres + 2 * noise), labels
            yield "tight clusters", normalize(centres + 0.5 * noise), labels
            rng = np.random.default_rng(seed)
            kept = rng.choice(scripts[sizes >= n // classes], classes, replace=False)
            rows = [
                rng.choice(np.flatnonzero(glyphs["script"] == script), n // classes, replace=False)
                for script in kept
            ]
            pixels = torch.from_numpy(glyphs["images"][np.concatenate(rows)]).float().flatten(1)
            by_class = torch.arange(classes).repeat_interleave(n // classes)
            yield "scripts", normalize(pixels - pixels.mean(0)), by_class


def measured() -> list[dict[str, Any]]:
    """A row for each rule and number of rows: what it keeps of each kind of batches."""
    kept: dict[tuple[Rule, int], list[tuple[str, float, float]]] = {rule: [] for rule in RULES}
    for kind, x, labels in batches():
        gram = x @ x.T
        everything = (labels.unsqueeze(1) == labels).fill_diagonal_(False)
        least, _ = mean_distance(gram, labels, everything)
        real = (2 - 2 * nearest_of_others(gram, labels)).clamp(min=0).sqrt().mean()
        for (rule, count), found in kept.items():
            joined = chosen(rule(gram, labels), labels, count)
            distance, curves = mean_distance(gram, labels, joined)
            share = (real.item() - distance) / (real.item() - least)
            found.append((kind, share, curves / len(x)))
    rows = []
    for (rule, count), found in kept.items():
        row = {"rule": rule.__name__, "count": count}
        row["curves"] = fmean(curves for _, _, curves in found)
        for kind in dict.fromkeys(kind for kind, _, _ in found):
            row[kind] = fmean(share for each, share, _ in found if each == kind)
        row["least"] = min(share for _, share, _ in found)
        rows.append(row)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as the page on hard negatives shows them, which sets the chosen rule in bold."""
    kinds = ("random", "loose clusters", "tight clusters", "scripts", "least")
    names = (*kinds[:-1], "least of all")
    lines = [f"| joined with | rows | curves per row | {' | '.join(names)} |", "|---" * 8 + "|"]
    for row in rows:
        cells = [row["rule"], row["count"], f"{float(row['curves']):.1f}"]
        cells += [f"{float(row[kind]):.2f}" for kind in kinds]
        if (row["rule"], int(row["count"])) == CHOSEN:
            cells = [f"**{cell}**" for cell in cells]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Write the rows and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "pairing_rules.csv")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    rows = [{**row, **commit_and_machine()} for row in measured()]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    print(table(rows))


if __name__ == "__main__":
    main()
