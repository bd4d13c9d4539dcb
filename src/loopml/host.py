"""pytorch-metric-learning: every name that this library has of it, and what its majors differ in.

No other module here imports it. Its majors are told apart by what they have, not by a number.
Release 2 is what the tests run on. What is here of release 3 was written against its documentation
and not yet run with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, NamedTuple, TypeAlias

import torch
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers
from torch import Tensor

Distance: TypeAlias = distances.BaseDistance
Loss: TypeAlias = losses.BaseMetricLossFunction

# Release 3 splits a loss into its terms and their reduction.
_IS_3 = hasattr(losses.BaseMetricLossFunction, "objective_terms")
# Release 3 has another way to see a loss unreduced.
_DO_NOTHING: Any = getattr(reducers, "DoNothingReducer", None)

DISTANCES = (distances.LpDistance, distances.CosineSimilarity, distances.DotProductSimilarity)


class Properties(NamedTuple):
    """What a distance of :data:`DISTANCES` does to two rows."""

    p: float  # of the norm
    power: float  # that the distance or similarity is raised to
    normalizes: bool  # whether rows are divided by their length first
    is_similarity: bool  # whether near is large


def properties_of(distance: Any) -> Properties:
    """The properties of a distance, from its attributes or, where it hides one, from its values."""
    is_similarity = isinstance(distance, DISTANCES[1:])
    if not all(hasattr(distance, name) for name in ("p", "power", "normalize_embeddings")):
        return _measured(distance, is_similarity)
    return Properties(
        distance.p, distance.power, bool(distance.normalize_embeddings), is_similarity
    )


def _measured(distance: Any, is_similarity: bool) -> Properties:
    """The properties that the values of a few unit vectors, and of longer ones, show."""
    if is_similarity:
        power = -math.log2(_between(distance, [1.0, 0.0], [0.5, math.sqrt(0.75)]))
        normalizes = _between(distance, [2.0], [2.0]) == _between(distance, [1.0], [1.0])
        return Properties(2, round(power, 6), normalizes, True)
    opposite = _between(distance, [1.0], [-1.0])  # 2^power
    square = _between(distance, [1.0, 0.0], [0.0, 1.0])  # 2^(power / p)
    p = math.log2(opposite) / math.log2(square)
    normalizes = _between(distance, [2.0], [-2.0]) == opposite
    return Properties(round(p, 6), round(math.log2(opposite), 6), normalizes, False)


def _between(distance: Any, a: list[float], b: list[float]) -> float:
    """What ``distance`` says of two rows."""
    return float(distance(torch.tensor([a]), torch.tensor([b])))


def euclidean() -> Distance:
    """The distance between unit vectors, the default of pytorch-metric-learning."""
    return distances.LpDistance()


def dot_product() -> Distance:
    """The inner product of rows as they are."""
    return distances.DotProductSimilarity(normalize_embeddings=False)


def is_distance(value: object) -> bool:
    """Whether ``value`` is a distance of any kind."""
    return isinstance(value, distances.BaseDistance)


def mean_squared_length() -> Any:
    """The regulariser that adds the mean squared length of the embeddings."""
    return regularizers.LpRegularizer(p=2, power=2)


def loss_named(name: str) -> type:
    """The class of a loss."""
    kind: type = getattr(losses, name)
    return kind


class _Records:
    """Statistics of the last batch, as attributes, where the user asks for them.

    Release 2 keeps them on every module, release 3 on none: there they are ours alone.
    """

    collect_stats: bool
    _stats: tuple[str, ...] = ()

    def __init__(self, *, collect_stats: bool | None = None, **options: Any) -> None:
        if not _IS_3:
            options["collect_stats"] = collect_stats
        super().__init__(**options)
        if _IS_3:
            self.collect_stats = bool(collect_stats)

    def _record_stats(self, names: Sequence[str], *, options: Sequence[str] = ()) -> None:
        """Name the statistics, and options that a logger shall see beside them."""
        if self.collect_stats:
            self._stats = tuple(names)
        if not _IS_3:
            host: Any = self
            host.add_to_recordable_attributes(list_of_names=list(options), is_stat=False)
            host.add_to_recordable_attributes(list_of_names=list(names), is_stat=True)
        self._clear_stats()

    def _clear_stats(self) -> None:
        """Set the statistics to 0, as they are before the first batch."""
        for name in self._stats:
            setattr(self, name, 0)


class HostLoss(_Records, losses.BaseMetricLossFunction):  # type: ignore[misc,unused-ignore]
    """The base of losses."""

    _has_penalty = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._has_penalty = options.get("embedding_regularizer") is not None

    def default_distance(self) -> Distance:
        """The distance where the user gives none, under the name that release 3 has for it."""
        return euclidean()

    def get_default_distance(self) -> Distance:
        """The same under the name that release 2 has for it."""
        return self.default_distance()

    def _is_plain_mean(self) -> bool:
        """Whether the loss is the mean of its elements and nothing else.

        Release 2 hides a penalty in the reducer, release 3 adds it after the reduction.
        """
        reducer = self.reducer
        plain = type(reducer) is reducers.MeanReducer and not self._has_penalty
        return plain and not getattr(reducer, "collect_stats", False)

    def _terms(self, elements: Tensor, indices: tuple[Tensor, ...], kind: str) -> dict[str, Any]:
        """Loss elements for a reducer.

        Args:
            elements: (e,) the losses.
            indices: the rows that each belongs to, (e,) each.
            kind: "element", "pos_pair" or the like, as release 2 calls what an element belongs to.
        """
        term = {"losses": elements, "indices": indices if len(indices) > 1 else indices[0]}
        if not _IS_3:
            term["reduction_type"] = kind  # type: ignore[assignment]
        if not _IS_3 or isinstance(self.reducer, reducers.DivisorReducer):
            term["divisor"] = len(elements)  # type: ignore[assignment]
        return {"loss": term}

    def _no_terms(self) -> dict[str, Any]:
        """What stands for no elements: a loss of 0."""
        return {} if _IS_3 else {"loss": self.zero_loss()}


class HostMiner(_Records, miners.BaseMiner):  # type: ignore[misc,unused-ignore]
    """The base of miners."""

    def __init__(self, **options: Any) -> None:
        if options.get("tuples_per_anchor") is not None:
            raise ValueError(
                "tuples_per_anchor would drop tuples at random; use num_negatives, which keeps "
                "the hardest"
            )
        super().__init__(**options)


class MinerArguments(NamedTuple):
    """What a miner is called with, after the embeddings and their labels."""

    candidates: tuple[Tensor, ...] | None
    ref_emb: Any
    ref_labels: Any


def miner_arguments(third: Any, fourth: Any, fifth: Any) -> MinerArguments:
    """Sort the arguments of a miner.

    Release 2 calls ``miner(embeddings, labels, ref_emb, ref_labels)``, release 3
    ``miner(embeddings, labels, indices_tuple, ref_emb, ref_labels)``. A tuple is the one, a tensor
    the other.

    Raises:
        TypeError: references came twice.
        ValueError: a tuple of other than three or four index tensors.
    """
    if third is None:
        return MinerArguments(None, fourth, fifth)
    if isinstance(third, (tuple, list)):
        if len(third) not in (3, 4) or not all(isinstance(index, Tensor) for index in third):
            raise ValueError(
                "indices_tuple must have three index tensors (anchors, positives, negatives) or "
                f"four (anchors, positives, anchors, negatives), got {len(third)} of "
                f"{sorted({type(index).__name__ for index in third})}"
            )
        return MinerArguments(tuple(third), fourth, fifth)
    if fourth is not None and fifth is not None:
        raise TypeError(
            "ref_emb was given twice, as the third argument and by name; call "
            "miner(embeddings, labels, ref_emb=ref_emb, ref_labels=ref_labels)"
        )
    return MinerArguments(None, third, fifth if fourth is None else fourth)


def is_unreduced(loss: Any) -> bool:
    """Whether a loss returns its terms as they are."""
    return _DO_NOTHING is not None and isinstance(loss.reducer, _DO_NOTHING)


class _Given:
    """A distance whose matrix is known. In all else it answers as the user's own."""

    def __init__(self, distance: Distance, matrix: Tensor) -> None:
        self._distance, self._matrix = distance, matrix

    def __call__(self, *rows: Any) -> Tensor:
        return self._matrix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._distance, name)


