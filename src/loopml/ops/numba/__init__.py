"""The search and the measure compiled for the CPU, used where numba is installed."""

from loopml.ops.numba.distances import distances, distances_backward
from loopml.ops.numba.solve import solve_arcs, solve_samples, solve_segments

__all__ = [
    "distances",
    "distances_backward",
    "solve_arcs",
    "solve_samples",
    "solve_segments",
]
