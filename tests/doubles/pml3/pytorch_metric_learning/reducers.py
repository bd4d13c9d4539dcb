"""A double of pytorch-metric-learning 3: its documented contract only; not the library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ._guesses import guess

DOUBLE = True

__all__ = [
    "AvgNonZeroReducer",
    "BaseReducer",
    "ClassWeightedReducer",
    "DivisorReducer",
    "MeanReducer",
    "MultipleReducers",
    "PerAnchorReducer",
    "SumReducer",
    "ThresholdReducer",
]


def mean_or_zero(losses: Tensor) -> Tensor:
    """The mean, and of nothing a differentiable 0."""
    return losses.sum() / max(1, len(losses))


class BaseReducer(nn.Module):
    """Terms to a scalar: the sum over the terms of what the reducer makes of each."""

    def forward(self, loss_dict, embeddings, labels=None):
        """No terms give a differentiable 0."""
        parts = []
        for name, term in loss_dict.items():
            reducer = self.reducer_of(name)
            check_term(name, term)
            if "divisor" in term and not isinstance(reducer, DivisorReducer):
                raise ValueError(f"the term {name!r} has a divisor and wants a DivisorReducer")
            parts.append(reducer.reduce(term, embeddings, labels))
        return torch.stack(parts).sum() if parts else (embeddings * 0).sum()

    def reducer_of(self, name: str) -> BaseReducer:
        """Who reduces the term."""
        return self

    def reduce(self, term, embeddings, labels):
        """One term."""
        raise NotImplementedError


def check_term(name: str, term: dict[str, Any]) -> None:
    """Raise unless a term has 1-D losses and indices of their length."""
    unknown = set(term) - {"losses", "indices", "divisor"}
    if unknown and not guess("extra_keys"):
        raise ValueError(f"the term {name!r} has unknown keys {sorted(unknown)}")
    losses, indices = term["losses"], term["indices"]
    parts = [indices] if isinstance(indices, Tensor) else list(indices)
    if losses.ndim != 1 or any(part.shape != losses.shape for part in parts):
        shapes = [tuple(part.shape) for part in parts]
        raise ValueError(f"the term {name!r} is {tuple(losses.shape)} with indices {shapes}")


def anchors_of(term: dict[str, Any]) -> Tensor:
    """The row of the batch that each loss belongs to."""
    indices = term["indices"]
    return indices if isinstance(indices, Tensor) else indices[0]


class MeanReducer(BaseReducer):
    """The mean."""

    def reduce(self, term, embeddings, labels):
        """One term."""
        return mean_or_zero(term["losses"])


class SumReducer(BaseReducer):
    """The sum."""

    def reduce(self, term, embeddings, labels):
        """One term."""
        return term["losses"].sum()


class ThresholdReducer(BaseReducer):
    """The mean of the losses between two bounds."""

    def __init__(self, low: float | None = None, high: float | None = None) -> None:
        super().__init__()
        if low is None and high is None:
            raise ValueError("give low or high")
        self.low = -torch.inf if low is None else low
        self.high = torch.inf if high is None else high

    def reduce(self, term, embeddings, labels):
        """One term."""
        losses = term["losses"]
        return mean_or_zero(losses[(losses > self.low) & (losses < self.high)])


class AvgNonZeroReducer(ThresholdReducer):
    """The mean of the positive losses."""

    def __init__(self) -> None:
        super().__init__(low=0)


class ClassWeightedReducer(BaseReducer):
    """The mean of the losses, each times the weight of its anchor's class."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def reduce(self, term, embeddings, labels):
        """One term."""
        losses = term["losses"]
        return mean_or_zero(losses * self.weights.to(losses)[labels[anchors_of(term)]])


class PerAnchorReducer(BaseReducer):
    """The mean of each anchor's pairs, 0 for a row without, and then another reducer."""

    def __init__(self, reducer: BaseReducer | None = None) -> None:
        super().__init__()
        self.reducer = MeanReducer() if reducer is None else reducer

    def reduce(self, term, embeddings, labels):
        """One term, of elements or of pairs."""
        losses, indices = term["losses"], term["indices"]
        if len(losses):
            losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
        if not isinstance(indices, Tensor):
            if len(indices) == 3:
                raise NotImplementedError("triplets: not in the double")
            sums = losses.new_zeros(len(embeddings)).index_add(0, indices[0], losses)
            counts = torch.bincount(indices[0], minlength=len(embeddings))
            losses = sums / counts.clamp(min=1)
            indices = torch.arange(len(embeddings), device=losses.device)
        return self.reducer({"loss": {"losses": losses, "indices": indices}}, embeddings, labels)


class DivisorReducer(BaseReducer):
    """The sum over the term's own divisor; 0 where that is 0."""

    def reduce(self, term, embeddings, labels):
        """One term."""
        if "divisor" not in term:
            raise ValueError("DivisorReducer wants terms with a divisor")
        return term["losses"].sum() / max(1, int(term["divisor"]))


class MultipleReducers(BaseReducer):
    """A reducer for each term, by name."""

    def __init__(
        self, reducers: Mapping[str, BaseReducer], default_reducer: BaseReducer | None = None
    ) -> None:
        super().__init__()
        self.reducers = nn.ModuleDict(reducers)
        self.default_reducer = MeanReducer() if default_reducer is None else default_reducer

    def reducer_of(self, name: str) -> BaseReducer:
        """Who reduces the term."""
        return self.reducers[name] if name in self.reducers else self.default_reducer  # noqa: SIM401
