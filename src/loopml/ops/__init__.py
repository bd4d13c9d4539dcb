"""The search for the nearest curves, as torch custom ops.

Each op takes two sets of curves, as indices of their ends, and the Gram matrix of the points of the
one set with those of the other. It returns, for each row curve, the nearest column curves of
another label: ``(index, value)``, both (r, k).

- The Gram matrix is float32 or float64; the scores have its dtype.
- Lower values are nearer. Ties go to the lowest index. A row with fewer than k curves of another
  label is filled up with index -1 and value inf; no rows or no columns are ordinary input.
- Rows are reduced in blocks, so (r, c) is never stored whole and (r, c, d) never exists.
- Pure torch runs anywhere. On CUDA, where Triton is installed, a kernel finds the one nearest curve
  (k = 1) without a synchronisation. Without Triton the search for it by bounds waits for the GPU.
- The ops have no gradient: they choose, and what they choose is measured elsewhere.
"""

from loopml.ops.positives import farthest_allowed, farthest_positives
from loopml.ops.search import nearest_arcs, nearest_samples, nearest_segments

__all__ = [
    "farthest_allowed",
    "farthest_positives",
    "nearest_arcs",
    "nearest_samples",
    "nearest_segments",
]
