"""Bad arguments are refused with an error that names them."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from torch import Tensor

from loopml import (
    EmbeddingExpansion,
    HPHNTripletLoss,
    LoOpMiner,
    NPairLoss,
    SyntheticLoss,
    geometry,
)

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
    (HPHNTripletLoss, "real_until_apart", ["yes", None, 2]),
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
    ("build", "given"),
    [
        (lambda: HPHNTripletLoss(synthesizer=LoOpMiner), LoOpMiner),
        (lambda: HPHNTripletLoss(distance=LpDistance), LpDistance),
        (lambda: SyntheticLoss(TripletMarginLoss, LoOpMiner()), TripletMarginLoss),
        (lambda: SyntheticLoss(TripletMarginLoss(), EmbeddingExpansion), EmbeddingExpansion),
    ],
)
def test_a_class_is_no_instance(build: Callable[[], Any], given: type) -> None:
    """The message says to call the class, not that a LoOpMiner came where one was wanted."""
    with pytest.raises(TypeError) as error:
        build()
    assert f"got the class {given.__name__} itself; call it: {given.__name__}(...)" in str(
        error.value
    )


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
    "n-pair": NPairLoss(),
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
    "numpy": ((TypeError,), lambda x: x.numpy(force=True)),
    "none": (REFUSED, lambda x: None),
    "one axis": (REFUSED, lambda x: x[:, 0]),
    "three axes": (REFUSED, lambda x: x[None]),
    "integers": (REFUSED, lambda x: x.long()),
    "nan": (REFUSED, lambda x: with_value(float("nan"))),
    "inf": (REFUSED, lambda x: with_value(float("-inf"))),
}
BAD_LABELS: dict[str, tuple[tuple[type, ...], Callable[[Tensor], Any]]] = {
    "list": ((TypeError,), lambda y: y.tolist()),
    "numpy": ((TypeError,), lambda y: y.numpy(force=True)),
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
@pytest.mark.parametrize(
    "dtype",
    [torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16, torch.uint32, torch.uint64],
)
def test_any_integer_labels(call: str, dtype: torch.dtype) -> None:
    """Labels of every integer type are labels, of references as well, and change no result."""
    x, labels = good()
    for more in [{}, {"ref_emb": x.clone(), "ref_labels": labels}][: 1 + (call in WITH_REFERENCE)]:
        narrow = {k: v.to(dtype) if k == "ref_labels" else v for k, v in more.items()}
        for found, wanted in zip(
            flat(CALLS[call](x, labels.to(dtype), **narrow)),
            flat(CALLS[call](x, labels, **more)),
            strict=True,
        ):
            assert torch.equal(found, wanted.to(found.dtype))


def test_wide_labels_stay_apart() -> None:
    """uint64 has labels that agree in their lower 32 bits."""
    x, labels = good()
    wide = (labels << 32).to(torch.uint64)
    assert torch.equal(HPHNTripletLoss()(x, wide), HPHNTripletLoss()(x, labels))


def flat(result: Any) -> list[Tensor]:
    """The tensors of a loss, of triplets or of a batch."""
    return [result] if isinstance(result, Tensor) else [t for part in result for t in flat(part)]


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


# --- advice ------------------------------------------------------------------------------------

NUMBERED = "torch.as_tensor(np.unique(np.asarray({0}, str), return_inverse=True)[1])"

# What is wrong, from the good argument, and the expression that its error gives as the repair.
ADVICE: dict[str, list[tuple[Callable[[Tensor], Any], str]]] = {
    "embeddings": [
        (lambda x: x.tolist(), "torch.as_tensor({0})"),
        (lambda x: x.double().numpy(force=True), "torch.as_tensor({0})"),
        (lambda x: list(x), "torch.stack({0})"),
        (lambda x: (10 * x).long(), "{0}.float()"),
        (lambda x: x > 0, "{0}.float()"),
        (lambda x: torch.complex(x[:, ::2], x[:, 1::2]), "torch.view_as_real({0}).flatten(-2)"),
        (lambda x: x[:, 0], "{0}.unsqueeze(1)"),
        (lambda x: x.view(6, 2, 2), "{0}.flatten(1)"),
        (lambda x: x[None], "{0}.flatten(0, -2)"),
        (lambda x: 1e30 * x, "{0} / {0}.abs().amax()"),
        (lambda x: 1e30 * x, "{0}.double()"),
        (lambda x: 1e30 * x.bfloat16(), "{0}.double()"),
        (lambda x: 1e200 * x.double(), "{0} / {0}.abs().amax()"),
    ],
    "labels": [
        (lambda y: y.tolist(), "torch.as_tensor({0})"),
        (lambda y: y.numpy(force=True).astype(np.uint16), "torch.as_tensor({0})"),
        (lambda y: y.bool().tolist(), "torch.as_tensor({0}).long()"),
        (lambda y: y.double().numpy(force=True), "torch.as_tensor({0}).long()"),
        (lambda y: [f"class {i}" for i in y], NUMBERED),
        (lambda y: np.array([f"class {i}" for i in y]), NUMBERED),
        (lambda y: np.array([None, None, "a", "a", 1, 1], dtype=object), NUMBERED),
        (lambda y: (y / 2).tolist(), NUMBERED),
        (lambda y: y / 2, NUMBERED),
        (lambda y: torch.complex(y.float(), y.float()), NUMBERED),
        (lambda y: y.double(), "{0}.long()"),
        (lambda y: y == 1, "{0}.long()"),
        (lambda y: y[:, None], "{0}.flatten()"),
        (lambda y: torch.nn.functional.one_hot(y), "{0}.int().argmax(1)"),
        (lambda y: torch.nn.functional.one_hot(y).float(), "{0}.int().argmax(1)"),
        (lambda y: torch.nn.functional.one_hot(y).bool(), "{0}.int().argmax(1)"),
        (lambda y: (y - 1).view(torch.uint64), "{0}.view(torch.int64)"),
    ],
}


@pytest.mark.parametrize("which", ["batch", "references"])
@pytest.mark.parametrize(
    ("argument", "spoil", "advice"),
    [(argument, *case) for argument, cases in ADVICE.items() for case in cases],
)
def test_advice_works(
    argument: str, spoil: Callable[[Tensor], Any], advice: str, which: str
) -> None:
    """What an error says to do is done, and the same call passes."""
    name = argument
    if which == "references":
        name = {"embeddings": "ref_emb", "labels": "ref_labels"}[argument]
    arguments = dict(
        zip(("embeddings", "labels", "ref_emb", "ref_labels"), good() * 2, strict=True)
    )
    if which == "batch":
        del arguments["ref_emb"], arguments["ref_labels"]
    bad, expression = spoil(arguments[name]), advice.format(name)
    for call in WITH_REFERENCE if which == "references" else CALLS:
        with pytest.raises(REFUSED, match=name) as error:
            CALLS[call](**arguments | {name: bad})
        assert expression in str(error.value)
        repaired = eval(expression, {"torch": torch, "np": np, name: bad})
        for other in ("embeddings", "ref_emb"):  # rows of another width fit no other rows
            if other in arguments and argument == "embeddings" and other != name:
                arguments[other] = repaired.clone()
        CALLS[call](**arguments | {name: repaired})


@pytest.mark.parametrize(
    ("spoil", "advice"),
    [
        (lambda x: x.double(), "q1.to(torch.float32)"),
        (lambda x: x[0], "q1.unsqueeze(0)"),
        (lambda x: x[None], "q1.flatten(0, -2)"),
        (lambda x: x.tolist(), "torch.as_tensor(q1)"),
    ],
)
def test_advice_on_endpoints_works(spoil: Callable[[Tensor], Any], advice: str) -> None:
    p0, p1, q0, q1 = torch.randn(4, 1, 3)
    with pytest.raises(REFUSED, match="q1") as error:
        geometry.pairwise_segment_distance(p0, p1, q0, spoil(q1))
    assert advice in str(error.value)
    repaired = eval(advice, {"torch": torch, "q1": spoil(q1)})
    geometry.pairwise_segment_distance(p0, p1, q0, repaired)


@pytest.mark.parametrize("call", CALLS)
def test_arguments_in_another_order(call: str) -> None:
    """A matrix where labels belong, or labels where embeddings do: not a matter of dtype."""
    x, labels = good()
    for arguments, shape in (((x, x), "(6, 4)"), ((labels, x), "(6,)")):
        with pytest.raises(ValueError, match="order of the arguments") as error:
            CALLS[call](*arguments)
        assert shape in str(error.value)
        assert ".long()" not in str(error.value)
        assert ".float()" not in str(error.value)


@pytest.mark.parametrize("call", ["hphn", "hphn with ee", "hphn with loop", "synthetic", "n-pair"])
def test_tuples_of_ones_own_do_not_replace_labels(call: str) -> None:
    """pytorch-metric-learning's losses take a tuple without labels; ours mine from labels."""
    x = good()[0]
    triplets = (torch.tensor([0]), torch.tensor([1]), torch.tensor([2]))
    for arguments in ({}, {"indices_tuple": triplets}, {"labels": None, "indices_tuple": triplets}):
        with pytest.raises(TypeError, match=r"labels must be given.*mined.*indices_tuple"):
            CALLS[call](x, **arguments)
    TripletMarginLoss()(x, indices_tuple=triplets)  # what the message sends to


