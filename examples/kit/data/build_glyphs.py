"""Build `glyphs.npz`, the small set of real glyph images, and its font list `FONTS.md`.

Fonts come from Debian 12 (bookworm) packages of fixed versions, unpacked in a temporary folder;
nothing is installed. Needs a Debian 12 machine after `apt-get update`, fontTools and Pillow,
180 MB of downloads and about half a minute:

    python build_glyphs.py

With the same versions of Pillow and NumPy, running it twice gives the same bytes.

Only fonts under OFL-1.1 or Apache-2.0 are used. `PACKAGES` lists packages whose Debian copyright
file grants one of them for the font files. A file is then used only if its own name table says so
too: some files are silent about it, and some packages hold files that claim another licence.
"""
# ruff: noqa: RUF001 -- letters that look like Latin ones are what this file is about

from __future__ import annotations

import argparse
import random
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fontTools.pens.recordingPen import RecordingPen
from fontTools.ttLib import TTFont
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Grey = NDArray[np.uint8]

SIDE = 28  # pixels of an image
INK = 22  # pixels of the longer side of the ink inside it
EM = 96  # pixels per em before scaling down
MIN_PER_CHARACTER = 4
MIN_FAMILIES = 2  # so that a query has a match outside its own font family

# Scripts in the order of the file; a script's characters as in a regular expression's brackets.
# Letters only: marks that combine have no shape of their own.
SCRIPTS = {
    "Latin": "A-Za-z",
    "Digit": "0-9",
    "Greek": "\u0391-\u03a9\u03b1-\u03c9",
    "Cyrillic": "\u0410-\u044f",
    "Armenian": "\u0531-\u0556\u0561-\u0586",
    "Georgian": "\u10d0-\u10f0",
    "Thai": "\u0e01-\u0e2e",
    "Devanagari": "\u0905-\u0939",
    "Gujarati": "\u0a85-\u0ab9",
    "Tamil": "\u0b85-\u0bb9",
    "Hiragana": "あいうえおか-ぢつ-もやゆよら-ろわ-ん",
    "Myanmar": "\u1000-\u102a",
    "Malayalam": "\u0d05-\u0d39",
    "Hebrew": "\u05d0-\u05ea",
    "Arabic": "\u0621-\u063a\u0641-\u064a",
    "Bengali": "\u0985-\u09b9",
    "Gurmukhi": "\u0a05-\u0a39",
    "Kannada": "\u0c85-\u0cb9",
    "Sinhala": "\u0d85-\u0dc6",
    "Lao": "\u0e81-\u0eae",
    "Khmer": "\u1780-\u17a2\u17a5-\u17b3",
    "Ethiopic": "\u1200-\u1247\u1260-\u1287\u1290-\u12a7",
    "Tibetan": "\u0f40-\u0f68",
    "Katakana": "アイウエオカ-ヂツ-モヤユヨラ-ロワ-ン",
    # the open syllables of the 14 plain consonants and the 10 plain vowels
    "Hangul": "".join(
        chr(0xAC00 + (consonant * 21 + vowel) * 28)
        for consonant in (0, 2, 3, 5, 6, 7, 9, 11, 12, 14, 15, 16, 17, 18)
        for vowel in (0, 2, 4, 6, 8, 12, 13, 17, 18, 20)
    ),
    # the 80 characters of the first school year in Japan
    "Han": (
        "一右雨円王音下火花貝学気九休玉金空月犬見五口校左三山子四糸字耳七車手十出女小上森人水正生青夕石赤"
        "千川先早草足村大男竹中虫町天田土二日入年白八百文木本名目立力林六"
    ),
}

