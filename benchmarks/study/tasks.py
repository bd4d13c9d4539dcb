"""The data of the retrieval study: inputs, labels and a fresh net for each data set and purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from examples.emoji import dataset as emoji
from examples.kit import glyphs
from examples.kit.training import make_net
from examples.text import dataset as text

# Writing systems of the training part whose characters choose margin and learning rate, the others
# train: one with case, one of Brahmic descent with ligatures, one of syllables.
VALIDATION_SCRIPTS = ("Cyrillic", "Gujarati", "Hiragana")
# Of the training part of the emoji and their names, every fourth subgroup in the order of Unicode.
VALIDATION_EVERY = 4
# One of each branch of Indo-European that the text has, Finnic, Hungarian and Turkic: to judge a
# training takes time with the square of the rows.
JUDGED_LANGUAGES = ("en", "de", "fr", "es", "pl", "fi", "hu", "tr")
# What a user varies: classes x rows of a batch, few classes seen often, and wrong labels.
SHAPES = ("64x2", "16x8", "8x4", "4x32")
VARIATIONS = (*SHAPES, "few", "wrong")
FEW_CLASSES = 40
WRONG_SHARE = 0.1
VARIED_EPOCHS, VARIED_STEPS = 4, 100  # for all of them, whatever the size of their batch


@dataclass(frozen=True, eq=False)
class Task:
    """What a training learns from, and what it is judged on: classes that it never saw.

    Attributes:
        inputs: (n, ...) of the training classes.
        labels: (n,) without gaps.
        unseen_inputs: (m, ...) of other classes.
        unseen_labels: (m,)
        make_net: a net with random weights, from inputs to embeddings.
        epochs: how often the training is looked at on its way.
        classes_per_batch: how many classes a batch has.
        rows_per_class: how many rows it has of each.
        steps: of an epoch; None is a pass over the training inputs.
    """

    inputs: Tensor
    labels: Tensor
    unseen_inputs: Tensor
    unseen_labels: Tensor
    make_net: Callable[[], nn.Module]
    epochs: int
    classes_per_batch: int = 32
    rows_per_class: int = 4
    steps: int | None = None


def tuning_task(dataset: str) -> Task:
    """Training classes without the validation classes, judged on these."""
    return _task(dataset, tuning=True)


def final_task(dataset: str) -> Task:
    """All training classes, judged on the test classes."""
    return _task(dataset, tuning=False)


@cache
def _task(dataset: str, tuning: bool) -> Task:
    """A data set by name, or a variation of it: "text-64x2"."""
    base, _, variation = dataset.partition("-")
    task = DATASETS[base](tuning)
    return varied(task, variation) if variation else task


def varied(task: Task, variation: str) -> Task:
    """The task with other batches, fewer classes or wrong labels in its training part."""
    task = replace(task, epochs=VARIED_EPOCHS, steps=VARIED_STEPS)
    generator = torch.Generator().manual_seed(0)
    classes = int(task.labels.max()) + 1
    if variation == "few":
        chosen = torch.randperm(classes, generator=generator)[:FEW_CLASSES]
        kept = torch.isin(task.labels, chosen)
        labels = task.labels[kept].unique(return_inverse=True)[1]
        return replace(task, inputs=task.inputs[kept], labels=labels)
    if variation == "wrong":
        count = round(WRONG_SHARE * len(task.labels))
        rows = torch.randperm(len(task.labels), generator=generator)[:count]
        labels = task.labels.clone()
        moved = torch.randint(1, classes, (count,), generator=generator)
        labels[rows] = (labels[rows] + moved) % classes  # never the right one
        return replace(task, labels=labels)
    classes_per_batch, rows_per_class = map(int, variation.split("x"))
    return replace(task, classes_per_batch=classes_per_batch, rows_per_class=rows_per_class)


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


def _emoji(tuning: bool) -> Task:
    train = emoji.load("train")
    if tuning:
        parts = _parts(train.features, train.labels, _validation(train.subgroups))
    else:
        test = emoji.load("test")
        parts = (train.features, train.labels, test.features, test.labels)
    return _layer(*parts, epochs=8)


def _text(tuning: bool) -> Task:
    train, features = text.load("train"), text.load_features("train")
    if tuning:
        held_out = _validation(train.subgroups)
        parts = _parts(features, train.labels, held_out)
        judged = _judged(train)[held_out]
    else:
        test = text.load("test")
        parts = (features, train.labels, text.load_features("test"), test.labels)
        judged = _judged(test)
    inputs, labels, unseen_inputs, unseen_labels = parts
    return _layer(inputs, labels, unseen_inputs[judged], unseen_labels[judged], epochs=3)


def _judged(names: text.Names) -> Tensor:
    """Which rows are in a language that a training is judged in."""
    languages = [names.language_names.index(language) for language in JUDGED_LANGUAGES]
    return torch.isin(names.languages, torch.tensor(languages))


def _validation(subgroups: Tensor) -> Tensor:
    """Which rows of a training part choose the settings; its subgroups have even numbers."""
    return subgroups // 2 % VALIDATION_EVERY == VALIDATION_EVERY - 1


def _layer(
    inputs: Tensor, labels: Tensor, unseen_inputs: Tensor, unseen_labels: Tensor, epochs: int
) -> Task:
    """A linear layer on frozen features, which are standardised by the training part."""
    inputs, unseen_inputs = emoji.standardize(inputs, unseen_inputs)
    return Task(
        *(inputs, labels, unseen_inputs, unseen_labels),
        make_net=lambda: nn.Linear(inputs.shape[1], 128),
        epochs=epochs,
    )


def _parts(inputs: Tensor, labels: Tensor, held_out: Tensor) -> tuple[Tensor, ...]:
    """Inputs and labels without gaps of the rows that train, then of those held out."""
    return (
        *(inputs[~held_out], labels[~held_out].unique(return_inverse=True)[1]),
        *(inputs[held_out], labels[held_out].unique(return_inverse=True)[1]),
    )


DATASETS: dict[str, Callable[[bool], Task]] = {"glyphs": _glyphs, "emoji": _emoji, "text": _text}
