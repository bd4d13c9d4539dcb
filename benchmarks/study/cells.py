"""What the retrieval study compares: losses, where their negatives come from, and its ideas.

A cell is a loss on one kind of negatives. Its objective takes embeddings and labels to a value; its
margin, or the parameter of the loss that plays this part, is one of four.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from types import MappingProxyType
from typing import NamedTuple

from pytorch_metric_learning.distances import DotProductSimilarity
from pytorch_metric_learning.losses import (
    BaseMetricLossFunction,
    ContrastiveLoss,
    MultiSimilarityLoss,
    NTXentLoss,
    TripletMarginLoss,
)
from pytorch_metric_learning.miners import (
    BaseMiner,
    BatchEasyHardMiner,
    BatchHardMiner,
    MultiSimilarityMiner,
)
from pytorch_metric_learning.reducers import MeanReducer
from pytorch_metric_learning.regularizers import LpRegularizer
from torch import Tensor

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, NPairLoss, SyntheticLoss
from loopml.synthesis import Synthesizer

Objective = Callable[[Tensor, Tensor], Tensor]  # embeddings (n, d), labels (n,) -> ()


class Cell(NamedTuple):
    """One way to train; ``idea`` is empty in the study itself."""

    dataset: str
    loss: str
    synthesis: str
    idea: str = ""

    def __str__(self) -> str:
        """As a progress bar has room for it."""
        return " ".join(filter(None, self))


LOSSES: Mapping[str, tuple[str, tuple[float, ...]]] = MappingProxyType(
    {  # the parameter that stands in the column "margin", and its grid
        "hphn": ("margin", (0.2, 0.4, 0.8, 1.2)),
        "triplet": ("margin", (0.2, 0.4, 0.8, 1.2)),
        "contrastive": ("neg_margin", (0.8, 1.0, 1.2, 1.4)),
        "multi_similarity": ("base", (0.3, 0.5, 0.7, 0.9)),
        "n_pair": ("l2_reg", (0.0, 0.002, 0.02, 0.2)),
    }
)
# On the glyphs 3e-4 had the lower Recall@1 on validation classes in all 20 settings of HPHN that
# were tried at both; those rows are kept, but no cell chooses from them.
LEARNING_RATES: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {"glyphs": (1e-3,), "emoji": (3e-4, 1e-3), "text": (3e-4, 1e-3)}
)
# What a rate is chosen from where only a batch or its labels vary: what most cells chose before.
VARIED_RATES: Mapping[str, float] = MappingProxyType({"glyphs": 1e-3, "emoji": 3e-4, "text": 1e-3})
REAL = ("none", "hard_mining", "every_positive")
SYNTHESES = (*REAL, "class_mates", "expansion", "loop_index", "loop")
# All triplets of a batch and its points between, which are too many but for small classes.
EXPAND = "expand"
IDEAS = ("warm_up", "mixed", "nearest_4", "consecutive")
# What the documentation recommends, at a margin that nobody has to choose.
DEFAULT = Cell("", "triplet", "loop_index", "default")
DEFAULT_MARGIN = 0.8


class Setting(NamedTuple):
    """What is chosen on the validation classes, for each cell."""

    margin: float
    learning_rate: float


def syntheses_of(loss: str) -> tuple[str, ...]:
    """The kinds of negatives that a loss was given in the study itself."""
    return tuple(name for name in SYNTHESES if loss == "triplet" or name != "class_mates")


def idea_cells(cell: Cell) -> list[Cell]:
    """The ideas that change what a cell minimises, or how its margin is chosen."""
    if cell._replace(dataset="", idea="default") == DEFAULT:
        return [cell._replace(idea="default")]
    if cell.synthesis not in ("expansion", "loop"):
        return []
    # HPHN looks at the nearest curve alone, N-pair at all of them.
    unchanged = ("nearest_4",) if cell.loss in ("hphn", "n_pair") else ()
    return [cell._replace(idea=idea) for idea in IDEAS if idea not in unchanged]


def grid(cell: Cell) -> list[Setting]:
    """The settings to choose from: the same for every kind of negatives."""
    margins = (DEFAULT_MARGIN,) if cell.idea == DEFAULT.idea else LOSSES[cell.loss][1]
    base, _, variation = cell.dataset.partition("-")
    rates = (VARIED_RATES[base],) if variation else LEARNING_RATES[base]
    return [Setting(*point) for point in product(margins, rates)]


def objective(cell: Cell, margin: float, epoch: int) -> Objective:
    """What a cell minimises in an epoch, counted from 0."""
    if cell.idea == "warm_up" and epoch == 0:
        return _plain(cell.loss, margin)
    if cell.idea == "mixed":
        real, synthetic = _plain(cell.loss, margin), _synthetic(cell, margin)
        return lambda embeddings, labels: (
            (real(embeddings, labels) + synthetic(embeddings, labels)) / 2
        )
    if cell.synthesis == "none":
        return _plain(cell.loss, margin)
    if cell.synthesis in ("hard_mining", "every_positive", "loop_index"):
        return _mined(cell, margin)
    if cell.synthesis == EXPAND:
        loss, expansion = _tuple_loss(cell.loss, margin), EmbeddingExpansion(pairing="all")
        return lambda embeddings, labels: loss(*expansion.expand(embeddings, labels))
    return _synthetic(cell, margin)


def _plain(loss: str, margin: float) -> BaseMetricLossFunction:
    """The loss with its own negatives: HPHN the hardest, the others every one of the batch."""
    if loss == "hphn":
        return HPHNTripletLoss(margin)
    if loss == "n_pair":
        return NPairLoss(l2_reg=margin)
    return _tuple_loss(loss, margin)


def _mined(cell: Cell, margin: float) -> Objective:
    """The loss on the tuples of a miner, all of real points."""
    loss = _tuple_loss(cell.loss, margin)
    miner: BaseMiner
    if cell.synthesis == "loop_index":
        miner = LoOpMiner()
    elif cell.synthesis == "every_positive":
        miner = BatchEasyHardMiner(pos_strategy="all", neg_strategy="hard")
    elif cell.loss in ("hphn", "triplet"):
        miner = BatchHardMiner()
    else:
        miner = MultiSimilarityMiner()
    return lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels))


def _synthetic(cell: Cell, margin: float) -> BaseMetricLossFunction:
    synthesizer = _synthesizer(cell)
    if cell.loss == "hphn":
        return HPHNTripletLoss(margin, synthesizer=synthesizer)
    if cell.loss == "n_pair":
        return NPairLoss(synthesizer=synthesizer, l2_reg=margin)
    return SyntheticLoss(_tuple_loss(cell.loss, margin), synthesizer)


def _synthesizer(cell: Cell) -> Synthesizer:
    pairing = "consecutive" if cell.idea == "consecutive" else "all"
    num_negatives = 4 if cell.idea == "nearest_4" else 1
    if cell.synthesis == "loop":
        return LoOpMiner(pairing=pairing, num_negatives=num_negatives)
    # No point between leaves the ends: of a positive pair the nearest real negative of either.
    n_points = 0 if cell.synthesis == "class_mates" else 2
    return EmbeddingExpansion(n_points, pairing=pairing, num_negatives=num_negatives)


def _tuple_loss(loss: str, margin: float) -> BaseMetricLossFunction:
    """The loss of pytorch-metric-learning that takes tuples."""
    if loss == "hphn":  # on the tuples of a miner HPHN is a triplet loss, a mean over all of them
        return TripletMarginLoss(margin, reducer=MeanReducer())
    if loss == "triplet":
        return TripletMarginLoss(margin)
    if loss == "contrastive":
        return ContrastiveLoss(neg_margin=margin)
    if loss == "multi_similarity":
        return MultiSimilarityLoss(base=margin)
    # PML's NPairsLoss takes no tuples; this is the same formula on those that it is given.
    return NTXentLoss(
        temperature=1.0,
        distance=DotProductSimilarity(normalize_embeddings=False),
        embedding_regularizer=LpRegularizer(power=2),
        embedding_reg_weight=margin,
    )