# Characters that have the same shape once scaled to the same size: one letter in two scripts, or
# large and small. Only the first of a group is kept, so that a shape has one label. Found by
# searching for nearest neighbours in raw pixels: pairs across scripts where at least 15 % of the
# images of the two find an image of the other, and those that the history of the scripts tells.
# Groups are apart by white space.
LOOK_ALIKES = """
    AΑА aа BΒВв CcСс EΕЕ eе HΗНн IlΙا KΚκКк MΜМм NΝ OoΟοОоՕօဝഠ PΡР pρр SsՏട TΤТт Vvν Ww XxΧХх YΥ yУу
    ZzΖ 3Зз 9و ΓГг ΠПп Ψψ ΦФՓ Дд Жж Ии Йй Лл Цц Чч Шш Щщ Ъъ Ыы Ьь Ээ Юю Яя വഖ ठਠ टਟ यਧ
    จຈ ดດ ตຕ ถຄ ปປ ยຍ へヘ べベ ぺペ りリ カ力 タ夕 チ千 ニ二 ハ八 ロ口
"""

LGC = ("Latin", "Digit", "Greek", "Cyrillic")
KANA_HAN = ("Hiragana", "Katakana", "Han")

# Noto has one family per script, most of which borrow the Latin of Noto Sans or Noto Serif: each is
# used for its own script only.
NOTO = {
    "NotoSans-*": LGC,
    "NotoSerif-*": LGC,
    "NotoSansMono-*": LGC,
    "NotoKufiArabic-*": ("Arabic",),
    "NotoNaskhArabic-*": ("Arabic",),
    "NotoNastaliqUrdu-*": ("Arabic",),
    "NotoRashiHebrew-*": ("Hebrew",),
    "NotoLoopedLao-*": ("Lao",),
    "NotoLoopedThai-*": ("Thai",),
} | {
    f"Noto{style}{script}-*": (script,)
    for script in SCRIPTS
    for style in ("Sans", "Serif")
    if script not in LGC
}


@dataclass(frozen=True)
class Package:
    """A Debian package, the licence of its fonts, and which of them to use for which scripts."""

    name: str
    version: str
    fonts: dict[str, tuple[str, ...]]
    licence: str = "OFL-1.1"


