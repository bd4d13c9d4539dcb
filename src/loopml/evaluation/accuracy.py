"""Retrieval and clustering scores of an embedding, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import faiss
import numpy as np
import torch
from pytorch_metric_learning.utils import common_functions
from pytorch_metric_learning.utils.accuracy_calculator import (
    EQUALITY,
    AccuracyCalculator,
    get_label_match_counts,
    get_lone_query_labels,
    maybe_get_avg_of_avgs,
    nan_accuracy,
)
from pytorch_metric_learning.utils.inference import FaissKMeans
from torch import Tensor

from loopml._checks import check_choice, check_count, check_flag
from loopml.evaluation.clustering import pairwise_f1
from loopml.evaluation.inputs import directions, numeric, take_embeddings, take_labels
from loopml.evaluation.neighbours import BlockKNN

# Neighbours (queries times K) held at once, and queries: about 100 MB while they are scored.
_NEIGHBOURS = 1 << 21
_QUERIES = 1 << 11


class RetrievalAccuracy(AccuracyCalculator):
    r"""Recall@K, clustering F1 and NMI beside pytorch-metric-learning's own scores.

    With :math:`N_K(q)` the K references nearest to a query (without itself, where it is one),

    .. math:: \text{Recall@}K = \tfrac{1}{n} \#\{q : \exists\, r \in N_K(q)
              \text{ of the class of } q\}.

    k-means splits the queries into as many clusters as they have classes. Of the :math:`\binom n2`
    pairs of queries let :math:`T` be in one cluster and of one class, :math:`C` in one cluster and
    :math:`Y` of one class. Precision is :math:`P = T / C`, recall :math:`R = T / Y`, and

    .. math:: F_1 = \frac{2 P R}{P + R} = \frac{2 T}{C + Y}, \qquad
              \text{NMI} = \frac{2\, I(\text{class}; \text{cluster})}
                                {H(\text{class}) + H(\text{cluster})}.

    The keys of the result are ``recall_at_1``, ``recall_at_2``, ... and ``clustering_f1``, beside
    pytorch-metric-learning's: ``NMI``, ``AMI``, ``precision_at_1``, ``r_precision``,
    ``mean_average_precision_at_r``, ``mean_average_precision`` and ``mean_reciprocal_rank``.

    Import it from here: ``import loopml`` does not load faiss.

    Args:
        recall_at: the K's, in any order; repeated ones count once. A K beyond the number of
            references takes them all.
        distance: "euclidean" ranks and clusters the rows as they are, "cosine" their directions
            (rows are divided by their norm first; a zero row stays zero). Testers of
            pytorch-metric-learning normalise before they ask, and then the two are the same.
        seed: of the k-means, so that scores repeat. The default is that of faiss, with which NMI
            and AMI are those of a plain ``AccuracyCalculator``. Not used by a ``kmeans_func``.
        k: neighbours that pytorch-metric-learning's scores look at; ``recall_at`` is apart from
            it. "max_bin_count" is as many as the largest class needs, which makes
            ``precision_at_1``, ``r_precision`` and ``mean_average_precision_at_r`` exact.
            ``mean_average_precision`` and ``mean_reciprocal_rank`` are over the first ``k`` ranks:
            None, pytorch-metric-learning's default, ranks all references, slowly.
        **accuracy_calculator_kwargs: ``include``, ``exclude``, ``avg_of_avgs``,
            ``return_per_class``, ``label_comparison_fn``, ``device``, ``knn_func`` and
            ``kmeans_func``, as every ``AccuracyCalculator``. A ``knn_func`` is called once with
            all queries and replaces the search in blocks; the default runs on the CPU. The default
            ``kmeans_func`` is ``FaissKMeans`` of 20 iterations, which trains on a sample of 256
            rows per cluster if there are more.

    Raises:
        ValueError: a K below 1, a negative seed, an unknown distance or an unknown score.
        TypeError: ``recall_at`` is no list of integers, or ``include`` or ``exclude`` no list.

    Lone classes:
        A query without another of its class among the references cannot be answered, and is left
        out of every retrieval score, as in pytorch-metric-learning. (The papers' script counts it
        as a miss.) It remains a reference that can be retrieved, and takes part in the clustering.
        Without any query that can be answered retrieval scores are NaN, and so is F1 where no two
        queries share a class or a cluster.

    Ties:
        A query is told from its duplicates by its row. Among references that are equally far those
        of the lowest index come first. Distances of different rows that are equal on paper (under
        "cosine": from a zero row to all others) may differ by a rounding of float64, and then that
        decides.

    Precision:
        Ranks are those of distances from differences in float64, of the rows as they were given,
        divided by their norm in float64 under "cosine": the rank of a reference depends neither on
        other rows nor on how many there are. Products choose, with a bound of their rounding for
        each pair; what the bound cannot tell apart is measured from differences. Only float64 rows
        that differ by less than 1e-154 count as equal. Counts of pairs are exact. k-means works in
        float32, as in pytorch-metric-learning, on float64 rows with their median taken away first.
        A ``knn_func`` or ``kmeans_func`` takes float32 and has the precision that it has.

    Memory:
        The embeddings, up to three copies in float64 and a block of scores; never a number per
        pair of rows, whatever ``k`` is, except that ``avg_of_avgs`` and ``return_per_class`` keep a
        class in one block. Embeddings of the size of Stanford Online Products (60,502 x 512 in
        11,316 classes) took 1.5 GB in all with "cosine", 1.0 GB with "euclidean", PyTorch included.
        On one core the search of 8 neighbours took 105 s, where faiss's flat index took 280 s
        (``python -m benchmarks.accuracy.retrieval_accuracy``). k-means stops before 20 rounds where
        nothing changes any more.

        The search takes as many neighbours as the asked scores need: ``recall_at_K`` K of them,
        ``precision_at_1`` one, the others ``k``. It takes up to twenty times as long where products
        in float64 cannot tell rows apart: in two groups that are 1e9 times as far from each other
        as the rows within them.

    Source:
        Recall@K, NMI and F1 as in Song et al., "Deep Metric Learning via Lifted Structured Feature
        Embedding" (CVPR 2016), section 6, and in ``test.py`` of the LoOp repository. That script
        clusters with scikit-learn's KMeans, so its NMI and F1 differ by the local optimum found.

    Example:
        >>> import torch
        >>> from loopml.evaluation import RetrievalAccuracy
        >>> embeddings = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 3.0], [9.0, 0.0], [9.0, 1.0]])
        >>> labels = torch.tensor([0, 0, 1, 1, 1])
        >>> calculator = RetrievalAccuracy(
        ...     recall_at=(1, 3), include=("recall_at_1", "recall_at_3", "clustering_f1")
        ... )
        >>> calculator.get_accuracy(embeddings, labels)
        {'clustering_f1': 0.5, 'recall_at_1': 0.8, 'recall_at_3': 1.0}
    """

    def __init__(
        self,
        *,
        recall_at: Iterable[int] = (1, 2, 4, 8),
        distance: str = "euclidean",
        seed: int = 1234,
        k: int | str | None = "max_bin_count",
        **accuracy_calculator_kwargs: Any,
    ) -> None:
        self.recall_at = _check_recall_at(recall_at)
        self.distance = check_choice("distance", distance, ("euclidean", "cosine"))
        self.seed = check_count("seed", seed, 0)
        # AccuracyCalculator takes every attribute of this prefix for a score.
        for rank in self.recall_at:
            setattr(self, f"calculate_recall_at_{rank}", partial(self._recall, rank))
        known = [name[len("calculate_") :] for name in dir(self) if name.startswith("calculate_")]
        for name in ("include", "exclude"):
            _check_scores(name, accuracy_calculator_kwargs.get(name, ()), known)
        given = accuracy_calculator_kwargs
        given["knn_func"] = given.get("knn_func") or BlockKNN()
        own_kmeans = given.get("kmeans_func") is None
        super().__init__(k=k, **given)
        if own_kmeans:
            self.kmeans_func = FaissKMeans(
                niter=20,
                seed=self.seed,
                gpu=self.device.type == "cuda" and faiss.get_num_gpus() > 0,
                min_points_per_centroid=1,  # else faiss prints a warning on small classes
            )

    def requires_knn(self) -> list[str]:
        """The scores that need neighbours: means over queries, or over classes of queries."""
        recalls = [f"recall_at_{rank}" for rank in self.recall_at]
        # pytorch-metric-learning forgets the reciprocal rank, which fails if it is alone.
        return [*dict.fromkeys([*super().requires_knn(), "mean_reciprocal_rank"]), *recalls]

    def requires_clustering(self) -> list[str]:
        """The scores that need clusters."""
        return [*super().requires_clustering(), "clustering_f1"]

    def _recall(
        self,
        rank: int,
        *,
        nearest_labels: Tensor,
        query_labels: Tensor,
        not_lone_query_mask: Tensor,
        label_counts: tuple[Tensor, Tensor],
        **_: Any,
    ) -> Any:
        if not not_lone_query_mask.any():
            return nan_accuracy(label_counts[0], self.return_per_class)
        labels = query_labels[not_lone_query_mask][:, None]
        same = self.label_comparison_fn(labels, nearest_labels[not_lone_query_mask, :rank])
        hit = same.any(dim=1).to(torch.float64)
        return maybe_get_avg_of_avgs(hit, labels, self.avg_of_avgs, self.return_per_class)

    def calculate_clustering_f1(
        self, query_labels: Tensor, cluster_labels: Tensor, **_: Any
    ) -> float:
        """Pairwise F1 of clusters against classes, (n,) each; NaN if nothing shares either."""
        return pairwise_f1(query_labels.flatten(), cluster_labels.flatten())

    def get_accuracy(
        self,
        query: Tensor | np.ndarray[Any, Any],
        query_labels: Tensor | np.ndarray[Any, Any],
        reference: Tensor | np.ndarray[Any, Any] | None = None,
        reference_labels: Tensor | np.ndarray[Any, Any] | None = None,
        ref_includes_query: bool = False,
        include: tuple[str, ...] | list[str] = (),
        exclude: tuple[str, ...] | list[str] = (),
    ) -> dict[str, Any]:
        """Score an embedding.

        Args:
            query: (n, d) floating point, a tensor or a NumPy array.
            query_labels: (n,) integers, or whole numbers in a floating dtype that holds them
                exactly (anything that a ``label_comparison_fn`` takes).
            reference: (m, d) rows to retrieve; default: the queries, each without itself.
            reference_labels: (m,) their labels.
            ref_includes_query: the first n references are the queries, and none retrieves itself.
            include: scores to compute; default: all that the constructor left in.
            exclude: scores to leave out.

        Returns:
            Each score by its name: a float, or with ``return_per_class`` a list of floats for the
            retrieval scores, one per class that can be answered, in order of the labels.

        Raises:
            TypeError: an argument is no array of its kind, or labels are no whole numbers.
            ValueError: shapes do not fit, there is no row, a value is NaN or infinite, labels are
                missing, the references do not begin with the queries, or a score is unknown. The
                order of arguments is that of pytorch-metric-learning since 2.0.
        """
        _check_scores("include", include, list(self.original_function_dict))
        _check_scores("exclude", exclude, list(self.original_function_dict))
        check_flag("ref_includes_query", ref_includes_query)
        if (reference is None) != (reference_labels is None):
            given, missing = ("reference", "reference_labels")[
                :: 1 if reference is not None else -1
            ]
            raise ValueError(f"{given} was given without {missing}; give both or neither")
        alone = reference is None
        x = self._embeddings("query", query)
        y = self._labels("query_labels", query_labels, "query", len(x), alone=alone)
        if reference is None:
            ref, ref_y, ref_includes_query = x, y, True
        else:
            ref = self._embeddings("reference", reference)
            ref_y = self._labels(
                "reference_labels", reference_labels, "reference", len(ref), alone=False
            )
            if ref.shape[1] != x.shape[1]:
                raise ValueError(
                    f"reference must have as many columns as query, "
                    f"got {ref.shape[1]} and {x.shape[1]}"
                )
            if ref_includes_query and not _begins_with((ref, ref_y), (x, y)):
                raise ValueError(
                    f"reference must begin with the {len(x)} rows of query, labels included, "
                    "if ref_includes_query, got others; use torch.cat([query, others])"
                )

        self.curr_function_dict = self.get_function_dict(include, exclude)
        whole = {
            "query": x.to(self.device, torch.float32),
            "reference": ref.to(self.device, torch.float32),
            "query_labels": y,
            "reference_labels": ref_y,
            "ref_includes_query": ref_includes_query,
            "label_comparison_fn": self.label_comparison_fn,
        }
        names = self.get_curr_metrics()
        scores = {}
        if retrieval := [name for name in names if name in self.requires_knn()]:
            scores.update(self._retrieval(retrieval, whole, x, ref))
        if any(name in self.requires_clustering() for name in names):
            whole["cluster_labels"] = self.get_cluster_labels(
                **whole | {"query": self._to_cluster(x)}
            )
        rest = {name: self.curr_function_dict[name] for name in names if name not in scores}
        scores.update(self._get_accuracy(rest, **whole))
        return {name: scores[name] for name in names}

    def _embeddings(self, name: str, x: object) -> Tensor:
        """As they are, on the CPU; normalised, in float64, under the cosine distance."""
        x = take_embeddings(name, x)
        return directions(x) if self.distance == "cosine" else x

    def _labels(self, name: str, labels: object, rows: str, n: int, *, alone: bool) -> Tensor:
        """As int64: pytorch-metric-learning's float32 confuses labels beyond 2^24."""
        own = numeric(labels)
        if self.label_comparison_fn is EQUALITY or not isinstance(own, Tensor):
            return take_labels(name, own, rows, n, alone=alone).to(self.device)
        if len(own) != n:
            raise ValueError(f"{name} must have one entry per row of {rows}, {n}, got {len(own)}")
        return own.to(self.device, torch.float32)

    def _single(self, name: str, x: Tensor) -> Tensor:
        """In float32 on this device, for a ``knn_func`` or ``kmeans_func`` of the user."""
        single = x.to(self.device, torch.float32)
        if not single.isfinite().all():
            raise ValueError(
                f"{name} must fit into float32, which knn_func and kmeans_func take, "
                f"got {float(x.abs().max()):.0e}; scale the embeddings"
            )
        return single

    def _to_cluster(self, x: Tensor) -> Tensor:
        """In float32 on this device; for our k-means moved and scaled, which changes no cluster."""
        if not isinstance(self.kmeans_func, FaissKMeans):
            return self._single("query", x)
        if x.dtype == torch.float64:  # before an offset takes the digits of float32
            x = x - x.median(dim=0).values
        exponent = int(torch.frexp(x.abs().max()).exponent)
        # A power of two rounds nothing, and squares neither overflow nor vanish.
        return (x.double() * 2.0 ** -max(exponent, -1000)).to(self.device, torch.float32)

    def _retrieval(
        self, names: list[str], whole: dict[str, Any], query: Tensor, reference: Tensor
    ) -> dict[str, Any]:
        """The scores that need neighbours, a block of queries at a time."""
        labels, ref_labels = whole["query_labels"], whole["reference_labels"]
        excluded = bool(whole["ref_includes_query"])
        counts, lone_labels, answerable = self._count(labels, ref_labels, excluded)
        if not answerable.any():
            common_functions.LOGGER.warning("No class of the queries is among the references.")
            return {name: nan_accuracy(counts[0], self.return_per_class) for name in names}

        # Recall and precision at 1 look no further than their rank, the others as far as k.
        ranks = {f"recall_at_{rank}": rank for rank in self.recall_at} | {"precision_at_1": 1}
        wanted = 1
        if any(name not in ranks for name in names):
            wanted = max(1, self.determine_k(counts[1], len(ref_labels), excluded))
        width = max(wanted, *(ranks.get(name, 1) for name in names))
        width = min(width, len(ref_labels) - excluded)
        search = self._searcher(query, reference, width, excluded)

        scores, weights = [], []
        for rows in self._blocks(labels, answerable.nonzero()[:, 0], width):
            distances, indices = search(rows)
            nearest = ref_labels[indices]
            part = {
                **whole,
                "query": whole["query"][rows],
                "query_labels": labels[rows],
                "lone_query_labels": lone_labels,
                "not_lone_query_mask": torch.ones_like(rows, dtype=torch.bool),
                "label_counts": _counts_of(labels[rows], counts),
                "knn_distances": distances[:, :wanted],
                "knn_labels": nearest[:, :wanted],
                "nearest_labels": nearest,
            }
            functions = {name: self.curr_function_dict[name] for name in names}
            scores.append(self._get_accuracy(functions, **part))
            weights.append(
                len(torch.unique(labels[rows], dim=0)) if self.avg_of_avgs else len(rows)
            )
        return {name: _merge([score[name] for score in scores], weights) for name in names}

    def _count(self, labels: Tensor, ref_labels: Tensor, excluded: bool) -> Any:
        """Labels of the queries with their numbers of references, the lone ones, who is not."""
        if self.label_comparison_fn is not EQUALITY:
            counts = get_label_match_counts(labels, ref_labels, self.label_comparison_fn)
            lone = get_lone_query_labels(labels, counts, excluded, self.label_comparison_fn)
            return counts, *lone
        unique, index = torch.unique(torch.cat([labels, ref_labels]), return_inverse=True)
        matches = torch.bincount(index[len(labels) :], minlength=len(unique))
        of_query = torch.unique(index[: len(labels)])
        counts = (unique[of_query], matches[of_query])
        return (
            counts,
            counts[0][counts[1] <= excluded],
            matches[index[: len(labels)]] > excluded,
        )

    def _blocks(self, labels: Tensor, rows: Tensor, width: int) -> Iterator[Tensor]:
        """The rows, sorted by class, in blocks; of whole classes where scores are per class."""
        size = max(1, min(_QUERIES, _NEIGHBOURS // width))
        index = torch.unique(labels[rows], dim=0, return_inverse=True)[1]
        rank = torch.arange(len(rows), device=rows.device)
        if self.avg_of_avgs or self.return_per_class:
            per_class = torch.bincount(index)
            rank = (per_class.cumsum(0) - per_class).repeat_interleave(per_class)
        sizes = torch.unique(rank // size, return_counts=True)[1]
        yield from torch.split(rows[index.argsort(stable=True)], sizes.tolist())

    def _searcher(
        self, query: Tensor, reference: Tensor, k: int, excluded: bool
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Distances and indices, (len(rows), k) each, of the references nearest to some rows."""
        if isinstance(self.knn_func, BlockKNN):
            return self.knn_func.searcher(query, k, reference, excluded)
        query, reference = self._single("query", query), self._single("reference", reference)
        distances, indices = self.knn_func(query, k, reference, excluded)
        return lambda rows: (distances[rows], indices[rows])


def _counts_of(labels: Tensor, counts: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The entries of ``counts`` (labels, numbers of references) that some labels need."""
    unique, matches = counts
    if unique.ndim > 1:
        return counts
    needed = torch.isin(unique, labels)
    return unique[needed], matches[needed]


def _merge(values: list[Any], weights: list[int]) -> Any:
    """A score of all queries from those of its blocks: a mean, or one list per class."""
    if isinstance(values[0], list):
        return [entry for value in values for entry in value]
    if len(values) == 1:
        return values[0]
    total = sum(value * weight for value, weight in zip(values, weights, strict=True))
    return total / sum(weights)


def _begins_with(whole: tuple[Tensor, Tensor], start: tuple[Tensor, Tensor]) -> bool:
    """Whether rows and labels of ``whole`` begin with those of ``start``, rows up to rounding."""
    (rows, labels), (first_rows, first_labels) = whole, start
    n = len(first_rows)
    return (
        len(rows) >= n
        and torch.allclose(rows[:n].double(), first_rows.double())
        and torch.equal(labels[:n], first_labels)
    )


def _check_recall_at(recall_at: object) -> tuple[int, ...]:
    """The K's, sorted, each once."""
    if isinstance(recall_at, str | bytes) or not isinstance(recall_at, Iterable):
        raise TypeError(
            f"recall_at must be a list of integers, got {recall_at!r}; write recall_at=(1, 2)"
        )
    return tuple(sorted({check_count("recall_at", rank, 1) for rank in recall_at}))


def _check_scores(name: str, given: object, known: list[str]) -> None:
    """Raise unless ``given`` is a list of scores that there are."""
    if not isinstance(given, tuple | list):
        raise TypeError(
            f"{name} must be a tuple or list of scores, got {given!r}; write {name}=('NMI',)"
        )
    if unknown := [score for score in given if score not in known]:
        raise ValueError(
            f"{name} must be among {', '.join(known)}, got {', '.join(map(str, unknown))}; "
            "other K's go into recall_at, and what the constructor left out stays out"
        )
