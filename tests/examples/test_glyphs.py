"""The glyph images, their loader and the script that built them."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from kit import glyphs

LICENCES = {"OFL-1.1", "Apache-2.0"}


@pytest.fixture(scope="module", params=["train", "test", "all"])
def split(request):
    return glyphs.load(request.param)


@pytest.fixture
def build(monkeypatch):
    pytest.importorskip("PIL")
    pytest.importorskip("fontTools")
    monkeypatch.syspath_prepend(str(glyphs.FILE.parent))
    return importlib.import_module("build_glyphs")


def test_tensors(split):
    n = len(split)
    assert split.images.shape == (n, 1, 28, 28)
    assert split.images.dtype == torch.float32
    assert split.images.min() == 0
    assert split.images.max() == 1
    for column in (split.labels, split.scripts, split.families):
        assert column.shape == (n,)
        assert column.dtype == torch.int64


def test_labels_have_no_gaps(split):
    assert torch.equal(split.labels.unique(), torch.arange(len(split.characters)))


def test_item_is_image_and_label(split):
    image, label = split[3]
    assert image.shape == (1, 28, 28)
    assert label == split.labels[3]


def test_character_has_one_script(split):
    pairs = torch.stack([split.labels, split.scripts]).unique(dim=1)
    assert pairs.shape[1] == len(split.characters)


def test_classes_suit_m_per_class_sampling_and_other_family_galleries(split):
    assert torch.bincount(split.labels).min() >= 4
    pairs = torch.stack([split.labels, split.families]).unique(dim=1)
    assert torch.bincount(pairs[0]).min() >= 2


def test_train_and_test_share_nothing():
    train, test, both = (glyphs.load(name) for name in ("train", "test", "all"))
    assert not set(train.characters) & set(test.characters)
    assert not set(train.scripts.tolist()) & set(test.scripts.tolist())
    assert len(train) + len(test) == len(both)
    assert len(train.characters) + len(test.characters) == len(both.characters)


def test_every_script_of_a_split_is_there(split):
    names = {split.script_names[script] for script in split.scripts.unique()}
    assert names in [set(scripts) for scripts in glyphs.SPLITS.values()]


def test_known_images():
    train, test = glyphs.load("train"), glyphs.load("test")
    assert {"A", "7", "Ω", "あ"} <= set(train.characters)
    assert {"א", "ク", "가", "森"} <= set(test.characters)
    ink = train.images.flatten(1).sum(1)
    light, heavy = (ink[train.labels == train.characters.index(c)].mean() for c in "IM")
    assert light < heavy


def test_unknown_split():
    with pytest.raises(ValueError, match="train, test, all; got 'valid'"):
        glyphs.load("valid")


def test_is_small():
    assert glyphs.FILE.stat().st_size <= 4_000_000


def test_has_many_characters_of_many_scripts():
    data = glyphs.load("all")
    assert len(data.characters) >= 1000
    assert len(data.script_names) >= 20


def test_no_two_images_are_the_same():
    with np.load(glyphs.FILE, allow_pickle=False) as file:
        images = file["images"]
    assert images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == len(images)


def test_ink_is_centred_and_22_pixels_long():
    with np.load(glyphs.FILE, allow_pickle=False) as file:
        images = file["images"]
    assert not images[:, [0, 1, 2, -3, -2, -1]].any()
    assert not images[:, :, [0, 1, 2, -3, -2, -1]].any()
    assert images.any(axis=(1, 2)).all()


def test_look_alikes_have_one_class(build):
    characters = set(glyphs.load("all").characters)
    for group in build.LOOK_ALIKES.split():
        assert len(characters & set(group)) <= 1, group


def test_every_font_is_listed_with_a_free_licence():
    folder = glyphs.FILE.parent
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (folder / "FONTS.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ][2:]
    assert {row[0] for row in rows} == set(glyphs.load("all").family_names)
    assert {row[3] for row in rows} == LICENCES
    assert all(len(row) == 6 and all(row) for row in rows)
    for licence in LICENCES:
        assert (folder / "LICENSES" / f"{licence}.txt").stat().st_size > 4000


@pytest.mark.parametrize(("height", "width"), [(40, 10), (10, 40), (33, 33), (90, 1)])
def test_fit_scales_and_centres(build, height, width):
    drawing = np.zeros((100, 100), np.uint8)
    drawing[5 : 5 + height, 50 : 50 + width] = 255
    image = build.fit(drawing)
    assert image.shape == (28, 28)
    assert image.dtype == np.uint8
    sides = []
    for axis in (1, 0):
        ink = image.any(axis=axis).nonzero()[0]
        before, after = ink[0], 27 - ink[-1]
        assert 0 <= after - before <= 1
        sides.append(len(ink))
    scale = 22 / max(height, width)
    assert sides == [max(1, round(scale * height)), max(1, round(scale * width))]


def test_fit_ignores_place_and_size(build):
    drawing = np.zeros((60, 60), np.uint8)
    drawing[10:32, 20:31] = np.random.default_rng(0).integers(1, 255, (22, 11))
    image = build.fit(drawing)
    assert np.array_equal(image, build.fit(np.roll(drawing, (7, -9), axis=(0, 1))))
    assert np.array_equal(image, build.fit(np.kron(drawing, np.ones((3, 3), np.uint8))))
    assert np.array_equal(image[3:25, 8:19], drawing[10:32, 20:31])


def test_expand(build):
    assert build.expand("A-Cx-y9あ") == ["A", "B", "C", "x", "y", "9", "あ"]


def test_scripts_share_no_character_and_agree_with_the_loader(build):
    assert tuple(build.SCRIPTS) == glyphs.SPLITS["all"]
    characters = [c for ranges in build.SCRIPTS.values() for c in build.expand(ranges)]
    assert len(set(characters)) == len(characters)
    look_alikes = "".join(build.LOOK_ALIKES.split())
    assert len(set(look_alikes)) == len(look_alikes)
    assert set(look_alikes) <= set(characters)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Noto Sans Thai", "Noto Sans Thai"),
        ("Ethiopic WashRa SemiBold", "Ethiopic WashRa"),
        ("Open Sans Condensed Light", "Open Sans"),
        ("Courier Prime Code", "Courier Prime"),
    ],
)
def test_family_name(build, name, family):
    assert build.family_name(name) == family


def test_in_turn_takes_every_family_first(build):
    fonts = [
        build.Font(Path(f"{family}{i}"), build.PACKAGES[0], family, "", frozenset())
        for family in "abc"
        for i in range(3)
    ]
    order = [font.family for font in build.in_turn("x", fonts)]
    assert set(order[:3]) == set(order[3:6]) == set(order[6:]) == set("abc")
    assert list(build.in_turn("x", fonts)) == list(build.in_turn("x", fonts))


def test_only_fonts_that_name_their_licence_are_read(build, tmp_path):
    package = build.Package("fonts-test", "1", {})
    notices = {
        "free": "Licensed under the SIL Open Font License, Version 1.1",
        "silent": "All rights reserved",
        "other": "GNU General Public License",
    }
    for name, notice in notices.items():
        make_font(tmp_path / f"{name}.ttf", notice)
    read = {
        name: build.read_font(tmp_path / f"{name}.ttf", package, ("Latin",)) for name in notices
    }
    assert read["silent"] is None
    assert read["other"] is None
    assert read["free"].family == "Test"
    assert read["free"].copyright == notices["free"]
    assert read["free"].characters == frozenset("AB")  # C is drawn as the missing glyph


def test_font_draws_no_blank_or_missing_glyphs(build, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "SCRIPTS", {"Latin": "A-CZ "})
    make_font(tmp_path / "font.ttf", "SIL Open Font License")
    font = build.read_font(tmp_path / "font.ttf", build.Package("p", "1", {}), ("Latin",))
    assert font.characters == {"A", "B"}


def test_glyphs_of_has_each_image_once(build, tmp_path):
    make_font(tmp_path / "font.ttf", "SIL Open Font License")
    font = build.read_font(tmp_path / "font.ttf", build.Package("p", "1", {}), ("Latin",))
    (glyph,) = build.glyphs_of("Latin", "A", [font, font], 10)
    assert glyph.image[3:25, 3:25].min() == 255  # a full square
    assert build.glyphs_of("Latin", "C", [font], 10) == []


def test_image_of_two_characters_is_left_out(build, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "SCRIPTS", {"Latin": "AB"})
    monkeypatch.setattr(build, "MIN_PER_CHARACTER", 1)
    monkeypatch.setattr(build, "MIN_FAMILIES", 1)
    make_font(tmp_path / "font.ttf", "SIL Open Font License")
    font = build.read_font(tmp_path / "font.ttf", build.Package("p", "1", {}), ("Latin",))
    assert [glyph.character for glyph in build.render([font], 10)] == ["A", "B"]
    image = np.eye(28, dtype=np.uint8)
    monkeypatch.setattr(build, "fit", lambda drawing: image)
    assert build.render([font], 10) == []


def make_font(path: Path, notice: str) -> None:
    """Write a font with a square A, a tall B, a C drawn as .notdef, and a blank space."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    def box(width: int, height: int):
        pen = TTGlyphPen(None)
        if width:
            pen.moveTo((0, 0))
            pen.lineTo((0, height))
            pen.lineTo((width, height))
            pen.lineTo((width, 0))
            pen.closePath()
        return pen.glyph()

    boxes = {
        ".notdef": box(400, 300),
        "A": box(500, 500),
        "B": box(200, 700),
        "C": box(400, 300),
        "space": box(0, 0),
    }
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(list(boxes))
    font.setupCharacterMap({ord(name): name for name in "ABC"} | {ord(" "): "space"})
    font.setupGlyf(boxes)
    font.setupHorizontalMetrics(dict.fromkeys(boxes, (800, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Test", "styleName": "Regular", "copyright": notice})
    font.setupOS2()
    font.setupPost()
    font.save(path)
