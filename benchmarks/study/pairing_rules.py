"""Which rows of a large class to join: how much of what all curves find a few of them keep.

A class of s rows has s (s - 1) / 2 curves, and a search looks at the square of their number. Each
rule joins a row with a few others of its class. With d the mean distance from an anchor's curves to
the nearest curve of another class, the table shows ``(real - d) / (real - all)``: the share that a
rule keeps of the lead that all curves have over real rows, its mean and its least over the batches.
A minute, from the root of the repository:

    python -m benchmarks.study.pairing_rules
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.provenance import ROOT, commit
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


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(1)
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
    kinds = list(dict.fromkeys(kind for kind, _, _ in kept[RULES[0]]))
    print(f"commit {commit()}, torch {torch.__version__}\n")
    print("| joined with | rows | curves per row | " + " | ".join(kinds) + " | least of all |")
    print("|---|---|---|" + "---|" * (len(kinds) + 1))
    for (rule, count), found in kept.items():
        shares = [np.mean([share for kind, share, _ in found if kind == each]) for each in kinds]
        columns = [f"{share:.2f}" for share in [*shares, min(share for _, share, _ in found)]]
        curves = np.mean([per_row for _, _, per_row in found])
        print(f"| {rule.__name__} | {count} | {curves:.1f} | " + " | ".join(columns) + " |")


if __name__ == "__main__":
    main()
