"""What each difference from the papers' code does, in numbers: `docs/differences.md` quotes them.

`benchmarks/steps/original.py` is a transcription of the papers' algorithm, with its flaws. From
the root of the repository, a few seconds:

    python -m benchmarks.accuracy.differences
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.steps import original
from benchmarks.steps.batches import EMBEDDINGS, Setting
from loopml import HPHNTripletLoss, LoOpMiner
from loopml.geometry import arc_distance, closest_on_segments, segment_distance

PAIRS, DIM = 2000, 16
CONSECUTIVE = HPHNTripletLoss(synthesizer=LoOpMiner(pairing="consecutive"))
ALL = HPHNTripletLoss(synthesizer=LoOpMiner())


def random_ends() -> Tensor:
    """Unit vectors (4, PAIRS, DIM), the same each time."""
    generator = torch.Generator().manual_seed(0)
    return normalize(torch.randn(4, PAIRS, DIM, generator=generator, dtype=torch.float64), dim=-1)


def batch(kind: str, per_class: int) -> tuple[Tensor, Tensor]:
    """128 rows of 64 dimensions in float64."""
    x = EMBEDDINGS[kind](Setting(128, 64, per_class, kind), torch.Generator().manual_seed(0))
    return x.double(), torch.arange(128 // per_class).repeat_interleave(per_class)


def share(mask: Tensor) -> str:
    """In per cent."""
    return f"{100 * mask.double().mean().item():.1f} %"


def with_gradient(function: object, x: Tensor, *rest: object) -> tuple[float, Tensor]:
    """The value of a loss and its gradient."""
    x = x.clone().requires_grad_()
    value = function(x, *rest)  # type: ignore[operator]
    return value.item(), torch.autograd.grad(value, x)[0]


def arcs() -> Iterator[tuple[str, str]]:
    """Where the case analysis finds nothing, and where its gradient is NaN."""
    p0, p1, q0, q1 = random_ends()
    around = normalize(p1 - (p1 * p0).sum(1, keepdim=True) * p0, dim=-1)
    angles = 2 * torch.pi * torch.rand(4, PAIRS, 1, generator=torch.Generator().manual_seed(1))
    circle = [a.cos().double() * p0 + a.sin().double() * around for a in angles]
    families = {
        "general position": (p0, p1, q0, q1),
        "a shared end": (p0, p1, p0, q1),
        "one great circle": circle,
        "a point (coincident ends)": (p0, p0, q0, q1),
        "opposite ends": (p0, -p0, q0, q1),
    }
    for name, family in families.items():
        ends = [x.clone().requires_grad_() for x in family]
        theirs, ours = original.arc_distance(*ends), arc_distance(*ends)
        wrong = ~((theirs - ours).abs() < 1e-3)
        found = torch.stack([x.isnan().any(1) for x in torch.autograd.grad(theirs.sum(), ends)])
        own = torch.stack([x.isnan().any(1) for x in torch.autograd.grad(ours.sum(), ends)])
        yield (
            f"arcs, {name}",
            f"the code's distance is off by more than 0.001 for {share(wrong)}, 1000 or NaN for "
            f"{share(~(theirs < 999))}, and its gradient NaN for {share(found.any(0))}; "
            f"ours {share(own.any(0))}",
        )


def losses() -> Iterator[tuple[str, str]]:
    """HPHN + LoOp of the code and ours, on the same batch."""
    x, labels = batch("clustered", 2)
    (theirs, their_gradient) = with_gradient(original.hphn_triplet, x, labels)
    (ours, our_gradient) = with_gradient(CONSECUTIVE, x, labels)
    off = (our_gradient - their_gradient).norm() / their_gradient.norm()
    yield (
        "two of a class, no ties",
        f"loss {theirs:.6f} and {ours:.6f}, gradients apart by {off.item():.0e} of their length",
    )
    x, labels = batch("clustered", 4)
    yield (
        "four of a class",
        f"consecutive pairs {CONSECUTIVE(x, labels):.4f} on 64 curves, all pairs "
        f"{ALL(x, labels):.4f} on 192",
    )
    x, labels = batch("collapsed", 2)
    theirs, ours = original.hphn_triplet(x, labels), CONSECUTIVE(x, labels)
    first, second = normalize(x[0::2]), normalize(x[1::2])
    left_out = 2 * torch.asin((first - second).norm(dim=1) / 2) < 1e-3
    yield (
        "angles under 0.001, in a collapsed batch",
        f"{share(left_out)} of the pairs left out; loss {theirs:.4f} and {ours:.4f}",
    )


def ties() -> Iterator[tuple[str, str]]:
    """A pair with a negative pair on its left and the mirror image of it on its right."""
    x = [[1, 0, 0.1], [1, 0, 0.5], [1, 2, 0.1], [1, 2, 0.5], [1, -2, 0.1], [1, -2, 0.5]]
    rows = normalize(torch.tensor(x, dtype=torch.float64))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    (theirs, their_gradient) = with_gradient(original.hphn_triplet, rows, labels, 1.0)
    (ours, our_gradient) = with_gradient(
        HPHNTripletLoss(1.0, synthesizer=LoOpMiner()), rows, labels
    )
    shared, given = (
        [gradient[pair].norm() for pair in (slice(2, 4), slice(4, 6))]
        for gradient in (their_gradient, our_gradient)
    )
    yield (
        "two negatives tie",
        f"loss {theirs:.6f} and {ours:.6f}; gradients of the two negatives "
        f"{shared[0]:.3f}, {shared[1]:.3f} and {given[0]:.3f}, {given[1]:.3f}",
    )


def curves() -> Iterator[tuple[str, str]]:
    """Segments, dot products and points between that are not normalised."""
    x = batch("clustered", 2)[0]
    i, j = torch.triu_indices(64, 64, 1)
    ends = x[2 * i], x[2 * i + 1], x[2 * j], x[2 * j + 1]
    nearest = closest_on_segments(*ends)
    at_ends = torch.stack([(a - b).norm(dim=1) for a in ends[:2] for b in ends[2:]]).amin(0)
    yield (
        "segments",
        f"mean distance of ends {at_ends.mean():.3f}, of segments {nearest.distance.mean():.3f}",
    )
    largest = torch.stack([(a * b).sum(1) for a in ends[:2] for b in ends[2:]]).amax(0)
    there = (nearest.point_p * nearest.point_q).sum(1)
    yield (
        "products of segments",
        f"at the nearest points {there.mean():.3f} on average, the largest {largest.mean():.3f}; "
        f"smaller for {share(there < largest - 1e-9)}",
    )
    units = [normalize(x, dim=1) for x in ends]
    yield (
        "points between unit vectors",
        f"mean distance of chords {segment_distance(*units).mean():.3f}, "
        f"of arcs {arc_distance(*units).mean():.3f}",
    )


def main() -> None:
    """Print all."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for part in (arcs, losses, ties, curves):
        for name, effect in part():
            print(f"{name}: {effect}")


if __name__ == "__main__":
    main()
