"""The emoji data set from npm packages, made small here: which drawing is of which emoji."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.emoji import dataset as emoji
from examples.emoji import train as train_emoji
from tests.examples.npm_packages import pack

SQUARE = '<path d="M0 0h{}v8H0z"/>'
EMOJI = {  # code points: label, group, subgroup
    "1F600": ("grinning face", 0, 0),
    "1F43B": ("bear", 3, 1),
    "2764-FE0F": ("red heart", 0, 2),
    "1F1E6-1F1E8": ("flag: Ascension Island", 9, 3),
    "1F40A": ("crocodile", 3, 3),
}
ICONS = ("grinning-face", "bear", "red-heart", "flag-ascension-island")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Packages of all vendors: three emoji by all ten, a flag, and a crocodile by three."""
    packages = tmp_path / "packages"
    packages.mkdir()
    data = [
        {"label": label, "hexcode": codes, "group": group, "subgroup": subgroup, "order": order}
        for order, (codes, (label, group, subgroup)) in enumerate(EMOJI.items())
    ]
    names = {"1F43B": "BEAR FACE"}
    groups = {"subgroups": {"0": "face-smiling", "1": "animal", "2": "heart", "3": "rest"}}
    pack(
        packages,
        emoji.NAMES,
        {"en/data.json": data, "meta/unicode-names.json": names, "meta/groups.json": groups},
    )
    for i, (vendor, spec) in enumerate(emoji.VENDORS.items()):
        bodies = {name: SQUARE.format(2 + i // 2 + j) for j, name in enumerate(ICONS)}
        icons = {name: {"body": body} for name, body in bodies.items()}
        members: dict[str, Any] = {"icons.json": {"icons": icons, "width": 16, "height": 16}}
        if vendor in ("noto", "twemoji", "openmoji"):
            icons["crocodile"] = {"body": SQUARE.format(9)}
            members["chars.json"] = {
                "1f600": "grinning-face",
                "1f43b": "bear",
                "2764": "red-heart",
                "1f1e6-1f1e8": "flag-ascension-island",
                "1f40a": "crocodile",
            }
        elif vendor == "emojione":  # of another day, when it was called otherwise
            icons["bear-face"] = icons.pop("bear")
        elif vendor == "fxemoji":
            icons["redheart"] = icons.pop("red-heart")
            icons["bear"] = {**icons["bear"], "width": 8, "height": 24}
        elif vendor == "noto-v1":
            icons["smile"] = icons.pop("grinning-face")
            members["icons.json"]["aliases"] = {
                "grinning-face": {"parent": "smile"},
                "red-heart": {"parent": "bear", "hFlip": True},
            }
            del icons["red-heart"]
        pack(packages, spec, members)
    return tmp_path


def test_drawings_are_found_under_every_name(cache: Path) -> None:
    names, subgroups, drawings = emoji.collect(cache / "packages")
    assert names == ["grinning face", "bear", "red heart"]  # no flag, and three vendors are few
    assert subgroups == ["face-smiling", "animal", "heart", "rest"]
    of_name = [[d.vendor for d in drawings if d.name == name] for name in range(3)]
    mirrored = list(emoji.VENDORS).index("noto-v1")
    assert of_name[:2] == [list(range(10))] * 2
    assert of_name[2] == [vendor for vendor in range(10) if vendor != mirrored]
    assert [d.subgroup for d in drawings] == [0] * 10 + [1] * 10 + [2] * 9


def test_a_drawing_stands_in_the_middle_of_a_square(cache: Path) -> None:
    _, _, drawings = emoji.collect(cache / "packages")
    tall = next(d for d in drawings if d.name == 1 and d.vendor == len(emoji.VENDORS) - 1)
    ink = (emoji.render(tall.svg) < 128).all(axis=2)
    columns = ink.any(axis=0).nonzero()[0]
    # The icon is 8 wide and 24 high, so it begins after 8 of the square's 24 units.
    assert columns[0] == round(8 / 24 * emoji.PIXELS)
    assert ink.any(axis=1).nonzero()[0][0] == 0


def test_the_built_splits_share_no_subgroup_and_no_picture_is_there_twice(cache: Path) -> None:
    emoji.build(cache)
    train, test, everything = (emoji.load(split, cache) for split in emoji.SPLITS)
    assert train.names == ("grinning face", "red heart")
    assert test.names == ("bear",)
    assert set(train.subgroups.tolist()) == {0, 2}
    assert set(test.subgroups.tolist()) == {1}
    assert len(everything.labels) == len(train.labels) + len(test.labels)
    assert train.features.shape == (len(train.labels), 1280)
    assert train.features.dtype == torch.float32
    assert train.labels.unique().tolist() == [0, 1]
    # Two vendors at a time drew the same square; the tall bear is a picture of its own.
    assert (train.labels == 0).sum() == 5
    assert len(test.labels) == 6
    with np.load(cache / "images.npz") as file:
        assert file["images"].shape == (len(everything.labels), emoji.PIXELS, emoji.PIXELS, 3)


def test_what_is_there_is_not_built_again(cache: Path) -> None:
    path = emoji.build(cache)
    written = path.stat().st_mtime_ns
    assert emoji.build(cache).stat().st_mtime_ns == written


def test_errors_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="split must be one of train, test, all; got 'val'"):
        emoji.load("val", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"python -m examples\.emoji\.dataset"):
        emoji.load("train", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"install Node\.js with npm"):
        emoji.build(tmp_path)


def test_a_layer_learns_from_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Emoji that differ along few of many noisy columns: a layer finds these on unseen ones."""
    rng = np.random.default_rng(0)
    name = np.arange(80).repeat(5)
    signal = rng.normal(size=(80, 10))[name]
    noise = 2 * rng.normal(size=(400, 30))
    np.savez(
        tmp_path / "features.npz",
        features=np.hstack([signal, noise]).astype(np.float32),
        name=name,
        subgroup=name % 2,
        vendor=np.arange(400) % 5,
        names=np.array([f"emoji {i}" for i in range(80)]),
        subgroup_names=np.array(["a", "b"]),
        vendor_names=np.array(list("vwxyz")),
    )
    arguments = ["--cache", str(tmp_path), "--seeds", "0", "1", "--epochs", "40"]
    train_emoji.main([*arguments, "--losses", "triplet"])
    first, *lines = capsys.readouterr().out.splitlines()
    number = r"recall_at_1 (\d+\.\d)"
    as_they_are = re.fullmatch(rf"features as they are +{number} +map_at_r \d+\.\d", first)
    assert as_they_are
    assert [line.split()[1] for line in lines] == list(train_emoji.SYNTHESIZERS)
    for line in lines:
        learnt = re.search(rf"{number} ± \d+\.\d", line)
        assert learnt
        assert float(learnt[1]) > float(as_they_are[1]) + 10


def test_features_are_standardized_as_the_first_ones() -> None:
    x = torch.tensor([[0.0, 10.0], [2.0, 30.0]])
    same, moved = emoji.standardize(x, x + torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(same, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]) / 2**0.5)
    torch.testing.assert_close(moved[:, 0] - same[:, 0], torch.full((2,), 2**0.5))
