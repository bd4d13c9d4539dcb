"""Hard negatives in embedding space, as pytorch-metric-learning components."""

from loopml import geometry
from loopml._types import SyntheticBatch
from loopml.expansion import EmbeddingExpansion
from loopml.losses import HPHNTripletLoss, NPairLoss, SyntheticLoss
from loopml.miners import LoOpMiner

__version__ = "0.1.0"

__all__ = [
    "EmbeddingExpansion",
    "HPHNTripletLoss",
    "LoOpMiner",
    "NPairLoss",
    "SyntheticBatch",
    "SyntheticLoss",
    "geometry",
]
