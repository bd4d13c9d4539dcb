"""The search, the solution and the measure on a CPU, compiled by numba where it is installed.

What is here chooses what pure torch chooses, ties included. This package alone imports numba.

It is compiled at its first use, for float32 and float64 apart, which takes some seconds once. Numba
keeps the machine code in ``__pycache__`` beside these files, or in the user's cache folder where it
may not write there; the variable ``NUMBA_CACHE_DIR`` names another place. It compiles a function
anew when the function's own file has changed, not where one that it calls has: who works on this
package deletes the ``*.nbi`` files.

All runs in one thread, without the interpreter's lock, and several threads may call it at once.
Numba's own threads would take longer to compile, and its fallback for them aborts where two threads
of Python enter it.
"""

from loopml.ops.numba.distances import distances, distances_backward
from loopml.ops.numba.labels import farthest_positives, smallest_per_group
from loopml.ops.numba.nearest import nearest
from loopml.ops.numba.solve import solve_arcs, solve_samples, solve_segments

__all__ = [
    "distances",
    "distances_backward",
    "farthest_positives",
    "nearest",
    "smallest_per_group",
    "solve_arcs",
    "solve_samples",
    "solve_segments",
]
