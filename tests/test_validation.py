"""Bad arguments are refused with an error that names them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from torch import Tensor

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, SyntheticLoss

REFUSED = (ValueError, TypeError)


# --- constructors ------------------------------------------------------------------------------

BAD_OPTIONS: list[tuple[Callable[..., Any], str, list[Any]]] = [
    (LoOpMiner, "geometry", ["arcs", "", None, 1]),
    (LoOpMiner, "pairing", ["pairs", "ALL", None, 2]),
    (LoOpMiner, "num_negatives", [0, -1, 1.5, True, "1", "all"]),
    (LoOpMiner, "distance", ["l2", 2]),
    (EmbeddingExpansion, "n_points", [-1, 1.5, 2.0, True, "2", None]),
    (EmbeddingExpansion, "normalize", ["no", None, 2]),
    (EmbeddingExpansion, "pairing", ["pairs", "ALL", None, 2]),
    (EmbeddingExpansion, "num_negatives", [0, -1, 1.5, True, "1", "all"]),
    (HPHNTripletLoss, "margin", [-0.1, float("nan"), float("inf"), "0.2", None]),
    (HPHNTripletLoss, "soft_margin", ["yes", None, 2]),
    (HPHNTripletLoss, "synthesizer", ["loop", LoOpMiner, TripletMarginMiner(), lambda *_: None]),
]


@pytest.mark.parametrize(
    ("build", "option", "value"),
    [(build, option, value) for build, option, values in BAD_OPTIONS for value in values],
)
def test_bad_options(build: Callable[..., Any], option: str, value: Any) -> None:
    """Every option is checked where it is given, not when it is first used."""
    with pytest.raises(REFUSED, match=option):
        build(**{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [("loss", v) for v in ("triplet", None, TripletMarginLoss, torch.nn.MSELoss())]
    + [("synthesizer", v) for v in (None, "loop", LoOpMiner, TripletMarginMiner())],
)
def test_bad_parts_of_a_synthetic_loss(option: str, value: Any) -> None:
    """Both parts are instances of the right kind; there is no default."""
    with pytest.raises(REFUSED, match=option):
        SyntheticLoss(**{"loss": TripletMarginLoss(), "synthesizer": LoOpMiner(), option: value})


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (LoOpMiner, ["arc"]),
        (EmbeddingExpansion, [2, True]),
        (HPHNTripletLoss, [0.2, True]),
    ],
)
def test_options_are_keyword_only(build: Callable[..., Any], arguments: list[Any]) -> None:
    """An option by position is an error."""
    with pytest.raises(TypeError, match="positional"):
        build(*arguments)


@pytest.mark.parametrize("build", [LoOpMiner, EmbeddingExpansion, HPHNTripletLoss])
def test_misspelt_options(build: Callable[..., Any]) -> None:
    """A misspelt option is not swallowed by the PML base class."""
    with pytest.raises(TypeError, match="num_negative_pairs"):
        build(num_negative_pairs=2)


def test_edge_options_are_accepted() -> None:
    """Zero points, zero margin, all negatives."""
    EmbeddingExpansion(0, num_negatives=None)
    LoOpMiner(num_negatives=None)
    HPHNTripletLoss(0)
    HPHNTripletLoss(0.0, soft_margin=True, synthesizer=None)


# --- tensors -----------------------------------------------------------------------------------

CALLS: dict[str, Callable[..., Any]] = {
    "miner": LoOpMiner(),
    "synthesize": LoOpMiner().synthesize,
    "expansion": EmbeddingExpansion(),
    "expand": EmbeddingExpansion().expand,
    "hphn": HPHNTripletLoss(),
    "hphn with ee": HPHNTripletLoss(synthesizer=EmbeddingExpansion()),
    "hphn with loop": HPHNTripletLoss(synthesizer=LoOpMiner()),
    "synthetic": SyntheticLoss(TripletMarginLoss(), LoOpMiner()),
}
WITH_REFERENCE = ["miner", "synthesize", "hphn", "hphn with ee", "hphn with loop", "synthetic"]


def good() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])


def with_value(value: float) -> Tensor:
    x = good()[0]
    x[3, 2] = value
    return x


BAD_EMBEDDINGS: dict[str, tuple[tuple[type, ...], Callable[[Tensor], Any]]] = {
    "list": ((TypeError,), lambda x: x.tolist()),
    "numpy": ((TypeError,), lambda x: x.numpy()),
    "none": (REFUSED, lambda x: None),
    "one axis": (REFUSED, lambda x: x[:, 0]),
    "three axes": (REFUSED, lambda x: x[None]),
    "integers": (REFUSED, lambda x: x.long()),
    "nan": (REFUSED, lambda x: with_value(float("nan"))),
    "inf": (REFUSED, lambda x: with_value(float("-inf"))),
}
BAD_LABELS: dict[str, tuple[tuple[type, ...], Callable[[Tensor], Any]]] = {
    "list": ((TypeError,), lambda y: y.tolist()),
    "numpy": ((TypeError,), lambda y: y.numpy()),
    "none": (REFUSED, lambda y: None),
    "floats": (REFUSED, lambda y: y.double()),
    "two axes": (REFUSED, lambda y: y[:, None]),
    "too short": (REFUSED, lambda y: y[:-1]),
    "too long": (REFUSED, lambda y: torch.cat([y, y])),
}


@pytest.mark.parametrize("bad", BAD_EMBEDDINGS)
@pytest.mark.parametrize("call", CALLS)
def test_bad_embeddings(call: str, bad: str) -> None:
    """Anything but a finite floating (n, d) tensor."""
    errors, spoil = BAD_EMBEDDINGS[bad]
    x, labels = good()
    with pytest.raises(errors, match="embeddings"):
        CALLS[call](spoil(x), labels)


@pytest.mark.parametrize("bad", BAD_LABELS)
@pytest.mark.parametrize("call", CALLS)
def test_bad_labels(call: str, bad: str) -> None:
    """Anything but an integer tensor of one label per row."""
    errors, spoil = BAD_LABELS[bad]
    x, labels = good()
    with pytest.raises(errors, match="labels"):
        CALLS[call](x, spoil(labels))


@pytest.mark.parametrize("call", WITH_REFERENCE)
def test_reference_without_labels(call: str) -> None:
    """ref_emb alone says nothing of classes."""
    with pytest.raises(REFUSED, match="ref_labels"):
        CALLS[call](*good(), ref_emb=torch.randn(5, 4))


@pytest.mark.parametrize("bad", [name for name in BAD_EMBEDDINGS if name != "none"])
@pytest.mark.parametrize("call", WITH_REFERENCE)
def test_bad_reference_embeddings(call: str, bad: str) -> None:
    """The reference is checked like the batch, under its own name."""
    errors, spoil = BAD_EMBEDDINGS[bad]
    ref, ref_labels = good()
    with pytest.raises(errors, match="ref_emb"):
        CALLS[call](*good(), ref_emb=spoil(ref), ref_labels=ref_labels)


@pytest.mark.parametrize("bad", [name for name in BAD_LABELS if name != "none"])
@pytest.mark.parametrize("call", WITH_REFERENCE)
def test_bad_reference_labels(call: str, bad: str) -> None:
    """The reference's labels too."""
    errors, spoil = BAD_LABELS[bad]
    ref, ref_labels = good()
    with pytest.raises(errors, match="ref_labels"):
        CALLS[call](*good(), ref_emb=ref, ref_labels=spoil(ref_labels))


