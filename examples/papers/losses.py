"""The losses of the papers' tables on real negatives, Embedding Expansion and LoOp."""

from __future__ import annotations

from pytorch_metric_learning.distances import (
    CosineSimilarity,
    DotProductSimilarity,
    LpDistance,
)
from pytorch_metric_learning.losses import (
    BaseMetricLossFunction,
    LiftedStructureLoss,
    MultiSimilarityLoss,
    TripletMarginLoss,
)

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, NPairLoss, SyntheticLoss

LOSSES = ("hphn", "triplet", "lifted_structure", "n_pair", "multi_similarity")
WITH_MARGIN = ("hphn", "triplet", "lifted_structure")
WITH_SOFT_MARGIN = ("hphn", "triplet")
SYNTHESES = ("none", "expansion", "loop")


def make_loss(
    loss: str,
    synthesis: str,
    *,
    margin: float,
    soft_margin: bool,
    inner_points: int,
    on_sphere: bool,
    pairing: str,
) -> BaseMetricLossFunction:
    """A loss for embeddings of length 1.

    Args:
        loss: one of `LOSSES`.
        synthesis: one of `SYNTHESES`.
        margin: of the losses `WITH_MARGIN`.
        soft_margin: softplus in place of a margin, for the losses `WITH_SOFT_MARGIN`.
        inner_points: of Embedding Expansion.
        on_sphere: normalise synthetic points. If not, they are on the chord between two
            embeddings, and LoOp measures segments in place of arcs.
        pairing: which pairs of a class span a curve, "consecutive" or "all".
    """
    distance = LpDistance(normalize_embeddings=on_sphere)
    product = CosineSimilarity() if on_sphere else DotProductSimilarity(normalize_embeddings=False)
    synthesizer = {
        "none": lambda: None,
        "expansion": lambda: EmbeddingExpansion(inner_points, normalize=on_sphere, pairing=pairing),
        "loop": lambda: LoOpMiner(pairing=pairing),
    }[synthesis]()
    if loss == "hphn":
        return HPHNTripletLoss(
            margin, soft_margin=soft_margin, synthesizer=synthesizer, distance=distance
        )
    if loss == "n_pair":
        return NPairLoss(synthesizer=synthesizer, distance=product)
    tuple_loss = {
        "triplet": lambda: TripletMarginLoss(
            0 if soft_margin else margin, smooth_loss=soft_margin, distance=distance
        ),
        "lifted_structure": lambda: LiftedStructureLoss(neg_margin=margin, distance=distance),
        "multi_similarity": lambda: MultiSimilarityLoss(distance=product),
    }[loss]()
    return tuple_loss if synthesizer is None else SyntheticLoss(tuple_loss, synthesizer)
