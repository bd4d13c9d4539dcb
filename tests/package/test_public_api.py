"""The public names and signatures: a change here is a change for every user."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from pytorch_metric_learning import losses, miners
from torch import nn

import loopml
from loopml import geometry
from loopml.evaluation import RetrievalAccuracy
from loopml.open_metric_learning import SyntheticTripletsMiner
from loopml.sentence_transformers import MetricLearningLoss

SIGNATURES = {
    loopml.LoOpMiner: "(*, geometry='auto', pairing='auto', num_negatives=1, **base_miner_kwargs)",
    loopml.LoOpMiner.forward: (
        "(self, embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None)"
    ),
    loopml.LoOpMiner.synthesize: "(self, embeddings, labels, ref_emb=None, ref_labels=None)",
    loopml.EmbeddingExpansion: ("(n_points=2, *, normalize=True, pairing='auto', num_negatives=1)"),
    loopml.EmbeddingExpansion.forward: "(self, embeddings, labels, ref_emb=None, ref_labels=None)",
    loopml.EmbeddingExpansion.expand: "(self, embeddings, labels)",
    loopml.HPHNTripletLoss: (
        "(margin=0.2, *, soft_margin=False, synthesizer=None, real_until_apart=False, "
        "**base_loss_kwargs)"
    ),
    loopml.NPairLoss: "(*, synthesizer=None, l2_reg=0.0, **base_loss_kwargs)",
    loopml.SyntheticLoss: "(loss, synthesizer)",
    RetrievalAccuracy: (
        "(*, recall_at=(1, 2, 4, 8), distance='cosine', seed=1234, k='max_bin_count', "
        "include=(), exclude=(), avg_of_avgs=False, return_per_class=False, "
        "label_comparison_fn=None, device=None, knn_func=None, kmeans_func=None)"
    ),
    RetrievalAccuracy.get_accuracy: (
        "(self, query, query_labels, reference=None, reference_labels=None, "
        "ref_includes_query=False, include=(), exclude=())"
    ),
    SyntheticTripletsMiner: "(synthesizer)",
    SyntheticTripletsMiner.sample: "(self, features, labels)",
    MetricLearningLoss: "(model, loss, *, miner=None)",
    MetricLearningLoss.forward: "(self, sentence_features, labels)",
    geometry.closest_on_segments: "(p0, p1, q0, q1)",
    geometry.closest_on_arcs: "(p0, p1, q0, q1)",
    geometry.segment_distance: "(p0, p1, q0, q1)",
    geometry.arc_distance: "(p0, p1, q0, q1)",
    geometry.pairwise_segment_distance: "(p0, p1, q0, q1)",
    geometry.pairwise_arc_distance: "(p0, p1, q0, q1)",
}

PML_ARGUMENTS = ["embeddings", "labels", "indices_tuple", "ref_emb", "ref_labels"]


def signature(function: Any) -> str:
    """A signature without annotations."""
    parameters = inspect.signature(function).parameters.values()
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return str(inspect.Signature(bare))


def test_names() -> None:
    assert sorted(loopml.__all__) == [
        "EmbeddingExpansion",
        "HPHNTripletLoss",
        "LoOpMiner",
        "NPairLoss",
        "SyntheticBatch",
        "SyntheticLoss",
        "geometry",
    ]
    assert sorted(geometry.__all__) == [
        "Closest",
        "arc_distance",
        "closest_on_arcs",
        "closest_on_segments",
        "pairwise_arc_distance",
        "pairwise_segment_distance",
        "segment_distance",
    ]


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_signatures(function: Any) -> None:
    assert signature(function) == SIGNATURES[function]


@pytest.mark.parametrize("loss", [loopml.HPHNTripletLoss, loopml.NPairLoss, loopml.SyntheticLoss])
def test_losses_take_the_arguments_of_pml(loss: type) -> None:
    assert list(inspect.signature(loss.forward).parameters)[1:] == PML_ARGUMENTS  # type: ignore[attr-defined]


def test_tuples() -> None:
    assert list(loopml.SyntheticBatch._fields) == PML_ARGUMENTS
    assert geometry.Closest._fields == ("s", "t", "point_p", "point_q", "distance")


def test_kinds() -> None:
    assert issubclass(loopml.LoOpMiner, miners.BaseMiner)
    assert issubclass(loopml.EmbeddingExpansion, nn.Module)
    assert issubclass(loopml.HPHNTripletLoss, losses.BaseMetricLossFunction)
    assert issubclass(loopml.NPairLoss, losses.BaseMetricLossFunction)
    assert issubclass(loopml.SyntheticLoss, losses.BaseMetricLossFunction)


def test_typed_and_versioned() -> None:
    root = Path(loopml.__file__).parent
    assert (root / "py.typed").exists()
    assert re.fullmatch(r"\d+\.\d+\.\d+", loopml.__version__)


@pytest.mark.parametrize(
    "public",
    [getattr(loopml, name) for name in loopml.__all__ if name != "geometry"]
    + [getattr(geometry, name) for name in geometry.__all__]
    + [RetrievalAccuracy, MetricLearningLoss, SyntheticTripletsMiner],
    ids=lambda public: public.__name__,
)
def test_docstrings_are_whole(public: Any) -> None:
    """Every public function and class documents its arguments and has an example."""
    text = inspect.getdoc(public) or ""
    if issubclass(type(public), type) and issubclass(public, tuple):
        assert "Attributes:" in text
        return
    assert "Args:" in text
    assert "Example:" in text
