"""How accurate distances between curves are when the curves nearly touch, ours and the original's.

Pairs of curves are built around a common perpendicular, so that their nearest points lie inside
both, a known separation apart, then turned at random in 32 dimensions. The inputs are rounded to
the dtype first and the true distance is that of the rounded inputs: a search in extended precision
that shares nothing with the formulas on trial. The error is thus the algorithm's, not the input's,
and it is given relative to the true distance. Needs x86-64, for its 80-bit `numpy.longdouble`.

    python -m benchmarks.accuracy.conditioning

writes `benchmarks/results/conditioning.csv` and draws `docs/figures/conditioning.png`.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from pytorch_metric_learning.distances import LpDistance
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.provenance import RESULTS, ROOT, now, provenance
from benchmarks.steps import original
from loopml import HPHNTripletLoss, LoOpMiner
from loopml.geometry import arc_distance, segment_distance

FIGURE = ROOT / "docs" / "figures" / "conditioning.png"
DIM, PROBLEMS = 32, 32
SEPARATIONS = tuple(10.0 ** (k / 2) for k in range(-16, 1))  # 1e-8 to 1
DTYPES = (torch.float32, torch.float64)
Distance = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


# --- problems ----------------------------------------------------------------------------------


def curves(kind: str, separation: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Ends p0, p1, q0, q1 (4, count, DIM) of curves whose least distance is ``separation``.

    One curve runs along ``a`` through x, the other through a point y straight above in direction
    ``u``, at an angle of 66 to 90 degrees to the first, so that on the sphere too, up to a
    separation of 1, x and y are the nearest points.
    """
    basis = np.linalg.qr(rng.normal(size=(count, DIM, 4)))[0]
    x, u, a, b = np.moveaxis(basis, -1, 0)
    crossing = rng.uniform(1.15, np.pi / 2, (count, 1))
    tangents = a, np.cos(crossing) * a + np.sin(crossing) * b
    gap = 2 * np.arcsin(separation / 2)
    y = np.cos(gap) * x + np.sin(gap) * u if kind == "arc" else x + separation * u
    ends = []
    for point, tangent in zip((x, y), tangents, strict=True):
        for side in (-1, 1):
            reach = side * rng.uniform(0.2, 1.2, (count, 1))
            if kind == "arc":
                ends.append(np.cos(reach) * point + np.sin(reach) * tangent)
            else:
                ends.append(point + reach * tangent)
    return np.stack(ends)


# --- the truth ---------------------------------------------------------------------------------


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum(-1, keepdims=True))