@pytest.mark.parametrize("call", WITH_REFERENCE)
def test_reference_of_another_size(call: str) -> None:
    """Reference and batch live in the same space."""
    with pytest.raises(REFUSED, match="ref_emb"):
        CALLS[call](*good(), ref_emb=torch.randn(6, 3), ref_labels=good()[1])


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.uint8, torch.int64])
def test_any_integer_labels(call: str, dtype: torch.dtype) -> None:
    """Labels of every integer type are labels."""
    x, labels = good()
    CALLS[call](x, labels.to(dtype))


@pytest.mark.parametrize(
    ("call", "argument", "value", "words"),
    [
        ("miner", "embeddings", torch.randn(4), ["dim", "(4,)"]),
        ("miner", "labels", torch.arange(5), ["6", "5"]),
        ("miner", "labels", torch.randn(6), ["integer", "float32"]),
    ],
)
def test_messages_say_what_was_expected_and_what_came(
    call: str, argument: str, value: Tensor, words: list[str]
) -> None:
    """An error carries the expectation and the value's own shape or dtype."""
    arguments = dict(zip(("embeddings", "labels"), good(), strict=True)) | {argument: value}
    with pytest.raises(REFUSED, match=argument) as error:
        CALLS[call](**arguments)
    assert all(word in str(error.value) for word in words)
