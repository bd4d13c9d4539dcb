"""A double of pytorch-metric-learning 3: its documented contract only; not the library.

Here is all that the documentation leaves open and that the double must still answer: a question
each, with two answers. LOOPML_PML3_GUESS in the environment takes the answers "a" or "b".
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

DOUBLE = True

VARIANT = os.environ.get("LOOPML_PML3_GUESS", "a")
if VARIANT not in ("a", "b"):
    raise ValueError(f"LOOPML_PML3_GUESS must be a or b, got {VARIANT!r}")


class Guess(NamedTuple):
    """A question and its two answers."""

    question: str
    a: Any
    b: Any


GUESSES = {
    "bad_batch": Guess(
        "What does a batch raise whose shapes, devices or references do not fit?",
        ValueError,
        RuntimeError,
    ),
    "distance_attributes": Guess(
        "Has a distance the attributes p, power, normalize_embeddings and is_inverted?",
        True,
        False,
    ),
    "reducer_is_copied": Guess("Is the reducer that a loss is given copied?", False, True),
    "extra_keys": Guess(
        "May a term have keys beside losses, indices and divisor? Then they are ignored.",
        True,
        False,
    ),
    "penalty_of_nothing": Guess(
        "Is the penalty added where there are no terms at all?", True, False
    ),
    "penalty_name": Guess(
        "What is the penalty's key in loss_terms?", "embedding_reg_loss", "embedding_regularizer"
    ),
    "penalty_is_weighted": Guess(
        "Is the penalty multiplied by its weight in loss_terms already?", True, False
    ),
    "mine_gets_candidates": Guess(
        "Is mine called with the candidates between labels and references? "
        "Without them BaseMiner drops what is no candidate.",
        False,
        True,
    ),
    "calls_by_name": Guess(
        "Are losses and miners called by name, where the documentation does not say it?",
        False,
        True,
    ),
    "lists_of_losses": Guess("Does MultipleLosses take a list beside a dict?", True, False),
    "new_rows_last": Guess(
        "Are a batch's own copies the last rows of a memory? If not, they are where its ring is "
        "written next.",
        True,
        False,
    ),
    "own_rows_first": Guess(
        "Do a rank's own rows come first among the gathered ones? If not, ranks are in order.",
        False,
        True,
    ),
    "classes_in_runs": Guess(
        "Do the rows of a class follow each other in a batch of MPerClassSampler? If not, classes "
        "take turns.",
        True,
        False,
    ),
}


def guess(name: str) -> Any:
    """The answer of this variant."""
    return getattr(GUESSES[name], VARIANT)
