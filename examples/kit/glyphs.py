"""Glyphs by font: a small set of real images for zero-shot retrieval, loaded from this folder.

A class is a character, its images are that character in up to ten fonts of at least two families.
The split is by script, so that a test class is of a writing system never seen in training:

    from kit import glyphs
    train, test = glyphs.load("train"), glyphs.load("test")

On the 7,828 test images of 783 characters, raw pixels (nearest neighbour in L2, leave one out) have
a Recall@1 of 0.61, and of 0.59 without the query's own font family in the gallery.

The file holds one class for each shape: of characters that look the same in two scripts, such as
Latin and Greek A or katakana and kanji 'ka', it has only one. `data/build_glyphs.py` says which and
how the images were made, `data/FONTS.md` from which fonts and under which licences.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

FILE = Path(__file__).parent / "data" / "glyphs.npz"

TRAIN_SCRIPTS = (
    "Latin",
    "Digit",
    "Greek",
    "Cyrillic",
    "Armenian",
    "Georgian",
    "Thai",
    "Devanagari",
    "Gujarati",
    "Tamil",
    "Hiragana",
    "Myanmar",
    "Malayalam",
)
TEST_SCRIPTS = (
    "Hebrew",
    "Arabic",
    "Bengali",
    "Gurmukhi",
    "Kannada",
    "Sinhala",
    "Lao",
    "Khmer",
    "Ethiopic",
    "Tibetan",
    "Katakana",
    "Hangul",
    "Han",
)
SPLITS = {"train": TRAIN_SCRIPTS, "test": TEST_SCRIPTS, "all": TRAIN_SCRIPTS + TEST_SCRIPTS}


@dataclass(frozen=True, eq=False)
class Glyphs(Dataset[tuple[Tensor, Tensor]]):
    """Images of one split with three columns; an item is `(image, label)`.

    Attributes:
        images: (n, 1, 28, 28) float32, 0 paper and 1 ink.
        labels: (n,) int64, the character: an index into `characters`, without gaps.
        scripts: (n,) int64, the writing system: an index into `script_names`.
        families: (n,) int64, the font family: an index into `family_names`. To judge a query
            without its own font, leave the images of its family out of the gallery.
        characters: the character of each label.
        script_names: the name of each script, the same in every split.
        family_names: the name of each font family, the same in every split.
    """

    images: Tensor
    labels: Tensor
    scripts: Tensor
    families: Tensor
    characters: tuple[str, ...]
    script_names: tuple[str, ...]
    family_names: tuple[str, ...]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (1, 28, 28) and label () at `index`."""
        return self.images[index], self.labels[index]


def load(split: str, path: Path = FILE) -> Glyphs:
    """Load one split of the glyph images.

    Args:
        split: "train", "test" or "all". Train and test share no script, so no class.
        path: the file written by `data/build_glyphs.py`.

    Returns:
        The images of the split, ordered by script, character and font family.

    Raises:
        ValueError: if `split` is another name.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    script_names = arrays["scripts"]
    kept = np.isin(script_names, SPLITS[split])[arrays["script"]]
    characters, labels = np.unique(arrays["character"][kept], return_inverse=True)
    return Glyphs(
        images=torch.from_numpy(arrays["images"][kept]).unsqueeze(1) / 255,
        labels=torch.from_numpy(labels),
        scripts=torch.from_numpy(arrays["script"][kept].astype(np.int64)),
        families=torch.from_numpy(arrays["family"][kept].astype(np.int64)),
        characters=tuple(arrays["characters"][characters].tolist()),
        script_names=tuple(script_names.tolist()),
        family_names=tuple(arrays["families"].tolist()),
    )
