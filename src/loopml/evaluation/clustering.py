"""Clusters, and how far they agree with classes."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import faiss
import torch
from torch import Tensor

AGREEMENT = ("AMI", "NMI", "clustering_f1")
_OF_SKLEARN = ("AMI", "NMI")


def computable(names: list[str]) -> list[str]:
    """The scores that the installed packages can compute."""
    if find_spec("sklearn") is not None:
        return names
    return [name for name in names if name not in _OF_SKLEARN]


def kmeans(x: Tensor, n_clusters: int, *, seed: int, gpu: bool) -> Tensor:
    """The cluster of each row, in float32; moved and scaled first, which changes no cluster."""
    if x.dtype == torch.float64:  # before an offset takes the digits of float32
        x = x - x.median(dim=0).values
    exponent = int(torch.frexp(x.abs().max()).exponent)
    # A power of two rounds nothing, and squares neither overflow nor vanish.
    rows = (x.double() * 2.0 ** -max(exponent, -1000)).float().numpy()
    found = faiss.Kmeans(
        rows.shape[1],
        n_clusters,
        niter=20,
        seed=seed,
        gpu=gpu and faiss.get_num_gpus() > 0,
        min_points_per_centroid=1,  # else faiss prints a warning on small classes
    )
    found.train(rows)
    return torch.from_numpy(found.assign(rows)[1])


def agreement(name: str) -> Callable[[Tensor, Tensor], float]:
    """The function from classes and clusters, (n,) each, to the score of this name."""
    if name == "clustering_f1":
        return pairwise_f1
    try:
        from sklearn import metrics
    except ImportError as error:
        raise ImportError(
            f"{name} needs scikit-learn: pip install scikit-learn; "
            "or leave it out: exclude=('NMI', 'AMI')"
        ) from error
    score = {
        "AMI": metrics.adjusted_mutual_info_score,
        "NMI": metrics.normalized_mutual_info_score,
    }[name]
    return lambda classes, clusters: float(score(classes.cpu().numpy(), clusters.cpu().numpy()))


def pairwise_f1(classes: Tensor, clusters: Tensor) -> float:
    """2 T / (C + Y) of pairs, from the cells of the contingency table that are not empty."""
    first = torch.unique(classes, return_inverse=True)[1]
    second = torch.unique(clusters.to(classes.device), return_inverse=True)[1]
    in_class, in_cluster = _pairs(first), _pairs(second)
    in_both = _pairs(first * (second.max() + 1) + second)
    return 2 * in_both / (in_class + in_cluster) if in_class + in_cluster else float("nan")


def _pairs(groups: Tensor) -> int:
    """How many pairs of entries are equal."""
    sizes = torch.unique(groups, return_counts=True)[1]
    return int((sizes * (sizes - 1) // 2).sum())
