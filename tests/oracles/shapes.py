"""The shapes that the modules hand to each other, checked on every call that a test makes.

Each stub below has the name and the parameters of a function or method of loopml; ``install`` makes
loopml call that through a check of the stub's annotations. One letter is one size within a call.
What comes in is looked at after the call, so that loopml's own errors come first; under
``torch.compile`` nothing is, since the check cannot be compiled.

n batch, m references or points, d dimension, p and q curves, k per row, e elements.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from beartype.door import die_if_unbearable
from jaxtyping import Bool, Float, Int64, Integer, jaxtyped
from torch import Tensor

from loopml import (
    EmbeddingExpansion,
    HPHNTripletLoss,
    LoOpMiner,
    NPairLoss,
    SyntheticLoss,
    batch,
    pairing,
    selection,
    synthesis,
)
from loopml import (
    measure as measuring,
)
from loopml.geometry import arcs, distances, packing, pairwise, segments, transplant
from loopml.ops import positives, scores, search

Stub = Callable[..., Any]
STUBS: list[tuple[Any, Stub]] = []


def of(*owners: Any) -> Callable[[Stub], Stub]:
    """The stub is of the function of its name in these modules or classes."""

    def add(stub: Stub) -> Stub:
        STUBS.extend((owner, stub) for owner in owners)
        return stub

    return add


def fields(**hints: Any) -> dict[str, Any]:
    """The annotation of a tuple with these fields, or of another object with these attributes."""
    return hints


def pairs(size: str) -> dict[str, Any]:
    """The annotation of ``Pairs``."""
    return fields(
        first=Int64[Tensor, size], second=Int64[Tensor, size], label=Integer[Tensor, size]
    )


def side(size: str) -> dict[str, Any]:
    """The annotation of ``Side``."""
    return fields(pairs=pairs(size), inner=Float[Tensor, size])


CLOSEST = fields(
    s=Float[Tensor, "*b"],
    t=Float[Tensor, "*b"],
    point_p=Float[Tensor, "*b d"],
    point_q=Float[Tensor, "*b d"],
    distance=Float[Tensor, "*b"],
)
Ends = Float[Tensor, "*#b d"]
Starts, Others = Float[Tensor, "p d"], Float[Tensor, "q d"]
Batch, Labels = Float[Tensor, "n d"], Integer[Tensor, "n"]
References = Float[Tensor, "m d"] | None
ReferenceLabels = Integer[Tensor, "m"] | None
BATCH = fields(embeddings=Batch, labels=Labels, ref_emb=References, ref_labels=ReferenceLabels)
Rows = Int64[Tensor, "e"]
SYNTHETIC = fields(
    embeddings=Batch,
    labels=Labels,
    indices_tuple=tuple[Rows, Rows, Rows],
    ref_emb=Float[Tensor, "r d"],
    ref_labels=Integer[Tensor, "r"],
)
GRAM = fields(
    inner=Float[Tensor, "a b"], row_square=Float[Tensor, "a"], col_square=Float[Tensor, "b"]
)
Inner, Found = Float[Tensor, "a b"], tuple[Int64[Tensor, "p k"], Float[Tensor, "p k"]]
Points = Float[Tensor, "m d"]
ROWS = fields(given=Points, unit=Points)
POINTS = fields(seen=ROWS, placed=ROWS, located=Points, gram=GRAM)
NEGATIVES = fields(anchor=Int64[Tensor, "u"], positive=Int64[Tensor, "u"], curve=pairs("u"))

# --- what users call ---------------------------------------------------------------------------


@of(segments)
def closest_on_segments(p0: Ends, p1: Ends, q0: Ends, q1: Ends) -> CLOSEST: ...


@of(arcs)
def closest_on_arcs(p0: Ends, p1: Ends, q0: Ends, q1: Ends) -> CLOSEST: ...


@of(segments)
def segment_distance(p0: Ends, p1: Ends, q0: Ends, q1: Ends) -> Float[Tensor, "*b"]: ...


@of(arcs)
def arc_distance(p0: Ends, p1: Ends, q0: Ends, q1: Ends) -> Float[Tensor, "*b"]: ...


@of(pairwise)
def pairwise_segment_distance(
    p0: Starts, p1: Starts, q0: Others, q1: Others
) -> Float[Tensor, "p q"]: ...


@of(pairwise)
def pairwise_arc_distance(
    p0: Starts, p1: Starts, q0: Others, q1: Others
) -> Float[Tensor, "p q"]: ...


@of(LoOpMiner)
def synthesize(
    self, embeddings: Batch, labels: Labels, ref_emb: References, ref_labels: ReferenceLabels
) -> SYNTHETIC: ...


@of(EmbeddingExpansion)
def forward(
    self, embeddings: Batch, labels: Labels, ref_emb: References, ref_labels: ReferenceLabels
) -> SYNTHETIC: ...


@of(LoOpMiner)
def mine(
    self, embeddings: Batch, labels: Labels, ref_emb: References, ref_labels: ReferenceLabels
) -> tuple[Rows, Rows, Rows]: ...


@of(EmbeddingExpansion)
def expand(
    self, embeddings: Batch, labels: Labels
) -> tuple[Float[Tensor, "e d"], Integer[Tensor, "e"]]: ...


@of(HPHNTripletLoss, NPairLoss)
def elements(self, batch: BATCH) -> fields(
    losses=Float[Tensor, "e"], valid=Bool[Tensor, "e"], indices=tuple[Rows, ...]
): ...


@of(SyntheticLoss)
def forward(  # noqa: F811 - stubs of two classes
    self, embeddings: Batch, labels: Labels, indices_tuple, ref_emb: References, ref_labels
) -> Any: ...


# --- from labels to curves ---------------------------------------------------------------------


@of(batch)
def positive_mask(batch: BATCH) -> Bool[Tensor, "n _"]: ...


@of(pairing)
def every_two(labels: Labels) -> tuple[Int64[Tensor, "p"], Int64[Tensor, "p"]]: ...


@of(batch)
def own_references(batch: BATCH) -> Int64[Tensor, "n"]: ...


@of(pairing)
def pair_up(pairing, batch: BATCH, nearness) -> fields(
    positives=pairs("p"),
    negatives=pairs("q"),
    anchor=Int64[Tensor, "e"],
    positive=Int64[Tensor, "e"],
    curve=Int64[Tensor, "e"],
): ...


# --- the search --------------------------------------------------------------------------------


@of(selection)
def largest(
    scores: Float[Tensor, "p q"], allowed: Bool[Tensor, "p q"], k
) -> tuple[Int64[Tensor, "p k"], Float[Tensor, "p k"]]: ...


@of(selection)
def smallest_per_group(
    value: Float[Tensor, "e"], group: Int64[Tensor, "e"], groups
) -> tuple[Int64[Tensor, "g"], Bool[Tensor, "g"]]: ...


@of(pairing)
def nearest_others(
    gram: GRAM, labels: Integer[Tensor, "a"], others: Integer[Tensor, "b"], similarity
) -> Float[Tensor, "b"]: ...


@of(distances)
def half_sq_distances(points: Points, others) -> Float[Tensor, "m _"]: ...


@of(positives)
def farthest_positives(gram: GRAM, labels: Labels) -> Int64[Tensor, "n"]: ...


@of(positives)
def farthest_allowed(gram: GRAM, allowed: Bool[Tensor, "a b"]) -> Int64[Tensor, "a"]: ...


@of(search)
def nearest_arcs(gram: GRAM, rows: side("p"), cols: side("q"), k) -> Found: ...


@of(search)
def nearest_segments(gram: GRAM, rows: side("p"), cols: side("q"), k) -> Found: ...


@of(search)
def nearest_samples(
    gram: GRAM,
    rows: side("p"),
    cols: side("q"),
    row_fractions,
    col_fractions,
    *,
    normalize,
    similarity,
    unit,
    k,
) -> Found: ...


@of(scores)
def grid_corners(inner: Inner, rows: pairs("p"), cols: pairs("q")) -> Float[Tensor, "2 2 p q"]: ...


@of(scores)
def listed_corners(inner: Inner, rows: pairs("p"), cols: pairs("p")) -> Float[Tensor, "2 2 p"]: ...


@of(scores)
def arc_terms(own: Float[Tensor, "3 p"]) -> Float[Tensor, "6 p"]: ...


@of(scores)
def segment_terms(own: Float[Tensor, "3 p"]) -> Float[Tensor, "4 p"]: ...


@of(scores)
def sample_terms(own, fractions, normalize, unit) -> Float[Tensor, "3 k p"]: ...


# --- the measure -------------------------------------------------------------------------------


@of(packing)
def stacked(p0: Ends, p1: Ends, q0: Ends, q1: Ends) -> Float[Tensor, "*b 4 d"]: ...


@of(arcs)
def products_of(vectors: Float[Tensor, "*b 4 d"]) -> Float[Tensor, "*b 4 4"]: ...


@of(arcs)
def nearest_on_arcs(
    vectors: Float[Tensor, "*b 4 d"], least
) -> tuple[Float[Tensor, "2 *b"], Float[Tensor, "2 *b"], Float[Tensor, "*b 4"]]: ...


@of(arcs)
def arc_weights(
    endpoints: Float[Tensor, "*b 4 d"], least
) -> tuple[Float[Tensor, "2 *b"], Float[Tensor, "2 *b"], Float[Tensor, "*b 4"]]: ...


@of(segments)
def nearest_on_segments(
    endpoints: Float[Tensor, "*b 4 d"],
) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]: ...


@of(pairwise)
def arc_cosines(p0: Starts, p1: Starts, q0: Others, q1: Others) -> Float[Tensor, "p q"]: ...


# Not the methods of the classes in ``curves``: torch.compile does not trace wrapped ones. What they
# solve is in what ``measure`` returns.


@of(transplant)
def onto_sphere_at_distance(anchor: Batch, z_p: Batch, z_n: Batch) -> Batch: ...


@of(synthesis)
def choose(kind, points: POINTS, pairing, k) -> fields(
    negatives=NEGATIVES, anchor=Int64[Tensor, "e"], positive=Int64[Tensor, "e"], which=Rows
): ...


@of(measuring)
def measure(kind, points: POINTS, negatives: NEGATIVES) -> fields(
    weights=Float[Tensor, "u 4"],
    point_p=Float[Tensor, "u d"],
    point_q=Float[Tensor, "u d"],
    distance=Float[Tensor, "u"],
): ...


# --- the check ---------------------------------------------------------------------------------


def check(value: Any, hint: Any) -> None:
    """Raise unless ``value``, or each of its fields, is what the annotation says."""
    if isinstance(hint, dict):
        for name, inner in hint.items():
            check(getattr(value, name), inner)
    else:
        die_if_unbearable(value, hint)


def checked(function: Callable[..., Any], stub: Stub) -> Callable[..., Any]:
    """The function, followed by a check of its arguments and its result."""
    hints = stub.__annotations__
    signature = inspect.signature(function)
    if list(signature.parameters) != list(inspect.signature(stub).parameters):
        raise TypeError(f"the stub of {function.__qualname__} has other parameters")

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if not torch.compiler.is_compiling():
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            check_call({**bound.arguments, "return": result}, hints)
        return result

    return call


def check_call(values: dict[str, Any], hints: dict[str, Any]) -> None:
    """One letter is one size in all of these."""
    with jaxtyped("context"):
        for name, hint in hints.items():
            if not (name == "return" and values[name] is None):  # a loss without elements
                check(values[name], hint)


def install() -> None:
    """Put the checks around the functions, wherever loopml has a reference to one."""
    for owner, stub in STUBS:
        function = vars(owner)[stub.__name__]
        wrapped = checked(function, stub)
        if inspect.isclass(owner):
            setattr(owner, stub.__name__, wrapped)
            continue
        for name, module in list(sys.modules.items()):
            if name.split(".")[0] == "loopml" and vars(module).get(stub.__name__) is function:
                setattr(module, stub.__name__, wrapped)
