"""The recipes of the documentation run as they stand."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

RECIPES = Path(__file__).parents[2] / "docs" / "recipes.md"

# Lightning advises data loaders with workers, and uses a torch function that is to go.
of_lightning = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec.* is deprecated"
)
# The trainers of Hugging Face pin memory for an accelerator that is not there.
of_hugging_face = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# The last section is no recipe: the recipes link to what it says.
FIRST, *REST = re.split(r"^## (.+)\n", RECIPES.read_text(), flags=re.MULTILINE)
TEXT = dict(zip(REST[:-2:2], REST[1:-2:2], strict=True))


def code(text: str) -> str:
    """All blocks of a text, one after the other."""
    return "".join(BLOCK.findall(text))


# What the main environment lacks, by the heading of the recipe that needs it.
NEEDS = {"open-metric-learning": "oml.losses"}


@of_lightning
@of_hugging_face
@pytest.mark.filterwarnings("ignore:DistributedLossWrapper is being used in a non-distributed")
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
@pytest.mark.parametrize("heading", TEXT)
def test_recipes_run(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each runs after the block before them all; a loss that it leaves is a finite float32."""
    assert code(TEXT[heading]), "a recipe without code"
    if heading in NEEDS:
        pytest.importorskip(NEEDS[heading], reason=f"nox -s reproduce has {heading}")
    monkeypatch.chdir(tmp_path)  # some trainers write
    names: dict[str, Any] = {}
    exec(compile(code(FIRST), "recipes.md", "exec"), names)
    exec(compile(code(TEXT[heading]), f"recipes.md: {heading}", "exec"), names)
    if "loss" in names:
        assert names["loss"].isfinite()
        assert names["loss"].dtype == torch.float32


@pytest.mark.parametrize("heading", TEXT)
def test_recipes_are_short(heading: str) -> None:
    """Each says first what it is for, and has at most three things to watch."""
    assert TEXT[heading].lstrip()[0].isalpha()
    assert len(re.findall(r"^- ", TEXT[heading], re.MULTILINE)) <= 3


def test_the_last_section_is_no_recipe() -> None:
    assert REST[-2] == "Details"
    assert not code(REST[-1])
