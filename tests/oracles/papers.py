"""Slow oracles in plain numpy, from the papers and the contract, sharing no code with loopml.

Rows are what the distance sees: normalise with `unit` first where the distance normalises.
A curve is a pair of row indices `(first, second)`; `(i, i)` is a sample alone in its class.
"""

from itertools import combinations, product
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Pair = tuple[int, int]


class Hardest(NamedTuple):
    """The two distances an anchor's loss is made of."""

    positive: float
    negative: float


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def pair_distances(p: Array, q: Array) -> Array:
    """Euclidean distances (len(p), len(q)) from explicit differences."""
    return np.linalg.norm(p[:, None] - q[None], axis=-1)


# --- curves of a batch -------------------------------------------------------------------------


def positive_pairs(labels: Array, pairing: str = "all") -> list[Pair]:
    """Every unordered same-class pair, or rows (0, 1), (2, 3), ..."""
    if pairing == "consecutive":
        return [(i, i + 1) for i in range(0, len(labels), 2)]
    return [(i, j) for i, j in combinations(range(len(labels)), 2) if labels[i] == labels[j]]


def curves(labels: Array, pairing: str = "all") -> list[Pair]:
    """Every curve a negative may lie on: the pairs, and each sample that has no partner."""
    pairs = positive_pairs(labels, pairing)
    paired = {i for pair in pairs for i in pair}
    return pairs + [(i, i) for i in range(len(labels)) if i not in paired]


def ordered_pairs(
    labels: Array, pairing: str = "all", ref_labels: Array | None = None
) -> list[Pair]:
    """(anchor, positive) in both orders; with a reference set the positive is a row of that set."""
    if ref_labels is not None:
        rows = product(range(len(labels)), range(len(ref_labels)))
        return [(a, p) for a, p in rows if labels[a] == ref_labels[p]]
    pairs = positive_pairs(labels, pairing)
    return sorted(pairs + [(j, i) for i, j in pairs])


# --- Embedding Expansion: points on a curve ----------------------------------------------------


def inner_points(x0: Array, x1: Array, n: int, l2_norm: bool) -> list[Array]:
    """The n points that cut the line from x0 to x1 into n + 1 equal parts."""
    points = [((n + 1 - k) * x0 + k * x1) / (n + 1) for k in range(1, n + 1)]
    return [unit(point) for point in points] if l2_norm else points


def sampled(x0: Array, x1: Array, n: int, l2_norm: bool) -> Array:
    """The end and inner points of a curve, (n + 2, d)."""
    return np.stack([x0, *inner_points(x0, x1, n, l2_norm), x1])


def sampled_distance(p0: Array, p1: Array, q0: Array, q1: Array, n: int, l2_norm: bool) -> float:
    """Smallest distance between the end and inner points of two curves."""
    return pair_distances(sampled(p0, p1, n, l2_norm), sampled(q0, q1, n, l2_norm)).min()


# --- LoOp: brute-force distance between curves -------------------------------------------------


def point_at(x0: Array, x1: Array, t: Array, geometry: str) -> Array:
    """Point at fraction t of the curve from x0 to x1: of its length, or of its angle on an arc."""
    t = t[..., None]
    if geometry == "segment":
        return (1 - t) * x0 + t * x1
    chord = np.linalg.norm(x1 - x0, axis=-1, keepdims=True)
    angle = 2 * np.arctan2(chord, np.linalg.norm(x1 + x0, axis=-1, keepdims=True))
    sine = np.where(angle > 0, np.sin(angle), 1)
    slerp = (np.sin((1 - t) * angle) * x0 + np.sin(t * angle) * x1) / sine
    return np.where(angle > 0, slerp, x0)


def projection(x: Array, q0: Array, q1: Array, geometry: str) -> Array:
    """Fraction of the curve's point nearest to x: of its plane or line, else the better end."""

    def dot(u: Array, v: Array) -> Array:
        return (u * v).sum(-1)

    if geometry == "segment":
        length2 = dot(q1 - q0, q1 - q0)
        return np.clip(dot(x - q0, q1 - q0) / np.where(length2 > 0, length2, 1), 0, 1)
    across = q1 - dot(q0, q1)[..., None] * q0
    size = np.linalg.norm(across, axis=-1)
    angle = np.arctan2(size, dot(q0, q1))
    size = np.where(size > 0, size, 1)
    t = np.arctan2(dot(x, across) / size, dot(x, q0)) / np.where(angle > 0, angle, 1)
    better_end = np.where(dot(x, q1) > dot(x, q0), 1.0, 0.0)
    return np.where((t >= 0) & (t <= 1) & (angle > 0), t, better_end)


def nearest_on_curves(
    p0: Array, p1: Array, q0: Array, q1: Array, geometry: str
) -> tuple[Array, Array]:
    """Minimum distance between curves and the fraction t on q: dense in s, exact in t, then zoom.

    257 points in s separate the (at most two) valleys; each zoom keeps the two cells around the
    best point, so 12 of them leave a window of 1e-13.
    """
    p0, p1, q0, q1 = (np.broadcast_arrays(p0, p1, q0, q1)[i][..., None, :] for i in range(4))
    low = np.zeros(p0.shape[:-2])
    high = np.ones_like(low)
    for grid in [257] + [17] * 12:
        s = np.linspace(low, high, grid, axis=-1)
        x = point_at(p0, p1, s, geometry)
        t = projection(x, q0, q1, geometry)
        d = np.linalg.norm(x - point_at(q0, q1, t, geometry), axis=-1)
        best = d.argmin(-1)[..., None]
        step = (high - low) / (grid - 1)
        centre = np.take_along_axis(s, best, -1)[..., 0]
        low, high = np.maximum(centre - step, 0), np.minimum(centre + step, 1)
    return tuple(np.take_along_axis(v, best, -1)[..., 0] for v in (d, t))


