"""The pages of the documentation: code that runs, links that lead somewhere, every public name."""

import doctest
import re
from pathlib import Path
from typing import Any

import pytest

import loopml
from loopml import evaluation, geometry
from loopml.losses.support import REJECTED, SUPPORTED
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

# What the reader of a page has already.
READERS_OWN = {
    "index.md": """
import torch
targets = torch.arange(64).repeat(4)
dataset = torch.utils.data.TensorDataset(torch.randn(256, 8), targets)
model = torch.nn.Linear(8, 4)
optimizer = torch.optim.Adam(model.parameters())
"""
}
# Pages that the build makes, and what it makes them of.
BUILT = {
    "five_minutes.ipynb": "../examples/five_minutes.ipynb",
    "auto_gallery/index.rst": "gallery",
}


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
    exec(READERS_OWN.get(name_of(page), ""), names)
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
    """Relative ones; of a page that the build makes, to what it makes it of."""
    for target in LINK.findall(page.read_text()):
        if "://" not in target:
            script = re.sub(r"auto_gallery/(plot_\w+)\.rst", r"gallery/\1.py", target)
            assert (page.parent / BUILT.get(target, script)).exists(), target


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


def rows_of(page: Path, name: str) -> list[list[str]]:
    """The cells of the table after the marker ``<!-- name -->``, without its head."""
    table = page.read_text().split(f"<!-- {name} -->")[1].split("<!-- end -->")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_page_of_losses_says_what_the_code_does() -> None:
    """Each loss that ``SyntheticLoss`` takes, and each that it refuses, with its reason."""
    page = DOCS / "losses.md"
    assert [row[0] for row in rows_of(page, "supported")] == sorted(
        loss.__name__ for loss in SUPPORTED
    )
    assert dict(rows_of(page, "rejected")) == dict(REJECTED)
