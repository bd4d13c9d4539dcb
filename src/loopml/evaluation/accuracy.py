"""Retrieval and clustering scores of an embedding, in bounded memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from loopml._checks import check_choice, check_count, check_flag
from loopml.evaluation.blocks import (
    RANKED,
    Compare,
    Search,
    count_relevant,
    means_per_class,
    score_queries,
)
from loopml.evaluation.clustering import AGREEMENT, agreement, computable, kmeans
from loopml.evaluation.inputs import Array, Inputs, single, take_inputs
from loopml.evaluation.neighbours import searcher
from loopml.evaluation.options import Names, check_k, check_recall_at, chosen

_LOGGER = logging.getLogger(__name__)


class RetrievalAccuracy:
    r"""Recall@K for any K, average precisions, and how well k-means finds the classes.

    Call it as the ``AccuracyCalculator`` of pytorch-metric-learning, or give it to a tester of
    pytorch-metric-learning as ``accuracy_calculator``. Import it from ``loopml.evaluation``:
    ``import loopml`` does not load faiss.

    **Retrieval.** Let :math:`N_K(q)` be the :math:`K` references nearest to a query :math:`q`,
    without the query itself if it is a reference. Of :math:`n` queries

    .. math:: \text{Recall@}K = \tfrac{1}{n} \#\{q : \exists\, r \in N_K(q)
              \text{ of the class of } q\}

    is the share with a reference of their class in :math:`N_K(q)`.

    **Clustering.** k-means splits the queries into as many clusters as they have classes. Of the
    :math:`\binom n2` pairs of queries let :math:`C` be in one cluster, :math:`Y` of one class, and
    :math:`T` both. Precision is :math:`P = T / C` and recall is :math:`R = T / Y`. With mutual
    information :math:`I` and entropy :math:`H`

    .. math:: F_1 = \frac{2 P R}{P + R} = \frac{2 T}{C + Y}, \qquad
              \text{NMI} = \frac{2\, I(\text{class}; \text{cluster})}
                                {H(\text{class}) + H(\text{cluster})}.

    **The keys of the result** are ``recall_at_1``, ``recall_at_2``, ..., ``clustering_f1``, and the
    keys of an ``AccuracyCalculator``, with its values: ``NMI``, ``AMI``, ``precision_at_1``,
    ``r_precision``, ``mean_average_precision_at_r``, ``mean_average_precision`` and
    ``mean_reciprocal_rank``. NMI and AMI need scikit-learn. Without it they are left out, unless
    ``include`` names them.

    Args:
        recall_at: the K's of Recall@K, in any order. Repeated ones count once. A K beyond the
            number of references takes them all.
        distance: "cosine", the default, ranks and clusters the directions of the rows: each row is
            divided by its length first, and a zero row stays zero. "euclidean" takes the rows as
            they are. For rows of length 1, as the testers of pytorch-metric-learning make them,
            both give the same ranks.
        seed: the seed of the k-means, so that scores repeat. The default is faiss's own. With it
            NMI and AMI of float32 rows under "euclidean" equal the values of an
            ``AccuracyCalculator``. A ``kmeans_func`` does not use it.
        k: how many neighbours the scores look at, except recall and ``precision_at_1``, which have
            their own number. "max_bin_count", the default, is as many as the largest class needs:
            then ``r_precision`` and ``mean_average_precision_at_r`` are exact.
            ``mean_average_precision`` and ``mean_reciprocal_rank`` look at the first ``k`` ranks.
            None, the default of an ``AccuracyCalculator``, ranks all references, which is slow.
        include: names of the scores to compute. Default: all.
        exclude: names of scores to leave out.
        avg_of_avgs: if True, average the queries of each class first, and then the classes. If
            False, the default, average all queries.
        return_per_class: if True, return the mean of each class, in order of the labels, and no
            average over classes.
        label_comparison_fn: a function of two tensors of float32 labels, which broadcast, that
            tells whether labels match. Labels may then have a second axis. Clusters cannot be
            compared so: exclude ``NMI``, ``AMI`` and ``clustering_f1``.
        device: where ``knn_func``, ``kmeans_func`` and ``label_comparison_fn`` get their tensors,
            and where faiss clusters if it can. Default: CUDA if there is one. The search itself
            runs on the CPU.
        knn_func: a function that replaces the search. It gets (queries, k, references, whether
            query i is reference i and no neighbour of its own) and returns distances and indices.
            It is called once, with all queries.
        kmeans_func: a function that replaces the k-means. It gets (rows, number of clusters) and
            returns the cluster of each row. The default is faiss's k-means of 20 rounds. With more
            than 256 rows per cluster it trains on a sample of 256 per cluster.

    Raises:
        ValueError: a K or ``k`` below 1, a negative seed, an unknown distance or score, or both
            ``avg_of_avgs`` and ``return_per_class``.
        TypeError: ``recall_at`` is no list of integers, or ``include`` or ``exclude`` no list.
        NotImplementedError: a ``label_comparison_fn`` with a score of clusters.

    Lone classes:
        A query without another row of its class among the references cannot be answered.

        - Retrieval scores leave such a query out, as pytorch-metric-learning does. (The script of
          the LoOp repository counts it as a miss.)
        - As a reference it can still be retrieved, and it takes part in the clustering.
        - If no query can be answered, the retrieval scores are NaN.
        - If no two queries share a class or a cluster, F1 is NaN.

    Ties:
        - A query and its duplicates: rows are told apart by their number, so a duplicate is a
          neighbour and the query itself is not.
        - References that are equally far: the lowest index comes first.
        - Distances of different rows that are equal on paper only, such as from a zero row to all
          others under "cosine": a rounding of float64 may decide.

    Precision:
        Ranks follow distances in float64, taken from differences of the rows as they were given,
        or of their directions under "cosine". So the rank of a reference does not depend on other
        rows. Inner products choose the neighbours, with a bound of their rounding for each pair.
        Where the bound cannot decide, the distances are measured from differences.

        - Float64 rows that differ by less than 1e-154 count as equal.
        - Counts of pairs are exact. Means are taken in float64.
        - k-means works in float32. From float64 rows their median is taken away first.
        - A ``knn_func`` or ``kmeans_func`` gets float32, and its precision is its own.

    Memory:
        The embeddings, up to three copies of them in float64, and a block of scores. There is never
        a number for each pair of rows, whatever ``k`` is. Embeddings of the size of Stanford Online
        Products (60,502 x 512 in 11,316 classes) took 1.2 GB in all with "cosine" and 0.9 GB with
        "euclidean", PyTorch included. On one core the search of 8 neighbours took half as long as
        faiss's flat index (``python -m benchmarks.accuracy.retrieval_accuracy``).

        The search takes as many neighbours as the scores need: ``recall_at_K`` needs K,
        ``precision_at_1`` needs one, and the others need ``k``. It takes longer where inner
        products in float64 cannot tell rows apart: 15 times as long for 8,192 rows in two groups
        that are 1e9 times as far from each other as the rows within a group (the same command).
        k-means stops before 20 rounds if nothing changes any more.

    Source:
        Recall@K, NMI and F1 as in Song et al., "Deep Metric Learning via Lifted Structured Feature
        Embedding" (CVPR 2016), section 6, and in ``test.py`` of the LoOp repository. That script
        clusters with scikit-learn's KMeans, which may find another local optimum, so its NMI and F1
        can differ.

    Example:
        >>> import torch
        >>> from loopml.evaluation import RetrievalAccuracy
        >>> embeddings = torch.tensor([[1.0, 0.0], [9.0, 1.0], [3.0, 1.0], [1.0, 9.0], [0.0, 1.0]])
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
        distance: str = "cosine",
        seed: int = 1234,
        k: int | str | None = "max_bin_count",
        include: Names = (),
        exclude: Names = (),
        avg_of_avgs: bool = False,
        return_per_class: bool = False,
        label_comparison_fn: Compare | None = None,
        device: torch.device | str | None = None,
        knn_func: Callable[[Tensor, int, Tensor, bool], tuple[Tensor, Tensor]] | None = None,
        kmeans_func: Callable[[Tensor, int], Tensor] | None = None,
    ) -> None:
        self.recall_at = check_recall_at(recall_at)
        self.distance = check_choice("distance", distance, ("euclidean", "cosine"))
        self.seed = check_count("seed", seed, 0)
        self.k = check_k(k)
        recalls = [f"recall_at_{rank}" for rank in self.recall_at]
        self.names = chosen([*AGREEMENT, *RANKED, *recalls], include, exclude)
        self._by_name = bool(include)
        self.avg_of_avgs = check_flag("avg_of_avgs", avg_of_avgs)
        self.return_per_class = check_flag("return_per_class", return_per_class)
        if avg_of_avgs and return_per_class:
            raise ValueError("avg_of_avgs must be False with return_per_class, got True for both")
        if label_comparison_fn is not None and set(AGREEMENT) & set(self.names):
            raise NotImplementedError(
                "clusters are compared with classes, which a label_comparison_fn does not make; "
                f"use exclude={AGREEMENT}"
            )
        self.label_comparison_fn = label_comparison_fn or torch.eq
        default = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(default if device is None else device)
        self.knn_func = knn_func
        self.kmeans_func = kmeans_func

    def get_curr_metrics(self) -> list[str]:
        """The names of the scores, for the testers of pytorch-metric-learning."""
        return list(self.names)

    def description(self) -> str:
        """What the testers of pytorch-metric-learning add to the names of their records."""
        return "avg_of_avgs" if self.avg_of_avgs else ""

    def get_accuracy(
        self,
        query: Array,
        query_labels: Array,
        reference: Array | None = None,
        reference_labels: Array | None = None,
        ref_includes_query: bool = False,
        include: Names = (),
        exclude: Names = (),
    ) -> dict[str, Any]:
        """Score an embedding.

        Args:
            query: (n, d) floating point, a tensor or a NumPy array.
            query_labels: (n,) integers, or whole numbers in a floating dtype that holds them
                exactly (anything that a ``label_comparison_fn`` takes).
            reference: (m, d) rows to retrieve. Default: the queries, each without itself.
            reference_labels: (m,) the labels of ``reference``.
            ref_includes_query: whether the first n references are the queries. Then no query
                retrieves itself.
            include: names of the scores to compute. Default: all that the constructor left in.
            exclude: names of scores to leave out.

        Returns:
            A dict from the name of a score to a float. With ``return_per_class`` a retrieval score
            is a list of floats: one for each class that can be answered, in order of the labels.

        Raises:
            TypeError: an argument is no array of its kind, or labels are no whole numbers.
            ImportError: NMI or AMI is asked for, and scikit-learn is not installed.
            ValueError: shapes do not fit, there is no row, a value is NaN or infinite, labels are
                missing, the references do not begin with the queries, or a score is unknown. (The
                order of the arguments is the order of pytorch-metric-learning since 2.0.)
        """
        names = chosen(self.names, include, exclude)
        if not (include or self._by_name):
            names = computable(names)
        given = take_inputs(
            query,
            query_labels,
            reference,
            reference_labels,
            ref_includes_query,
            cosine=self.distance == "cosine",
            any_labels=self.label_comparison_fn is not torch.eq,
            device=self.device,
        )
        clustering = [name for name in names if name in AGREEMENT]
        retrieval = [name for name in names if name not in AGREEMENT]
        scores: dict[str, Any] = {}
        if clustering:
            scores |= self._clustering(clustering, given)
        if retrieval:
            scores |= self._retrieval(retrieval, given)
        return scores

    def _clustering(self, names: list[str], given: Inputs) -> dict[str, float]:
        """The scores of clusters against classes."""
        functions = {name: agreement(name) for name in names}
        n_clusters = len(torch.unique(given.labels))
        if self.kmeans_func is None:
            gpu = self.device.type == "cuda"
            clusters = kmeans(given.query, n_clusters, seed=self.seed, gpu=gpu)
        else:
            clusters = self.kmeans_func(single("query", given.query, self.device), n_clusters)
        return {name: score(given.labels, clusters.flatten()) for name, score in functions.items()}

    def _retrieval(self, names: list[str], given: Inputs) -> dict[str, Any]:
        """The scores of neighbours: means over the queries that can be answered."""
        labels = given.labels, given.ref_labels
        relevant = count_relevant(*labels, given.excluded, self.label_comparison_fn)
        rows = (relevant > 0).nonzero()[:, 0]
        if not len(rows):
            _LOGGER.warning("No class of the queries is among the references.")
            nan = float("nan")
            classes = len(torch.unique(given.labels, dim=0))
            return dict.fromkeys(names, [nan] * classes if self.return_per_class else nan)
        depths = self._depths(names, int(relevant.max()), len(given.reference) - given.excluded)
        search = self._search(given, max(depths.values()))
        values = score_queries(depths, rows, search, labels, relevant, self.label_comparison_fn)
        return {name: self._mean(value, given.labels[rows]) for name, value in values.items()}

    def _depths(self, names: list[str], largest: int, available: int) -> dict[str, int]:
        """How many neighbours each score looks at; the largest class offers ``largest``."""
        unbounded = available if self.k is None else largest
        k = self.k if isinstance(self.k, int) else unbounded
        at_r = [name for name in ("r_precision", "mean_average_precision_at_r") if name in names]
        if k < largest and at_r:
            _LOGGER.warning(
                "%s looked at %d neighbours, a query of the largest class needs %d: "
                "use k='max_bin_count'",
                " and ".join(at_r),
                k,
                largest,
            )
        fixed = {f"recall_at_{rank}": rank for rank in self.recall_at} | {"precision_at_1": 1}
        return {name: min(fixed.get(name, k), available) for name in names}

    def _search(self, given: Inputs, k: int) -> Search:
        """From some queries to the indices of the ``k`` references nearest to each."""
        if self.knn_func is None:
            return searcher(given.query, k, given.reference, given.excluded)
        query = single("query", given.query, self.device)
        reference = single("reference", given.reference, self.device)
        indices = self.knn_func(query, k, reference, given.excluded)[1]
        return lambda rows: indices[rows]

    def _mean(self, values: Tensor, labels: Tensor) -> float | list[float]:
        """Over queries, or over the queries of each class."""
        if not (self.avg_of_avgs or self.return_per_class):
            return float(values.mean())
        means = means_per_class(values, labels)
        return means.tolist() if self.return_per_class else float(means.mean())