def on_matrix(loss: Loss, matrix: Tensor, call: Callable[[Any], Any]) -> Any:
    """What ``call`` returns of a loss that reads ``matrix`` in the place of its own distances.

    ``call`` gets a stand-in of the loss, which shares its modules, parameters and buffers, so that
    another thread can use the loss meanwhile. What the loss sets of itself, as a histogram or
    statistics, is set on it afterwards.

    Under ``swap`` a triplet loss takes the distance of the negative to the positive where that is
    less. Both rows lie on the curve whose distance the entry is: the two are one, and the stand-in
    does not look for the second.

    Args:
        loss: a supported loss.
        matrix: (n, c) what its distance would return.
        call: calls the loss that it is given.
    """
    stand_in: Any = object.__new__(type(loss))
    state = vars(stand_in)
    for name, value in vars(loss).items():
        # A method that was kept as an attribute belongs to the loss that it was kept by.
        own = isinstance(value, MethodType) and value.__self__ is loss
        state[name] = MethodType(value.__func__, stand_in) if own else value
    state.pop("_compiled_call_impl", None)  # that of Module.compile would call the loss itself
    state["distance"] = _Given(loss.distance, matrix)  # found before the module of this name
    if getattr(loss, "swap", False):
        state["swap"] = False
    before = dict(state)
    result = call(stand_in)
    for name, value in vars(stand_in).items():  # not ``state``, in which a compiler sees no change
        if value is not before.get(name):
            setattr(loss, name, value)
    return result


def check_takes_references(loss: Loss) -> None:
    """Raise if a supported loss takes no references.

    In release 3 that is ``LiftedStructureLoss``, for it reads the negatives of both rows of a
    positive pair.
    """
    if _IS_3 and isinstance(loss, losses.LiftedStructureLoss):
        raise ValueError(
            "ref_emb cannot be used with LiftedStructureLoss, which takes no references in "
            "pytorch-metric-learning 3; use GeneralizedLiftedStructureLoss"
        )


def fill_empty(terms: dict[str, Any], zero: Tensor) -> dict[str, Any]:
    """The terms, with ``zero`` in the place of a bare 0 of one that has no elements."""
    return {
        name: term if isinstance(term["losses"], Tensor) else {**term, "losses": zero}
        for name, term in terms.items()
    }
