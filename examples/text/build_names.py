"""Build `data/names.json.xz`, the names of emoji in many languages, and its licence files.

    python -m examples.text.build_names

downloads two packages from the npm registry (13 MB, `npm` must be on the PATH) to the folder where
the emoji images are built, and takes half a minute. Running it twice gives the same bytes.

The names are those for speech (`tts`) of Unicode's CLDR annotations. Kept are the emoji that
emojibase puts in a subgroup, without flags and components, as for the images (`examples.emoji`);
punctuation, mathematical and other symbols have no subgroup and are left out: 1,580 of 1,966
characters stay. Kept are the languages that name at least nine tenths of these: 105 of 170, the
others hold a few differences from another language, or are unfinished.
"""

from __future__ import annotations

import argparse
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

from examples.emoji import dataset as emoji
from examples.kit import npm
from examples.kit.saving import replacing

ANNOTATIONS = "cldr-annotations-full@48.2.0"
LEAST_NAMED = 0.9  # of the emoji, by a language
DATA = Path(__file__).parent / "data"
LICENCES = {ANNOTATIONS: "LICENSE-CLDR", emoji.NAMES: "LICENSE-EMOJIBASE"}


def build(packages: Path, folder: Path) -> Path:
    """Write the names and the licences of the packages to `folder`; returns the file of names."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(collect(packages), ensure_ascii=False, separators=(",", ":"))
    path = folder / "names.json.xz"
    with replacing(path) as temporary:
        temporary.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    for spec, name in LICENCES.items():
        with tarfile.open(npm.fetch(packages, spec)) as archive:
            file = archive.extractfile("package/LICENSE")
            assert file is not None
            (folder / name).write_bytes(file.read())
    return path


def collect(packages: Path) -> dict[str, Any]:
    """The content of the file, a column for each language.

    Returns:
        "characters" in the order of Unicode, with the number of the subgroup of each in
        "subgroups" and the name of each number in "subgroup_names"; and "names", which has for each
        language the name of each character, or None.
    """
    entries, subgroup_names = emoji.classes(packages)
    files = npm.read_all(packages, ANNOTATIONS, "annotations/([^/]+)/annotations.json")
    annotations = {
        language: files[language]["annotations"].get("annotations", {})
        for language in sorted(files)
    }
    by_codes = {_codes(character): character for character in annotations["en"]}
    codes = sorted(by_codes.keys() & entries.keys(), key=lambda codes: entries[codes]["order"])
    characters = [by_codes[code] for code in codes]
    names = {
        language: [_name(annotated.get(character, {})) for character in characters]
        for language, annotated in annotations.items()
    }
    least = LEAST_NAMED * len(characters)
    return {
        "source": list(LICENCES),
        "characters": characters,
        "subgroups": [entries[code]["subgroup"] for code in codes],
        "subgroup_names": subgroup_names,
        "names": {
            language: column
            for language, column in names.items()
            if sum(name is not None for name in column) >= least
        },
    }


def _codes(character: str) -> str:
    """The code points of a character as emojibase writes them."""
    return emoji.code_points("-".join(f"{ord(part):04x}" for part in character))


def _name(annotation: dict[str, list[str]]) -> str | None:
    """The first name for speech; four of 232,636 have a second."""
    return next(iter(annotation.get("tts", [])), None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--packages", type=Path, default=emoji.CACHE / "packages", help="folder for downloads")
    add("--out", type=Path, default=DATA, help="folder of the files")
    options = parser.parse_args()
    print(build(options.packages, options.out))
