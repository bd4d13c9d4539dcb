"""What ``mypy --strict`` must refuse: where it no longer does, the ignore is reported as unused."""

from __future__ import annotations

import numpy as np
from pytorch_metric_learning.losses import TripletMarginLoss
from torch import Tensor

import loopml
from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, NPairLoss, SyntheticLoss
from loopml.evaluation import RetrievalAccuracy
from loopml.geometry import arc_distance, closest_on_segments, pairwise_arc_distance


def constructors() -> None:
    """Options of the wrong type, by position, or missing."""
    LoOpMiner("arc")  # type: ignore[call-arg]
    LoOpMiner(geometry=1)  # type: ignore[arg-type]
    LoOpMiner(pairing=None)  # type: ignore[arg-type]
    LoOpMiner(num_negatives=1.5)  # type: ignore[arg-type]
    EmbeddingExpansion(2, True)  # type: ignore[call-arg]
    EmbeddingExpansion(n_points="2")  # type: ignore[arg-type]
    EmbeddingExpansion(normalise=True)  # type: ignore[call-arg]
    HPHNTripletLoss("0.2")  # type: ignore[arg-type]
    HPHNTripletLoss(0.2, True)  # type: ignore[call-arg]
    HPHNTripletLoss(synthesizer=LoOpMiner)  # type: ignore[arg-type]
    NPairLoss(LoOpMiner())  # type: ignore[call-arg]
    NPairLoss(l2_reg="0.1")  # type: ignore[arg-type]
    SyntheticLoss(TripletMarginLoss())  # type: ignore[call-arg]
    SyntheticLoss(TripletMarginLoss(), None)  # type: ignore[arg-type]
    RetrievalAccuracy(recall_at=1)  # type: ignore[arg-type]
    RetrievalAccuracy(distance=2)  # type: ignore[arg-type]
    RetrievalAccuracy(average_of_averages=True)  # type: ignore[call-arg]


def calls(x: Tensor, labels: Tensor) -> None:
    """Arguments of the wrong type or number, and results taken for what they are not."""
    LoOpMiner().synthesize(x)  # type: ignore[call-arg]
    LoOpMiner().synthesize(x, [0, 1])  # type: ignore[arg-type]
    EmbeddingExpansion().expand(x, labels, x, labels)  # type: ignore[call-arg]
    batch = LoOpMiner().synthesize(x, labels)
    batch.labels = labels  # type: ignore[misc]
    batch.negatives  # type: ignore[attr-defined]  # noqa: B018
    _, _ = batch  # type: ignore[misc]
    embeddings: Tensor = EmbeddingExpansion().expand(x, labels)  # type: ignore[assignment]
    embeddings.sum()
    RetrievalAccuracy().get_accuracy(x, labels, include="recall_at_1")  # type: ignore[arg-type]


def functions(x: Tensor) -> None:
    """The geometry takes four tensors."""
    closest_on_segments(x, x, x)  # type: ignore[call-arg]
    closest_on_segments(x, x, x, np.zeros(3))  # type: ignore[arg-type]
    arc_distance(x, x, x, None)  # type: ignore[arg-type]
    pairwise_arc_distance(x, x, x, x, "arc")  # type: ignore[call-arg]
    closest_on_segments(x, x, x, x).distances  # type: ignore[attr-defined]  # noqa: B018
    loopml.LoopMiner()  # type: ignore[attr-defined]