PACKAGES = (
    Package("fonts-cabin", "1.5-3", {"Cabin-*": LGC}),
    Package("fonts-comfortaa", "3.001-3", {"Comfortaa-*": LGC}),
    Package("fonts-comic-neue", "2.51-4", {"ComicNeue-*": LGC}),
    Package("fonts-courier-prime", "0+git20190115-3", {"Courier Prime*": LGC}),
    Package("fonts-crosextra-carlito", "20220224-1", {"Carlito-*": LGC}),
    Package("fonts-ddc-uchen", "1.0-1.2", {"DDC_Uchen.*": ("Tibetan",)}),
    Package("fonts-dotgothic16", "1.000-20210120-2", {"DotGothic16-*": KANA_HAN}),
    Package("fonts-ebgaramond", "0.016+git20210310.42d4f9f2-1", {"EBGaramond12-*": LGC}),
    Package("fonts-firacode", "6.2-2", {"FiraCode-*": LGC}),
    Package("fonts-gemunu-libre", "1.100+ds-2", {"GemunuLibre-*": ("Latin", "Digit", "Sinhala")}),
    Package("fonts-gfs-didot", "1.1-7", {"GFSDidot*": ("Greek",)}),
    Package("fonts-gfs-neohellenic", "1.1-7", {"GFSNeohellenic*": ("Greek",)}),
    Package("fonts-hosny-amiri", "0.113-1", {"Amiri-*": ("Arabic",)}),
    Package("fonts-lato", "2.0-2.1", {"Lato-*": LGC}),
    Package("fonts-ldco", "1.0.0.part3-1.1", {"*.ttf": ("Hebrew",)}),
    Package("fonts-lemonada", "4.004+git20190612-1", {"Lemonada-*": ("Latin", "Digit", "Arabic")}),
    Package("fonts-lobster", "2.0-2.1", {"lobster.*": LGC}),
    Package("fonts-meera-inimai", "2.0-2", {"*": ("Tamil",)}),
    Package("fonts-morisawa-bizud-gothic", "1.05-2", {"BIZUDGothic-*": KANA_HAN}),
    Package("fonts-morisawa-bizud-mincho", "1.05-2", {"BIZUDMincho-*": KANA_HAN}),
    Package("fonts-motoya-l-cedar", "1.01-5", {"*": KANA_HAN}, "Apache-2.0"),
    Package("fonts-motoya-l-maruberi", "1.01-5", {"*": KANA_HAN}, "Apache-2.0"),
    Package("fonts-nanum", "20200506-1", {"NanumGothicCoding*": ("Hangul",)}),
    Package("fonts-navilu", "1.2-4", {"Navilu.*": ("Kannada",)}),
    Package("fonts-noto-core", "20201225-1", NOTO),
    Package("fonts-noto-extra", "20201225-1", NOTO),
    Package("fonts-open-sans", "1.11-2", {"OpenSans-*": LGC}, "Apache-2.0"),
    Package("fonts-play", "1.002+20150307.1-0.1", {"Play-*.ttf": LGC}),
    Package("fonts-quicksand", "0.2016-2.1", {"Quicksand-*": LGC}),
    Package("fonts-reggae", "1.000-20210120-2", {"ReggaeOne-*": KANA_HAN}),
    Package("fonts-roboto-unhinted", "2:0~20170802-3", {"Roboto*": LGC}, "Apache-2.0"),
    Package("fonts-rocknroll", "1.000-20210120-2", {"RocknRollOne-*": KANA_HAN}),
    Package("fonts-senamirmir-washra", "4.1-10", {"*": ("Ethiopic",)}),
    Package("fonts-sil-abyssinica", "2.100-3", {"AbyssinicaSIL-*": ("Ethiopic",)}),
    Package("fonts-sil-alkalami", "1.200-1", {"Alkalami-*": ("Arabic",)}),
    Package("fonts-sil-annapurna", "1.204-2", {"AnnapurnaSIL-*": ("Devanagari",)}),
    Package("fonts-sil-ezra", "2.51-9", {"SILEOT.*": ("Hebrew",)}),
    Package("fonts-sil-harmattan", "2.000-1", {"Harmattan-*": ("Arabic",)}),
    Package("fonts-sil-lateef", "2.000-1", {"Lateef-*": ("Arabic",)}),
    Package("fonts-sil-mondulkiri", "7.100-3", {"*": ("Khmer",)}),
    Package("fonts-sil-padauk", "5.000-3", {"Padauk*": ("Myanmar",)}),
    Package("fonts-sil-scheherazade", "2.100-2.1", {"Scheherazade-*": ("Arabic",)}),
    Package("fonts-smc-chilanka", "1.540-2", {"Chilanka-*": ("Malayalam",)}),
    Package("fonts-stick", "1.000-20210120-2", {"Stick-*": KANA_HAN}),
    Package("fonts-vollkorn", "4.105-2", {"Vollkorn-*": LGC}),
    Package("fonts-woowa-bm", "20211009-2", {"BM*": ("Hangul",)}),
    Package("fonts-yrsa-rasa", "2.005-1", {"Rasa-*": ("Latin", "Digit", "Gujarati")}),
    Package("fonts-yusei-magic", "1.000-20210130-2", {"YuseiMagic-*": KANA_HAN}),
)

# What a font's own name table must say (records 0 copyright, 13 licence, 14 licence URL).
LICENCE_WORDS = {"OFL-1.1": r"Open Font License|scripts\.sil\.org/OFL", "Apache-2.0": r"Apache"}

# Names in the name table that tell a style of one design, not another design.
STYLE_WORDS = re.compile(r"[ _](Thin|Light|Book|Medium|SemiBold|Bold|Black|Condensed|TTF)$")
FAMILIES = {
    "BM EULJIRO": "BM Euljiro",
    "BM Euljiro 10 years later": "BM Euljiro",
    "BM Euljiro oraeorae": "BM Euljiro",
    "BM HANNA Air": "BM HANNA",
    "BM HANNA Pro": "BM HANNA",
    "Courier Prime Code": "Courier Prime",
    "Courier Prime Sans": "Courier Prime",
}


@dataclass(frozen=True, eq=False)
class Font:
    """A font file and the characters it is used for."""

    path: Path
    package: Package
    family: str
    copyright: str
    characters: frozenset[str]


class Glyph(NamedTuple):
    """One image of the data set."""

    image: Grey
    script: str
    character: str
    font: Font


