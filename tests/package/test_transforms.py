"""torch.compile, autocast, torch.func and opcheck on what a training step runs."""

from collections.abc import Callable

import pytest
import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import CosineSimilarity
from torch import Tensor

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, NPairLoss, SyntheticLoss
from loopml._types import Pairs
from loopml.ops.search import packed
from tests.oracles.searches import problem

CONSECUTIVE: dict[str, Callable[[], torch.nn.Module]] = {
    "hphn none": HPHNTripletLoss,
    "hphn loop": lambda: HPHNTripletLoss(synthesizer=LoOpMiner(pairing="consecutive")),
    "hphn ee": lambda: HPHNTripletLoss(synthesizer=EmbeddingExpansion(pairing="consecutive")),
    "hphn until apart": lambda: HPHNTripletLoss(
        synthesizer=LoOpMiner(pairing="consecutive"), real_until_apart=True
    ),
    "n-pair loop": lambda: NPairLoss(synthesizer=LoOpMiner(pairing="consecutive")),
    "n-pair arc": lambda: NPairLoss(
        synthesizer=LoOpMiner(pairing="consecutive"), distance=CosineSimilarity()
    ),
}
ALL: dict[str, Callable[[], torch.nn.Module]] = {
    "hphn loop": lambda: HPHNTripletLoss(synthesizer=LoOpMiner()),
    "n-pair ee": lambda: NPairLoss(synthesizer=EmbeddingExpansion()),
    "triplet loop": lambda: SyntheticLoss(losses.TripletMarginLoss(), LoOpMiner()),
}


def batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Sixteen rows of eight classes."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    embeddings = torch.randn(16, 6, generator=generator).to(dtype)
    return embeddings, torch.arange(16) // 2


def value_and_gradient(
    loss: Callable[[Tensor, Tensor], Tensor], autocast: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Of a loss on the batch; the forward pass alone is under autocast, as PyTorch advises."""
    embeddings, labels = batch()
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        value = loss(embeddings.requires_grad_(), labels)
    (gradient,) = torch.autograd.grad(value, embeddings)
    return value.detach(), gradient


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch's own compiler
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # a graph break reads it
@pytest.mark.parametrize(
    ("build", "fullgraph"),
    [
        *((build, True) for build in CONSECUTIVE.values()),
        *((build, False) for build in ALL.values()),
    ],
    ids=[f"{name} whole" for name in CONSECUTIVE] + list(ALL),
)
def test_a_compiled_loss_is_the_eager_one_and_hides_no_value(
    build: Callable[[], torch.nn.Module], fullgraph: bool
) -> None:
    """In value and gradient; static pairs compile whole, pairs from labels break the graph.

    Nobody looks at the values there: one bad value makes the loss NaN.
    """
    loss = build()
    torch.compiler.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=fullgraph)
    for found, wanted in zip(value_and_gradient(compiled), value_and_gradient(loss), strict=True):
        torch.testing.assert_close(found, wanted)
    for value in (float("nan"), float("inf"), 1e30):
        embeddings, labels = batch()
        embeddings[3, 2] = value
        assert compiled(embeddings.requires_grad_(), labels).isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*CONSECUTIVE, *ALL])
def test_autocast_leaves_our_arithmetic_alone(name: str, dtype: torch.dtype) -> None:
    """The search and the measure are float32 under autocast; PML's own products are not ours."""
    loss = {**CONSECUTIVE, **ALL}[name]()
    found, wanted = value_and_gradient(loss, autocast=dtype), value_and_gradient(loss)
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*CONSECUTIVE, *ALL])
def test_half_precision_is_that_of_the_rows_alone(name: str, dtype: torch.dtype) -> None:
    """The loss of half-precision rows is that of the same rows in float32."""
    loss = {**CONSECUTIVE, **ALL}[name]()
    embeddings, labels = batch(dtype)
    value = loss(embeddings.requires_grad_(), labels)
    value.backward()
    assert torch.equal(value, loss(embeddings.detach().float(), labels))
    assert embeddings.grad is not None
    assert torch.isfinite(embeddings.grad).all()


CURVES = Pairs(torch.tensor([0, 2, 4, 6]), torch.tensor([1, 3, 5, 6]), torch.tensor([0, 0, 1, 2]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["nearest_arcs", "nearest_segments", "nearest_samples"])
def test_ops_are_sound(name: str) -> None:
    """PyTorch's own check of a custom op: schema, fake tensors, autograd registration."""
    points = torch.nn.functional.normalize(batch()[0])
    options = ([0.0, 0.5], [0.0, 0.5, 1.0], True, False, True) if name == "nearest_samples" else ()
    op = getattr(torch.ops.loopml, name).default
    torch.library.opcheck(op, (*packed(*problem(points @ points.T, CURVES, CURVES)), *options, 2))
