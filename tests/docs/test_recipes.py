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

BLOCK = re.compile(r"^## (.+?)$|^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def recipes() -> dict[str, str]:
    """The code of each recipe by its heading; what comes before them is under the empty one."""
    code, heading = {"": ""}, ""
    for match in BLOCK.finditer(RECIPES.read_text()):
        heading = match[1] or heading
        code[heading] = code.get(heading, "") + (match[2] or "")
    return code


CODE = recipes()
# What the main environment lacks, by the heading of the recipe that needs it.
NEEDS = {"open-metric-learning": "oml.losses"}


@of_lightning
@of_hugging_face
@pytest.mark.filterwarnings("ignore:DistributedLossWrapper is being used in a non-distributed")
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
@pytest.mark.parametrize("heading", [heading for heading in CODE if heading])
def test_recipes_run(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each runs after the block before them all; a loss that it leaves is a finite float32."""
    assert CODE[heading], "a recipe without code"
    if heading in NEEDS:
        pytest.importorskip(NEEDS[heading], reason=f"nox -s reproduce has {heading}")
    monkeypatch.chdir(tmp_path)  # some trainers write
    names: dict[str, Any] = {}
    exec(compile(CODE[""], "recipes.md", "exec"), names)
    exec(compile(CODE[heading], f"recipes.md: {heading}", "exec"), names)
    if "loss" in names:
        assert names["loss"].isfinite()
        assert names["loss"].dtype == torch.float32
