r"""Exact minimum distances between segments and between great-circle arcs, batched, differentiable.

This package imports nothing but torch and knows no labels.

Embedding Expansion and LoOp are one idea. A pair of same-class embeddings spans a curve; the hard
negative is where the curve of another class comes nearest. Its endpoints alone are ordinary mining,
n points on each curve are Embedding Expansion, and all points are LoOp:
``endpoint distance >= EE(n) >= LoOp``, and EE(n) tends to LoOp.
"""

from loopml._types import Closest
from loopml.geometry.arcs import arc_distance, closest_on_arcs
from loopml.geometry.pairwise import pairwise_arc_distance, pairwise_segment_distance
from loopml.geometry.segments import closest_on_segments, segment_distance

__all__ = [
    "Closest",
    "arc_distance",
    "closest_on_arcs",
    "closest_on_segments",
    "pairwise_arc_distance",
    "pairwise_segment_distance",
    "segment_distance",
]
