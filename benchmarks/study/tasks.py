"""The data of the retrieval study: inputs, labels and a fresh net for each data set and purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from examples.emoji import dataset as emoji
from examples.kit import glyphs
from examples.kit.training import make_net

# Writing systems of the training part whose characters choose margin and learning rate, the others
# train: one with case, one of Brahmic descent with ligatures, one of syllables.
VALIDATION_SCRIPTS = ("Cyrillic", "Gujarati", "Hiragana")
# Of the training part of the emoji, every fourth subgroup in the order of Unicode.
VALIDATION_EVERY = 4


@dataclass(frozen=True, eq=False)
class Task:
    """What a training learns from, and what it is judged on: classes that it never saw.

    Attributes:
        inputs: (n, ...) of the training classes.
        labels: (n,) without gaps.
        unseen_inputs: (m, ...) of other classes.
        unseen_labels: (m,)
        make_net: a net with random weights, from inputs to embeddings.
        epochs: passes over the training inputs.
    """

    inputs: Tensor
    labels: Tensor
    unseen_inputs: Tensor
    unseen_labels: Tensor
    make_net: Callable[[], nn.Module]
    epochs: int


def tuning_task(dataset: str) -> Task:
    """Training classes without the validation classes, judged on these."""
    return DATASETS[dataset](True)


def final_task(dataset: str) -> Task:
    """All training classes, judged on the test classes."""
    return DATASETS[dataset](False)


@cache
def _glyphs(tuning: bool) -> Task:
    train = glyphs.load("train")
    if tuning:
        names = torch.tensor([name in VALIDATION_SCRIPTS for name in train.script_names])
        held_out = names[train.scripts]
        parts = _parts(train.images, train.labels, held_out)
    else:
        test = glyphs.load("test")
        parts = (train.images, train.labels, test.images, test.labels)
    return Task(*parts, make_net=make_net, epochs=12)


@cache
def _emoji(tuning: bool) -> Task:
    train = emoji.load("train")
    if tuning:
        # A training subgroup has an even number.
        held_out = train.subgroups // 2 % VALIDATION_EVERY == VALIDATION_EVERY - 1
        parts = _parts(train.features, train.labels, held_out)
    else:
        test = emoji.load("test")
        parts = (train.features, train.labels, test.features, test.labels)
    inputs, labels, unseen_inputs, unseen_labels = parts
    inputs, unseen_inputs = emoji.standardize(inputs, unseen_inputs)
    return Task(
        *(inputs, labels, unseen_inputs, unseen_labels),
        make_net=lambda: nn.Linear(inputs.shape[1], 128),
        epochs=8,
    )


def _parts(inputs: Tensor, labels: Tensor, held_out: Tensor) -> tuple[Tensor, ...]:
    """Inputs and labels without gaps of the rows that train, then of those held out."""
    return (
        *(inputs[~held_out], labels[~held_out].unique(return_inverse=True)[1]),
        *(inputs[held_out], labels[held_out].unique(return_inverse=True)[1]),
    )


DATASETS: dict[str, Callable[[bool], Task]] = {"glyphs": _glyphs, "emoji": _emoji}