def expand(ranges: str) -> list[str]:
    """Characters of `ranges`, written as between the brackets of a regular expression."""
    return [
        chr(code)
        for first, last in re.findall(r"(.)(?:-(.))?", ranges)
        for code in range(ord(first), ord(last or first) + 1)
    ]


def unpack(packages: Iterable[Package], folder: Path) -> None:
    """Download `packages` and unpack each into its own folder under `folder`."""
    wanted = [f"{package.name}={package.version}" for package in packages]
    subprocess.run(["apt-get", "download", "--quiet", *wanted], cwd=folder, check=True)
    for archive in sorted(folder.glob("*.deb")):
        target = folder / archive.name.split("_")[0]
        subprocess.run(["dpkg-deb", "--extract", archive, target], check=True)


def family_name(name: str) -> str:
    """Name of the design, without words for its weight or width."""
    while (shorter := STYLE_WORDS.sub("", name)) != name:
        name = shorter
    return FAMILIES.get(name, name)


def drawable(font: TTFont, characters: Iterable[str]) -> frozenset[str]:
    """Those of `characters` for which the font has a shape other than its "missing" box."""
    cmap, glyphs = font.getBestCmap(), font.getGlyphSet()

    def outline(glyph: str) -> list[object]:
        pen = RecordingPen()
        glyphs[glyph].draw(pen)
        return list(pen.value)

    missing = outline(font.getGlyphOrder()[0])
    return frozenset(
        character
        for character in characters
        if ord(character) in cmap and outline(cmap[ord(character)]) not in ([], missing)
    )


def read_font(path: Path, package: Package, scripts: tuple[str, ...]) -> Font | None:
    """The font at `path`, or None if its name table does not name the package's licence."""
    with TTFont(path, lazy=True) as font:
        names = font["name"]
        notice, family, licence, url, typographic_family = (
            " ".join((names.getDebugName(record) or "").split()) for record in (0, 1, 13, 14, 16)
        )
        if not re.search(LICENCE_WORDS[package.licence], f"{notice} {licence} {url}"):
            return None
        wanted = [character for script in scripts for character in expand(SCRIPTS[script])]
        characters = drawable(font, wanted)
    return Font(path, package, family_name(typographic_family or family), notice, characters)


def read_fonts(folder: Path) -> list[Font]:
    """The fonts that `PACKAGES` asks for, from packages unpacked under `folder`."""
    fonts = [
        read_font(path, package, scripts)
        for package in PACKAGES
        for pattern, scripts in package.fonts.items()
        for path in sorted((folder / package.name).rglob(pattern))
        if path.suffix in {".ttf", ".otf"}
    ]
    return [font for font in fonts if font is not None]


@lru_cache(maxsize=256)
def open_face(path: Path) -> ImageFont.FreeTypeFont:
    """The font at `path`, ready to draw with."""
    # Basic layout: the same result whether or not Pillow finds a shaping library.
    return ImageFont.truetype(path, EM, layout_engine=ImageFont.Layout.BASIC)


def draw(path: Path, character: str) -> Grey:
    """The character as the font draws it, white on black, with a margin."""
    face = open_face(path)
    left, top, right, bottom = (int(edge) for edge in face.getbbox(character, anchor="ls"))
    canvas = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), character, 255, face, anchor="ls")
    return np.asarray(canvas)


