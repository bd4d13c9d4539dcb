"""How the tests run: shapes checked, hypothesis profiles, one thread, a seeded generator."""

from __future__ import annotations

import os

import hypothesis
import pytest
import torch

from tests.oracles import shapes

shapes.install()

# One example is a batch of curves, so a modest number of examples is many problems. The default
# draws the same ones every time, so that a commit passes or fails for good; "thorough" explores.
hypothesis.settings.register_profile(
    "default", deadline=None, max_examples=10, print_blob=True, derandomize=True
)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=150, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# The tensors are small: threads would only fight for the cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)
