"""Imports go one way, and the core imports nothing that a user does not have."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import loopml

ROOT = Path(loopml.__file__).parent

# Each layer may import from itself (as far as that makes no cycle) and from those before it.
LAYERS = (
    {"_types", "_checks", "_devices"},
    {"geometry"},  # knows no labels and no host
    {"compiled"},
    {"selection"},
    {"host", "batch"},
    {"idle"},
    {"pairing"},
    {"ops"},
    {"curves", "spaces"},
    {"points"},
    {"measure"},
    {"synthesis"},
    {"miners", "expansion", "losses", "evaluation"},
    {"__init__"},
    {"open_metric_learning", "sentence_transformers"},  # hosts that nothing else knows
)
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
FILES = sorted(ROOT.rglob("*.py"))


def unit_of(path: Path) -> str:
    """The top-level module or subpackage that a file belongs to."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports_of(path: Path) -> set[str]:
    """Absolute names of everything that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_module_has_a_layer() -> None:
    assert {unit_of(path) for path in FILES} == set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    own = unit_of(path)
    for name in imports_of(path):
        if name.startswith("loopml."):
            other = name.split(".")[1]
            assert other == own or RANK[other] < RANK[own], f"{own} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_third_parties_stay_in_their_place(path: Path) -> None:
    """Only torch; what is compiled, what scores need and the host in one place each."""
    allowed = {"loopml", "torch"}
    if path == ROOT / "host.py":
        allowed.add("pytorch_metric_learning")
    if path == ROOT / "ops" / "triton.py":
        allowed.add("triton")
    if path.is_relative_to(ROOT / "ops" / "numba"):
        allowed |= {"numba", "numpy"}
    if path == ROOT / "pairing.py":
        allowed.add("numpy")
    if unit_of(path) == "evaluation":
        allowed |= {"faiss", "numpy", "sklearn"}
    third_party = {name.split(".")[0] for name in imports_of(path)} - set(sys.stdlib_module_names)
    assert third_party <= allowed


def test_import_loads_nothing_optional() -> None:
    """A fresh interpreter has loaded none of these with loopml, or for another host."""
    code = (
        "import sys, torch, pytorch_metric_learning.losses, pytorch_metric_learning.miners; "
        "before = set(sys.modules); import loopml, "
        "loopml.open_metric_learning, loopml.sentence_transformers; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "optional = {'torchvision', 'triton', 'numba', 'faiss', 'matplotlib', 'tensorboard', "
        "'sentence_transformers', 'transformers', 'datasets', 'oml'}; "
        "print(sorted(new & optional))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