def fit(drawing: Grey) -> Grey:
    """Crop to the ink, scale its longer side to `INK` pixels, centre in a square of `SIDE`."""
    rows, columns = (np.flatnonzero(drawing.any(axis=axis)) for axis in (1, 0))
    ink = Image.fromarray(drawing[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = INK / max(ink.size)
    width, height = (max(1, round(scale * side)) for side in ink.size)
    square = Image.new("L", (SIDE, SIDE))
    small = ink.resize((width, height), Image.Resampling.BOX)
    square.paste(small, ((SIDE - width) // 2, (SIDE - height) // 2))
    return np.asarray(square)


def in_turn(character: str, fonts: Iterable[Font]) -> Iterator[Font]:
    """Fonts in random order, one of each family before the second of any."""
    rng = random.Random(ord(character))
    families: dict[str, list[Font]] = defaultdict(list)
    for font in fonts:
        families[font.family].append(font)
    members = [rng.sample(family, len(family)) for family in families.values()]
    rng.shuffle(members)
    return (font for font in chain.from_iterable(zip_longest(*members)) if font is not None)


def glyphs_of(script: str, character: str, fonts: Iterable[Font], count: int) -> list[Glyph]:
    """At most `count` different images of `character`."""
    able = [font for font in fonts if character in font.characters]
    glyphs: dict[bytes, Glyph] = {}
    for font in in_turn(character, able):
        if len(glyphs) == count:
            break
        image = fit(draw(font.path, character))
        glyphs.setdefault(image.tobytes(), Glyph(image, script, character, font))
    return sorted(glyphs.values(), key=lambda glyph: (glyph.font.family, glyph.font.path.name))


def render(fonts: list[Font], per_character: int) -> list[Glyph]:
    """All images of the data set, in the order of the file."""
    alike = {character for group in LOOK_ALIKES.split() for character in group[1:]}
    characters = [
        glyphs_of(script, character, fonts, per_character)
        for script, ranges in SCRIPTS.items()
        for character in expand(ranges)
        if character not in alike
    ]
    # Fonts draw a few characters exactly as another one: such an image has no right label.
    times = Counter(glyph.image.tobytes() for glyphs in characters for glyph in glyphs)
    result = []
    for glyphs in characters:
        glyphs = [glyph for glyph in glyphs if times[glyph.image.tobytes()] == 1]
        families = {glyph.font.family for glyph in glyphs}
        if len(glyphs) >= MIN_PER_CHARACTER and len(families) >= MIN_FAMILIES:
            result += glyphs
    return result


def save_images(glyphs: list[Glyph], path: Path) -> None:
    """Write images and columns; a column holds indices into the table of its plural name."""
    arrays: dict[str, Any] = {"images": np.stack([glyph.image for glyph in glyphs])}
    columns = {
        "script": [glyph.script for glyph in glyphs],
        "character": [glyph.character for glyph in glyphs],
        "family": [glyph.font.family for glyph in glyphs],
    }
    for name, values in columns.items():
        table = list(dict.fromkeys(values))
        index = {value: i for i, value in enumerate(table)}
        arrays[name] = np.array([index[value] for value in values], dtype=np.uint16)
        arrays["families" if name == "family" else f"{name}s"] = np.array(table)
    np.savez_compressed(path, **arrays)


def save_font_list(glyphs: list[Glyph], path: Path) -> None:
    """Write the table of the fonts that the images come from."""
    used: dict[tuple[str, str], dict[str, Font]] = defaultdict(dict)
    for glyph in glyphs:
        font = glyph.font
        used[font.family, font.package.name][font.path.name] = font
    lines = [
        "# Fonts of `glyphs.npz`",
        "",
        "Written by `build_glyphs.py`. All fonts are Debian 12 packages; licence texts are in",
        "[LICENSES](LICENSES). The copyright column is the notice in the font file.",
        "",
        "| family | package | version | licence | files | copyright |",
        "|---|---|---|---|---|---|",
    ]
    for (family, _), files in sorted(used.items()):
        names = sorted(files)
        package, notice = files[names[0]].package, files[names[0]].copyright.replace("|", "/")
        if len(names) > 4:
            names = [f"{names[0]} to {names[-1]} ({len(names)} files)"]
        lines.append(
            f"| {family} | {package.name} | {package.version} | {package.licence} "
            f"| {', '.join(names)} | {notice} |"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).parent
    parser.add_argument("--out", type=Path, default=here, help="folder to write to (this one)")
    parser.add_argument(
        "--per-character", type=int, default=10, help="most images of a character (default 10)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        unpack(PACKAGES, Path(folder))
        glyphs = render(read_fonts(Path(folder)), args.per_character)
    save_images(glyphs, args.out / "glyphs.npz")
    save_font_list(glyphs, args.out / "FONTS.md")
    characters = dict.fromkeys((glyph.script, glyph.character) for glyph in glyphs)
    counts = Counter(script for script, _ in characters)
    print(f"{len(glyphs)} images of {counts.total()} characters: {dict(counts)}")


if __name__ == "__main__":
    main()
