r"""Minimum distances of segments and of great-circle arcs, in closed form, with a gradient.

The functions take batches of curves and know no labels. The closed forms are exact. They are
computed in float64; each function says under Precision what error rounding leaves. This package
needs nothing but torch.

Two embeddings of a class span a curve. The hardest negative is where a curve of another class comes
nearest. Let :math:`d_\text{ends}` be the least distance of the ends of two curves, which ordinary
mining finds. Let :math:`d_{\text{EE}(n)}` be the least distance if :math:`n` points between the
ends count as well (Embedding Expansion). Let :math:`d_\text{LoOp}` be the least distance of all
points (LoOp), which the functions here compute. Then

.. math:: d_\text{ends} \ge d_{\text{EE}(n)} \ge d_\text{LoOp}, \qquad
    d_{\text{EE}(n)} \to d_\text{LoOp} \text{ as } n \to \infty.
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
