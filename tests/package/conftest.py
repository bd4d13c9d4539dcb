"""With release 3 of pytorch-metric-learning, tests of what only release 2 has are not collected."""

from tests.oracles.hosts import IS_3

# Trainers, testers, samplers and wrappers of release 2, and the losses that it exports. Where our
# modules go under release 3, and what they refuse there, is tested in tests/pml3.
OF_RELEASE_2 = ["test_distributed.py", "test_homes.py", "test_refused_losses.py"]

collect_ignore = OF_RELEASE_2 if IS_3 else []
