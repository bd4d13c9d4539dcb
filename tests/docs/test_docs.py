"""The pages of the documentation: code that runs, links that lead somewhere, every public name."""

import doctest
import re
from pathlib import Path
from typing import Any

import pytest

import loopml
from loopml import evaluation, geometry
from loopml.open_metric_learning import SyntheticTripletsMiner
from loopml.sentence_transformers import MetricLearningLoss

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(
    page
    for page in DOCS.rglob("*.md")
    if not {"_build", "auto_gallery"} & set(page.relative_to(DOCS).parts)
)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")

# Each recipe of this page runs apart from the others, in test_recipes.py.
RECIPES = DOCS / "recipes.md"


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS))


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page != RECIPES and PYTHON.search(page.read_text())],
    ids=name_of,
)
def test_code_runs(page: Path) -> None:
    """All blocks of a page, one after the other; a block with prompts has the output it shows."""
    names: dict[str, Any] = {}
    for number, code in enumerate(PYTHON.findall(page.read_text()), 1):
        if code.startswith(">>>"):
            example = doctest.DocTestParser().get_doctest(code, names, page.name, page.name, 0)
            runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
            runner.run(example, clear_globs=False)
            names = example.globs
            assert runner.failures == 0
        else:
            exec(compile(code, f"{page.name}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Relative ones; a page of the gallery, which the build makes, to its script."""
    for target in LINK.findall(page.read_text()):
        if "://" not in target:
            file = page.parent / re.sub(r"auto_gallery/(plot_\w+)\.rst", r"gallery/\1.py", target)
            assert file.exists() or target == "auto_gallery/index.rst", target


def test_every_public_name_is_on_an_api_page() -> None:
    documented = set(
        re.findall(
            r"auto(?:class|function|module):: (?:[\w.]+\.)?(\w+)",
            "".join(page.read_text() for page in (DOCS / "api").glob("*.md")),
        )
    )
    modules = (evaluation.RetrievalAccuracy, MetricLearningLoss, SyntheticTripletsMiner)
    public = {*loopml.__all__, *geometry.__all__, *(kind.__name__ for kind in modules)}
    assert public <= documented
