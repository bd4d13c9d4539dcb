"""The scripts of the gallery: what their pages and their downloads rely on."""

import ast
from pathlib import Path

import pytest

GALLERY = Path(__file__).parents[2] / "docs" / "gallery"
SCRIPTS = sorted(GALLERY.glob("plot_*.py"))


@pytest.fixture(params=SCRIPTS, ids=lambda script: script.stem)
def source(request: pytest.FixtureRequest) -> str:
    text: str = request.param.read_text()
    return text


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) > 10


def test_picture_comes_before_code(source: str) -> None:
    """Sphinx-gallery puts it there on a page of one code block; a mark would begin a second."""
    assert "# %%" not in source


def test_text_of_the_thumbnail_is_one_line(source: str) -> None:
    """The first paragraph below the title stands under the thumbnail."""
    _, line, *_ = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")
    assert "\n" not in line
    assert line.endswith(".")


def test_download_says_that_it_needs_a_clone(source: str) -> None:
    needs_files = "from kit" in source or "benchmarks/" in source
    assert needs_files == ("Run from the root of the clone:" in source)


def test_download_shows_its_picture(source: str) -> None:
    assert source.endswith("\nplt.show()\n")
