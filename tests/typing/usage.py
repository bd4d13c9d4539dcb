"""What users write, which ``mypy --strict`` must accept, with the types that they rely on."""

from __future__ import annotations

import numpy as np
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import CrossBatchMemory, MultiSimilarityLoss, TripletMarginLoss
from torch import Tensor, nn
from typing_extensions import assert_type

import loopml
from loopml import (
    EmbeddingExpansion,
    HPHNTripletLoss,
    LoOpMiner,
    NPairLoss,
    SyntheticBatch,
    SyntheticLoss,
    geometry,
)
from loopml.evaluation import RetrievalAccuracy
from loopml.open_metric_learning import SyntheticTripletsMiner
from loopml.sentence_transformers import MetricLearningLoss


def train(net: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """A plain loop, with every loss."""
    losses: list[nn.Module] = [
        HPHNTripletLoss(),
        HPHNTripletLoss(0.2, soft_margin=True, synthesizer=EmbeddingExpansion()),
        HPHNTripletLoss(margin=0.2, synthesizer=LoOpMiner(), distance=LpDistance()),
        NPairLoss(synthesizer=LoOpMiner(pairing="consecutive"), l2_reg=0.02),
        SyntheticLoss(MultiSimilarityLoss(), LoOpMiner()),
        SyntheticLoss(loss=TripletMarginLoss(), synthesizer=EmbeddingExpansion(n_points=2)),
    ]
    for images, labels in batches:
        for loss_fn in losses:
            loss: Tensor = loss_fn(net(images), labels)
            torch.autograd.backward(loss)


def mine(embeddings: Tensor, labels: Tensor, queue: Tensor, queue_labels: Tensor) -> None:
    """Triplets of real rows, by hand and in a memory."""
    miner = LoOpMiner(geometry="arc", pairing="all", num_negatives=None, collect_stats=True)
    assert_type(miner.geometry, str)
    assert_type(miner.num_negatives, int | None)
    assert_type(miner.forward(embeddings, labels), tuple[Tensor, Tensor, Tensor])
    anchor, positive, negative = miner(embeddings, labels, queue, queue_labels)
    TripletMarginLoss()(embeddings, labels, (anchor, positive, negative))
    CrossBatchMemory(TripletMarginLoss(), embedding_size=64, miner=miner)


def synthesize(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Synthetic negatives by hand."""
    batch = LoOpMiner().synthesize(embeddings, labels)
    assert_type(batch, SyntheticBatch)
    assert_type(batch.ref_emb, Tensor)
    assert_type(batch.indices_tuple, tuple[Tensor, Tensor, Tensor])
    expansion = EmbeddingExpansion(2, normalize=False, num_negatives=3)
    assert_type(expansion.forward(embeddings, labels, embeddings, labels), SyntheticBatch)
    assert_type(expansion.expand(embeddings, labels), tuple[Tensor, Tensor])
    loss: Tensor = TripletMarginLoss()(*batch)
    return loss


def measure(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> list[Tensor]:
    """The geometry alone."""
    closest = geometry.closest_on_arcs(p0, p1, q0, q1)
    assert_type(closest, geometry.Closest)
    s, t, point_p, point_q, distance = geometry.closest_on_segments(p0, p1, q0, q1)
    assert_type(distance, Tensor)
    return [
        *(s, t, point_p, point_q, closest.distance),
        geometry.arc_distance(p0, p1, q0=q0, q1=q1),
        geometry.segment_distance(p0, p1, q0, q1),
        geometry.pairwise_arc_distance(p0, p1, q0, q1),
        geometry.pairwise_segment_distance(p0, p1, q0, q1),
    ]


def evaluate(embeddings: Tensor, labels: Tensor) -> float:
    """Scores of tensors and of arrays."""
    calculator = RetrievalAccuracy(recall_at=[1, 10], distance="cosine", include=("recall_at_1",))
    calculator.get_accuracy(np.zeros((4, 2)), np.arange(4))
    scores = calculator.get_accuracy(embeddings, labels, torch.cat([embeddings]), labels)
    return float(scores["recall_at_1"])


assert_type(loopml.__version__, str)


def for_other_hosts(model: nn.Module, embeddings: Tensor, labels: Tensor) -> None:
    """What sentence-transformers and open-metric-learning are given."""
    modules: list[nn.Module] = [
        MetricLearningLoss(model, SyntheticLoss(MultiSimilarityLoss(), LoOpMiner())),
        MetricLearningLoss(model, TripletMarginLoss(), miner=LoOpMiner()),
    ]
    loss: Tensor = modules[0]([{"input_ids": labels}], labels)
    torch.autograd.backward(loss)
    for miner in (
        SyntheticTripletsMiner(LoOpMiner()),
        SyntheticTripletsMiner(EmbeddingExpansion()),
    ):
        assert_type(miner.sample(embeddings, labels), tuple[Tensor, Tensor, Tensor])
        assert_type(miner.sample(embeddings, [0, 0, 1]), tuple[Tensor, Tensor, Tensor])
