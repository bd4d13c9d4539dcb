"""How the tests run: shapes checked, hypothesis profiles, one thread, a seeded generator."""

from __future__ import annotations

import os

import hypothesis
import pytest
import torch
from pytorch_metric_learning.distances import LpDistance

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, compiled
from tests.oracles import shapes

shapes.install()

# One example is a batch of curves, so a modest number of examples is many problems. The default
# draws the same ones every time, so that a commit passes or fails for good; "few" draws the first
# of them, where another environment has run the default already; "thorough" explores.
hypothesis.settings.register_profile(
    "default", deadline=None, max_examples=10, print_blob=True, derandomize=True
)
hypothesis.settings.register_profile(
    "few", hypothesis.settings.get_profile("default"), max_examples=3
)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=150, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# The tensors are small: threads would only fight for the cores.
torch.set_num_threads(1)

# Of the processes of pytest-xdist.
COMPILES = {"gw0": torch.float32, "gw1": torch.float64}


def pytest_sessionstart() -> None:
    """Two processes share what numba has to compile, which takes each 20 seconds.

    Otherwise both would compile all of it, and so would the processes that tests start meanwhile.
    They find it in numba's cache, and so does the next run.
    """
    dtype = COMPILES.get(os.environ.get("PYTEST_XDIST_WORKER", ""))
    if dtype is None or compiled.kernels() is None:
        return
    rows = torch.arange(24, dtype=dtype, device="cpu").sin().view(8, 3).requires_grad_()
    labels = torch.arange(8, device="cpu") // 2
    for loss in (
        HPHNTripletLoss(synthesizer=LoOpMiner()),
        HPHNTripletLoss(synthesizer=EmbeddingExpansion()),
        HPHNTripletLoss(synthesizer=LoOpMiner(), distance=LpDistance(normalize_embeddings=False)),
    ):
        loss(rows, labels).backward()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)
