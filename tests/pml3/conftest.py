"""What the tests of pytorch-metric-learning 3 share: batches, and losses and miners that note."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import pytorch_metric_learning
import torch
from pytorch_metric_learning import losses, miners
from torch import Tensor


def pytest_configure(config: pytest.Config) -> None:
    """Say what a test marked so needs."""
    config.addinivalue_line("markers", "real: needs the package itself; the double has no answer")


@pytest.fixture(autouse=True)
def _real(request: pytest.FixtureRequest) -> None:
    """Leave out what the double cannot answer."""
    double = getattr(pytorch_metric_learning, "DOUBLE", False)
    if double and request.node.get_closest_marker("real"):
        pytest.skip("the double does not answer this")


class Given(NamedTuple):
    """A batch, references and all triplets between them. Every row has both kinds of pairs."""

    x: Tensor
    labels: Tensor
    ref: Tensor
    ref_labels: Tensor
    triplets: tuple[Tensor, ...]


@pytest.fixture
def given() -> Given:
    """A batch in float64 that wants a gradient, as its references do."""
    generator = torch.Generator().manual_seed(0)
    options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    labels, ref_labels = torch.tensor([1, 0, 2, 1, 0, 2, 1, 0]), torch.tensor([2, 0, 1, 1, 0, 2])
    x, ref = (torch.randn(len(y), 4, **options).requires_grad_() for y in (labels, ref_labels))
    same = labels[:, None] == ref_labels
    triplets = torch.where(same[:, :, None] & ~same[:, None])
    return Given(x, labels, ref, ref_labels, triplets)


class Call(NamedTuple):
    """How a module was called."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __getitem__(self, name: Any) -> Any:
        """An argument of the five, by its name."""
        names = ("embeddings", "labels", "indices_tuple", "ref_emb", "ref_labels")
        return {**dict(zip(names, self.args, strict=False)), **self.kwargs}.get(name)


class SpyLoss(losses.BaseMetricLossFunction):  # type: ignore[misc]
    """The mean of the entries' sums. It notes its calls, and what ``compute_loss`` is given."""

    def __init__(self, terms: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.terms = terms
        self.calls: list[Call] = []
        self.computed: list[Call] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Note the call; the signature of ``forward`` stays as it is."""
        self.calls.append(Call(args, kwargs))
        return super().__call__(*args, **kwargs)

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        """One element for each row, or the terms of the test."""
        self.computed.append(Call((embeddings, labels, indices_tuple, ref_emb, ref_labels), {}))
        if self.terms is not None:
            return self.terms
        rows = torch.arange(len(embeddings))
        return {"loss": {"losses": embeddings.sum(1), "indices": rows}}


class SpyMiner(miners.BaseMiner):  # type: ignore[misc]
    """It notes its calls, and mines the first of its candidates."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.with_grad: list[bool] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Note the call; the signature of ``forward`` stays as it is."""
        self.calls.append(Call(args, kwargs))
        return super().__call__(*args, **kwargs)

    def forward(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None):
        """One pair of each kind, of the candidates if there are some."""
        self.with_grad.append(torch.is_grad_enabled())
        if indices_tuple is not None:
            return tuple(index[:1] for index in indices_tuple)
        return tuple(torch.tensor([row]) for row in (0, 3, 1))


@pytest.fixture
def spy_loss() -> type[SpyLoss]:
    """The class of losses that note."""
    return SpyLoss


@pytest.fixture
def spy_miner() -> type[SpyMiner]:
    """The class of miners that note."""
    return SpyMiner
