"""What is said when batch after batch has no tuple."""

from __future__ import annotations

import warnings

import torch

from loopml.batch import Batch

# Frames up from the warning to the line that called a module: _warn_if_idle, forward, and two of
# torch.nn.Module.
CALLER_OF_MODULE = 5
# The same where it is a method that was called.
CALLER_OF_METHOD = 3


class SaysIdle:
    """What makes tuples, and says so when batch after batch has none."""

    # On the class, so that an object that was pickled before they existed has them too.
    _idle_in_a_row = 0
    _has_warned = False

    def _count_idle(self, idle: bool) -> None:
        """Count the batches in a row that have no tuple."""
        self._idle_in_a_row = self._idle_in_a_row + 1 if idle else 0

    def _warn_if_idle(self, batch: Batch, frames: int = CALLER_OF_MODULE) -> None:
        """Warn once, of the second batch in a row that has no tuple.

        A single one may be the short last batch of an epoch.
        """
        if self._has_warned or self._idle_in_a_row < 2:
            return
        self._has_warned = True
        labels = torch.cat([batch.labels, batch.labels_of_others()])
        one_class = bool((labels == labels[0]).all())
        missing = "a second class, so without negatives" if one_class else "a positive pair"
        size = 4 * max(2, -(-len(batch.embeddings) // 4))
        warnings.warn(
            f"{type(self).__name__} got two batches in a row without {missing}: they have no "
            "tuple, so that loss and gradient are 0 and nothing is learned; draw several rows of "
            f"several classes, as DataLoader(dataset, batch_size={size}, "
            f"sampler=MPerClassSampler(labels, m=4, batch_size={size})) does, with "
            "MPerClassSampler of pytorch_metric_learning.samplers",
            stacklevel=frames,
        )