def _on(kind: str, start: np.ndarray, end: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Points of curves at parameters t; arcs are the normalised chord, whatever their speed."""
    point = start + t[..., None] * (end - start)
    return _unit(point) if kind == "arc" else point


def _nearest_on(kind: str, x: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The point of curves that is nearest to x: below it, or the better end."""
    along = end - start
    if kind == "arc":
        # x's shadow on the plane of the arc is a positive mix of the ends, or an end is nearest.
        cosine = (start * end).sum(-1)
        to_start, to_end = (x * start).sum(-1), (x * end).sum(-1)
        weights = to_start - cosine * to_end, to_end - cosine * to_start
        inside = (weights[0] > 0) & (weights[1] > 0)
        t = np.where(inside, weights[1] / (weights[0] + weights[1]), to_end > to_start)
    else:
        t = np.clip(((x - start) * along).sum(-1) / (along * along).sum(-1), 0, 1)
    return _on(kind, start, end, t)


def true_distance(kind: str, ends: np.ndarray) -> np.ndarray:
    """The least distance (count,) of curves, by a grid that zooms in, in extended precision."""
    wide = ends.astype(np.longdouble)
    p0, p1, q0, q1 = (_unit(wide) if kind == "arc" else wide)[:, :, None]
    low, high = np.zeros(p0.shape[:1], np.longdouble), np.ones(p0.shape[:1], np.longdouble)
    for points in [129] + [9] * 26:  # then the window is 1e-17 of the curve
        s = np.linspace(low, high, points, axis=-1)  # (count, points)
        x = _on(kind, p0, p1, s)
        difference = x - _nearest_on(kind, x, q0, q1)
        distance = np.sqrt((difference * difference).sum(-1))
        best = distance.argmin(-1)[:, None]
        centre, step = np.take_along_axis(s, best, -1)[:, 0], (high - low) / (points - 1)
        low, high = np.maximum(centre - step, 0), np.minimum(centre + step, 1)
    return np.take_along_axis(distance, best, -1)[:, 0]


# --- the algorithms ----------------------------------------------------------------------------


def in_loss(kind: str) -> Distance:
    """The distance to the hardest negative within HPHN + LoOp, which its stats tell."""
    loss = HPHNTripletLoss(
        synthesizer=LoOpMiner(),
        distance=LpDistance(normalize_embeddings=kind == "arc"),
        collect_stats=True,
    )
    labels = torch.tensor([0, 0, 1, 1])

    def distance(*ends: Tensor) -> Tensor:
        found = []
        for batch in torch.stack(ends, 1):  # all four anchors have the same hardest negative
            loss(batch, labels)
            found.append(float(loss.hardest_synthetic_negative))
        return torch.tensor(found, dtype=torch.float64)

    return distance


def transcribed(*ends: Tensor) -> Tensor:
    """The original's distance, on normalised ends as it has them."""
    return original.arc_distance(*map(normalize, ends))


METHODS: Mapping[str, Mapping[str, Distance]] = {
    "arc": {
        "arc_distance": arc_distance,
        "HPHN + LoOp": in_loss("arc"),
        "original, transcribed": transcribed,
    },
    "segment": {"segment_distance": segment_distance, "HPHN + LoOp": in_loss("segment")},
}


def measured(problems: int) -> Iterator[dict[str, Any]]:
    """The errors of each method and dtype at each separation."""
    rng = np.random.default_rng(0)
    date = now()
    for kind, methods in METHODS.items():
        for separation in SEPARATIONS:
            ends = torch.tensor(curves(kind, separation, problems, rng))
            for dtype in DTYPES:
                rounded = ends.to(dtype)
                truth = true_distance(kind, rounded.double().numpy())
                for name, distance in methods.items():
                    found = distance(*rounded).double().numpy()
                    dropped = found > 2  # no chord of the unit sphere: what counts as rejected
                    error = np.abs(found - truth)[~dropped] / truth[~dropped]
                    yield {
                        "date": date,
                        **provenance(),
                        "curve": kind,
                        "method": name,
                        "dtype": str(dtype).removeprefix("torch."),
                        "separation": f"{separation:.3g}",
                        "true_distance": f"{np.median(truth):.3g}",
                        "problems": problems,
                        "dropped": int(dropped.sum()),
                        "median_error": f"{np.median(error):.3g}",
                        "largest_error": f"{error.max():.3g}",
                    }


# --- the figure --------------------------------------------------------------------------------

# Okabe-Ito, told apart by any eye; the original in grey, as in the other figure.
COLORS = {"distance": "#0072B2", "HPHN + LoOp": "#D55E00", "original, transcribed": "0.45"}
LEAST_DRAWN = 1e-18


def draw(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Median errors as lines and the largest as the top of a band, by true distance."""
    figure, panels = plt.subplots(1, 2, figsize=(7.4, 5), sharey=True, dpi=200)
    for axes, kind in zip(panels, METHODS, strict=True):
        axes.set_title(f"{kind}s", loc="left")
        for method in METHODS[kind]:
            color = COLORS.get(method, COLORS["distance"])
            for dtype, style in (("float32", "--"), ("float64", "-")):
                chosen = [
                    r
                    for r in rows
                    if (r["curve"], r["method"], r["dtype"]) == (kind, method, dtype)
                ]
                x, middle, top = (
                    np.array([float(r[name]) for r in chosen])
                    for name in ("true_distance", "median_error", "largest_error")
                )
                middle, top = np.maximum(middle, LEAST_DRAWN), np.maximum(top, LEAST_DRAWN)
                axes.plot(x, middle, style, color=color, linewidth=1.8, label=f"{method}, {dtype}")
                axes.fill_between(x, middle, top, color=color, alpha=0.12, linewidth=0)
        axes.set(xscale="log", yscale="log", xlabel="true distance of the curves")
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.legend(fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    panels[0].set_ylabel("error of the distance over the distance")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "conditioning.csv")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--problems", type=int, default=PROBLEMS)
    options = parser.parse_args(arguments)
    if np.finfo(np.longdouble).eps > 1e-18:
        parser.error("this machine has no floating point wider than float64 to know the truth with")
    rows = list(measured(options.problems))
    with options.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, options.figure)


if __name__ == "__main__":
    main()