def curve_distances(
    x: Array, pairs: list[Pair], ref: Array, ref_pairs: list[Pair], geometry: str
) -> tuple[Array, Array]:
    """Minimum distance and t of each (row of x, row of ref) against each curve of ref."""
    a, p = np.array(pairs).T
    q0, q1 = np.array(ref_pairs).T
    return nearest_on_curves(x[a][:, None], ref[p][:, None], ref[q0][None], ref[q1][None], geometry)


# --- what the papers' code computes per anchor -------------------------------------------------


def ee_hphn_paper(x: Array, labels: Array, n: int, l2_norm: bool) -> dict[int, Hardest]:
    """Embedding Expansion's HPHN distances on rows (0, 1), (2, 3), ...: i pairs with i ^ 1."""
    rows = range(len(x))
    own = [[x[i], *inner_points(x[i], x[i ^ 1], n, l2_norm)] for i in rows]
    out = {}
    for i in rows:
        positive = max(np.linalg.norm(x[i] - x[j]) for j in rows if labels[i] == labels[j])
        negative = min(
            np.linalg.norm(mine - theirs)
            for j in rows
            if labels[i] != labels[j]
            for mine in own[i]
            for theirs in own[j]
        )
        out[i] = Hardest(positive, negative)
    return out


def loop_hphn_paper(x: Array, labels: Array, geometry: str) -> dict[int, Hardest]:
    """LoOp's HPHN distances with two samples per class: both rows of a pair share them."""
    pairs = positive_pairs(labels, "consecutive")
    d, _ = curve_distances(x, pairs, x, pairs, geometry)
    out = {}
    for k, (i, j) in enumerate(pairs):
        others = [d[k, m] for m in range(len(pairs)) if labels[pairs[m][0]] != labels[i]]
        out[i] = out[j] = Hardest(np.linalg.norm(x[i] - x[j]), min(others))
    return out


# --- the same for any labels, as the contract words it -----------------------------------------


def hphn_contract(
    x: Array,
    labels: Array,
    kind: str | None,
    *,
    n: int = 0,
    l2_norm: bool = True,
    geometry: str = "arc",
    pairing: str = "all",
    ref: Array | None = None,
    ref_labels: Array | None = None,
) -> dict[int, Hardest]:
    """Distances of every anchor with a positive and a negative; kind: None, "ee" or "loop"."""
    pairs = ordered_pairs(labels, pairing, ref_labels)
    alone = ref is None
    ref, ref_labels = (x, labels) if alone else (ref, ref_labels)
    others = curves(ref_labels, pairing)
    points = list(zip(ref, ref_labels, strict=True))
    if kind == "ee":
        points += [
            (z, ref_labels[i]) for i, j in others for z in inner_points(ref[i], ref[j], n, l2_norm)
        ]
    d, _ = curve_distances(x, pairs, ref, others, geometry) if pairs and kind == "loop" else (0, 0)
    out = {}
    for a, label in enumerate(labels):
        positives = [j for j in range(len(ref)) if ref_labels[j] == label and (not alone or j != a)]
        negatives = [z for z, other in points if other != label]
        if not positives or not negatives:
            continue
        mine = [k for k, pair in enumerate(pairs) if pair[0] == a]
        if kind == "loop":
            theirs = [m for m, (j, _) in enumerate(others) if ref_labels[j] != label]
            negative = d[np.ix_(mine, theirs)].min()
        else:
            own = [x[a]]
            if kind == "ee":
                own += [z for k in mine for z in inner_points(x[a], ref[pairs[k][1]], n, l2_norm)]
            negative = pair_distances(np.stack(own), np.stack(negatives)).min()
        out[a] = Hardest(np.linalg.norm(ref[positives] - x[a], axis=1).max(), negative)
    return out


def mined_triplets(
    x: Array,
    labels: Array,
    geometry: str,
    *,
    pairing: str = "all",
    num_negatives: int | None = 1,
    ref: Array | None = None,
    ref_labels: Array | None = None,
    skip: set[Pair] = frozenset(),
) -> list[tuple[int, int, int]]:
    """Sorted (a, p, n): per ordered pair the nearest curves, of each the end of larger weight.

    `skip` names (anchor, positive) pairs that are the same sample.
    """
    pairs = [pair for pair in ordered_pairs(labels, pairing, ref_labels) if pair not in skip]
    ref, ref_labels = (x, labels) if ref is None else (ref, ref_labels)
    others = curves(ref_labels, pairing)
    d, t = curve_distances(x, pairs, ref, others, geometry)
    out = []
    for k, (a, p) in enumerate(pairs):
        theirs = [m for m, (j, _) in enumerate(others) if ref_labels[j] != labels[a]]
        for m in sorted(theirs, key=lambda m: d[k, m])[:num_negatives]:
            out.append((a, p, others[m][0] if t[k, m] <= 0.5 else others[m][1]))
    return sorted(out)