PAIRWISE: dict[str, Callable[..., Any]] = {
    "miner": LoOpMiner(pairing="consecutive"),
    "synthesize": LoOpMiner(pairing="consecutive").synthesize,
    "expansion": EmbeddingExpansion(pairing="consecutive"),
    "hphn": HPHNTripletLoss(synthesizer=LoOpMiner(pairing="consecutive")),
    "n-pair": NPairLoss(synthesizer=LoOpMiner(pairing="consecutive")),
    "synthetic": SyntheticLoss(TripletMarginLoss(), LoOpMiner(pairing="consecutive")),
}


@pytest.mark.parametrize("call", PAIRWISE)
def test_consecutive_rows_are_those_of_the_batch(call: str) -> None:
    """References have no rows (0, 1), (2, 3), ... of their own; those that are the batch have."""
    x, labels = good()
    PAIRWISE[call](x, labels)
    PAIRWISE[call](x, labels, ref_emb=x, ref_labels=labels)
    with pytest.raises(ValueError, match="use pairing='auto' or pairing='all'"):
        PAIRWISE[call](x, labels, ref_emb=x.clone(), ref_labels=labels)


@pytest.mark.parametrize(("setting", "looks"), [("1", True), ("0", False), (None, False)])
def test_values_are_checked_everywhere_where_the_environment_says_so(
    setting: str | None, looks: bool
) -> None:
    """On the CPU always; on another device, for which meta stands here, under the variable."""
    code = (
        "import torch; from loopml._checks import values_readable; "
        "print(values_readable(torch.empty(1)), values_readable(torch.empty(1, device='meta')))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "LOOPML_CHECK_VALUES"}
    if setting is not None:
        environment["LOOPML_CHECK_VALUES"] = setting
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", str(looks)]


@pytest.mark.parametrize("call", WITH_REFERENCE)
def test_half_a_reference(call: str) -> None:
    """References need labels, and labels of references need them."""
    x, labels = good()
    for half in ({"ref_emb": x}, {"ref_labels": labels}):
        with pytest.raises(ValueError, match="give both or neither"):
            CALLS[call](x, labels, **half)


@pytest.mark.parametrize("call", CALLS)
def test_rows_without_a_number(call: str) -> None:
    """Embeddings of no dimension have a message without advice: nothing would help."""
    with pytest.raises(ValueError, match=r"with dim >= 1, got \(6, 0\)$"):
        CALLS[call](good()[0][:, :0], good()[1])
