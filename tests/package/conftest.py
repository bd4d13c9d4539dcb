"""``--device cuda`` runs the tests of the package on a GPU, where there was none to try it on.

With release 3 of pytorch-metric-learning, tests of what only release 2 has are not collected.
"""

from collections.abc import Iterator

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
    """Stop at once where the device is not there."""
    device = config.getoption("--device")
    if device not in ("cpu", "cuda"):
        raise pytest.UsageError(f"--device must be cpu or cuda, got {device}")
    if device == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda needs a GPU that torch can use, and finds none")


@pytest.fixture(autouse=True)
def _on_device(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tensors are made on the device of the command line."""
    device = request.config.getoption("--device", "cpu")
    if device == "cpu":
        yield
        return
    with torch.device(device):
        yield
