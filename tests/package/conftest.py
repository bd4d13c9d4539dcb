"""``--device cuda`` runs the tests of the package on a GPU; release 3 of the host has fewer.

They have not been run on one: there was none. Tensors are made where PyTorch makes them by default,
and the oracles are in NumPy; what else is to be done there, the first run will say.
"""

import pytest
import torch

from tests.oracles.hosts import IS_3

# Trainers, testers, samplers and wrappers of release 2, and the losses that it exports. Where our
# modules go under release 3, and what they refuse there, is tested in tests/pml3.
OF_RELEASE_2 = ["test_distributed.py", "test_homes.py", "test_refused_losses.py"]

collect_ignore = OF_RELEASE_2 if IS_3 else []


def pytest_addoption(parser: pytest.Parser) -> None:
    """The device, where these tests are named on the command line."""
    parser.addoption("--device", default="cpu", help="where tests make their tensors: cpu or cuda")


def pytest_configure(config: pytest.Config) -> None:
    """All tensors are made on the device, those of modules too; stop at once if it is not there."""
    device = config.getoption("--device")
    if device not in ("cpu", "cuda"):
        raise pytest.UsageError(f"--device must be cpu or cuda, got {device}")
    if device == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda needs a GPU that torch can use, and finds none")
    if device == "cuda":
        torch.set_default_device(device)
