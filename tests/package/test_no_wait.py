"""What a step on CUDA waits for, found without a GPU.

On a CUDA build of PyTorch, fake tensors on "cuda" go through a forward pass without a GPU. What
reads a value, or has a shape that depends on values, raises there, and so do operands on two
devices. A copy that blocks does not, so it is looked for here. The Triton kernels do not run, but
all around them does. Where there is a GPU the same steps run on it, backward too, under PyTorch's
own watch for synchronisations. That part has not been run: there was no GPU.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, NPairLoss
from loopml._types import Side
from loopml.pairing import ALL_UP_TO

RELEASE = tuple(int(part) for part in torch.__version__.split(".")[:2])
pytestmark = pytest.mark.skipif(
    not torch.backends.cuda.is_built() or RELEASE < (2, 14),
    reason="needs a CUDA build of torch 2.14, as nox -s reproduce installs; 2.4 asks for a driver",
)
aten = torch.ops.aten


class Blocking(TorchDispatchMode):
    """Raises at a copy between devices that the CPU waits for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and look where it copied to."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in (aten._to_copy.default, aten.copy_.default):
            source = args[func is aten.copy_.default]
            blocking = not (kwargs.get("non_blocking") or True in args[2:])
            if source.device != result.device and blocking:
                raise RuntimeError(f"a blocking copy from {source.device} to {result.device}")
        return result


def kernel_of(op: Any, gram: Tensor) -> Callable[..., Any]:
    """What CUDA runs for an op of ours."""
    name = op._name.split("::")[-1]

    def call(*args: Any) -> Any:
        if name.startswith("nearest") and args[-1] == 1:
            return getattr(pytest.importorskip("loopml.ops.triton"), name)(*args[:-1])
        return op._init_fn(*args)

    return call


def launch(kind: str, inner: Tensor, rows: Side, *_: Any) -> tuple[Tensor, Tensor]:
    """Results of a kernel that does not run."""
    shape = (len(rows.inner), 1)
    return rows.pairs.first.new_empty(shape), inner.new_empty(shape)


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors are fake, and the CPU waits for nothing."""
    pytest.importorskip("triton")
    monkeypatch.setattr("loopml.ops.search.chosen", kernel_of)
    monkeypatch.setattr("loopml.ops.positives.chosen", kernel_of)
    monkeypatch.setattr("loopml.ops.triton._launch", launch)
    # Without a GPU there is no pinned memory.
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    with FakeTensorMode(allow_non_fake_inputs=True), Blocking():
        yield


def rows_and_labels(n: int, classes: int) -> tuple[Tensor, Tensor]:
    """Rows on CUDA, and labels of classes in consecutive rows on the CPU."""
    with unset_fake_temporarily():
        labels = torch.arange(n, device="cpu") * classes // n
    return torch.randn(n, 8, device="cuda"), labels


SMALL, LARGE = 4, 12  # rows of a class
# The option, rows of a class, and classes: once so many that positives are a list on the CPU.
PAIRINGS = {
    "small": ("auto", SMALL, 3),
    "large": ("auto", LARGE, 22),
    "all": ("all", LARGE, 3),
    "consecutive": ("consecutive", SMALL, 3),
}
assert SMALL <= ALL_UP_TO < LARGE
STEPS: dict[str, Callable[[str], Any]] = {
    "hphn": lambda pairing: HPHNTripletLoss(),
    "hphn loop": lambda pairing: HPHNTripletLoss(synthesizer=LoOpMiner(pairing=pairing)),
    "hphn ee": lambda pairing: HPHNTripletLoss(synthesizer=EmbeddingExpansion(pairing=pairing)),
    "hphn until apart": lambda pairing: HPHNTripletLoss(
        synthesizer=LoOpMiner(pairing=pairing), real_until_apart=True
    ),
    "hphn segment": lambda pairing: HPHNTripletLoss(
        synthesizer=LoOpMiner(pairing=pairing), distance=LpDistance(normalize_embeddings=False)
    ),
    "hphn ee plain": lambda pairing: HPHNTripletLoss(
        synthesizer=EmbeddingExpansion(normalize=False, pairing=pairing),
        distance=LpDistance(normalize_embeddings=False),
    ),
    "n-pair": lambda pairing: NPairLoss(),
    "n-pair loop": lambda pairing: NPairLoss(synthesizer=LoOpMiner(pairing=pairing)),
    "n-pair ee": lambda pairing: NPairLoss(synthesizer=EmbeddingExpansion(pairing=pairing)),
    "miner": lambda pairing: LoOpMiner(pairing=pairing),
    "miner of two": lambda pairing: LoOpMiner(pairing=pairing, num_negatives=2),
    "synthetic rows": lambda pairing: LoOpMiner(pairing=pairing).synthesize,
    "expansion": lambda pairing: EmbeddingExpansion(pairing=pairing),
    "expanded": lambda pairing: EmbeddingExpansion(pairing=pairing).expand,
}


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.usefixtures("fake_cuda")
def test_a_batch_waits_for_nothing(name: str, pairing: str) -> None:
    option, size, classes = PAIRINGS[pairing]
    found = STEPS[name](option)(*rows_and_labels(classes * size, classes))
    assert all(x.is_cuda for x in torch.utils._pytree.tree_leaves(found))


@pytest.mark.parametrize("pairing", ["small", "large", "all"])
@pytest.mark.parametrize("name", [name for name in STEPS if name.split()[0] in ("hphn", "n-pair")])
@pytest.mark.usefixtures("fake_cuda")
def test_references_wait_for_nothing(name: str, pairing: str) -> None:
    option, size, classes = PAIRINGS[pairing]
    references = rows_and_labels(classes * size, classes)
    assert STEPS[name](option)(*rows_and_labels(12, 3), None, *references).is_cuda


@pytest.mark.usefixtures("fake_cuda")
def test_labels_on_the_gpu_are_waited_for() -> None:
    """But not under "consecutive", which takes them as they come."""
    rows, labels = rows_and_labels(12, 3)
    labels = labels.to("cuda", non_blocking=True)
    assert STEPS["hphn loop"]("consecutive")(rows, labels).is_cuda
    with pytest.raises((DataDependentOutputException, RuntimeError)):
        STEPS["hphn loop"]("auto")(rows, labels)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: bool(x.sum() > 0),
        lambda x: x + torch.ones(4, 4),
        lambda x: x + torch.tensor([1.0, 2, 3, 4], device="cuda"),
        lambda x: x[torch.zeros((), dtype=torch.int64, device="cuda")],
        lambda x: x.cpu(),
    ],
)
@pytest.mark.usefixtures("fake_cuda")
def test_a_wait_would_be_seen(wait: Callable[[Tensor], Any]) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - of several kinds
        wait(torch.randn(4, 4, device="cuda"))


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """PyTorch raises where the CPU waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("name", STEPS)
def test_a_gpu_is_not_waited_for(name: str, pairing: str) -> None:
    option, size, classes = PAIRINGS[pairing]
    step = STEPS[name](option)
    rows, labels = rows_and_labels(classes * size, classes)
    for context in (contextlib.nullcontext(), watched()):  # kernels are compiled first
        with context:
            found = step(rows.requires_grad_(), labels)
            if isinstance(found, Tensor):
                found.backward()
