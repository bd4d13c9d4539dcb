"""sentence-transformers: a loss of labels for its trainer. This module needs none of its names."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from torch import Tensor, nn

from loopml._checks import check_labels, kind_of
from loopml.expansion import EmbeddingExpansion
from loopml.losses.mined import MiningLoss
from loopml.miners import LoOpMiner

_EXPANSION = """
@inproceedings{ko2020embedding,
    title={Embedding Expansion: Augmentation in Embedding Space for Deep Metric Learning},
    author={Ko, Byungsoo and Gu, Geonmo},
    booktitle={Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
    year={2020},
    eprint={2003.02546},
    archivePrefix={arXiv}
}
"""
_LOOP = """
@inproceedings{vasudeva2021loop,
    title={LoOp: Looking for Optimal Hard Negative Embeddings for Deep Metric Learning},
    author={Vasudeva, Bhavya and Deora, Puneesh and Bhattacharya, Saumik and Pal, Umapada and
            Chanda, Sukalpa},
    booktitle={Proceedings of the IEEE/CVF International Conference on Computer Vision},
    year={2021},
    eprint={2108.09335},
    archivePrefix={arXiv}
}
"""
_HOST = """
@misc{musgrave2020pytorch,
    title={PyTorch Metric Learning},
    author={Musgrave, Kevin and Belongie, Serge and Lim, Ser-Nam},
    year={2020},
    eprint={2008.09164},
    archivePrefix={arXiv}
}
"""


class MetricLearningLoss(nn.Module):
    """A loss of embeddings and labels, as a loss for the trainer of sentence-transformers.

    The data set has one column of texts and a column of integer labels. The trainer should draw
    several texts of several labels, as ``BatchSamplers.GROUP_BY_LABEL`` does from release 5.3 on:

    .. code-block:: python

        loss = MetricLearningLoss(model, SyntheticLoss(MultiSimilarityLoss(), LoOpMiner()))
        args = SentenceTransformerTrainingArguments(
            per_device_train_batch_size=64, batch_sampler=BatchSamplers.GROUP_BY_LABEL
        )
        SentenceTransformerTrainer(model, args, train_dataset=texts, loss=loss).train()

    - Memory: a batch is embedded at once, with its graph. There is no gradient caching as in
      ``CachedMultipleNegativesRankingLoss``, and such losses are refused as ``loss``. To save
      memory use ``gradient_checkpointing``.
    - ``gradient_accumulation_steps``: tuples are mined within one batch of the device, not
      within all batches that are accumulated.
    - Several devices: each device mines its own batch. For the joined batch give
      ``DistributedLossWrapper(loss)`` of pytorch-metric-learning in place of the loss. (This has
      not been run on several devices.)
    - ``MatryoshkaLoss`` and ``AdaptiveLayerLoss`` take it as their loss. Each size and each
      layer then has tuples of its own.

    Args:
        model: the ``SentenceTransformer`` that is trained.
        loss: a loss of ``loopml`` or of pytorch-metric-learning. It is called with embeddings
            (n, d) and labels (n,). If it has weights, they are trained too.
        miner: a miner whose tuples the loss gets as its third argument, such as ``LoOpMiner()`` for
            ``TripletMarginLoss()``. It is called with embeddings and labels. Default: the loss
            finds its own tuples.

    Raises:
        TypeError: ``loss`` or ``miner`` is no module.
        ValueError: ``loss`` is a loss of sentence-transformers, which takes no embeddings. Or
            ``miner`` is one that the loss would ignore, or that makes no tuples of real rows.

    Gradient:
        The gradient of the loss.

    Precision:
        The precision of the loss. The losses of ``loopml`` compute embeddings of half precision in
        float32, under ``bf16=True`` and ``fp16=True`` too.

    Source:
        The source of the loss. :attr:`citation` names it.

    Example:
        >>> import torch
        >>> from loopml import LoOpMiner
        >>> from loopml.sentence_transformers import MetricLearningLoss
        >>> from pytorch_metric_learning.losses import TripletMarginLoss
        >>> class Model(torch.nn.Module):  # in the place of a SentenceTransformer
        ...     def forward(self, features):
        ...         return {"sentence_embedding": features["input_ids"].float()}
        >>> loss_fn = MetricLearningLoss(Model(), TripletMarginLoss(margin=1.0), miner=LoOpMiner())
        >>> features = {"input_ids": torch.tensor([[2, 0], [2, 1], [0, 3], [1, 2]])}
        >>> loss_fn([features], torch.tensor([0, 0, 1, 1]))
        tensor(0.6175)
        >>> loss_fn.get_config_dict()["miner"][:47]
        "LoOpMiner(geometry='auto', pairing='auto', num_"
    """

    def __init__(
        self, model: nn.Module, loss: nn.Module, *, miner: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = _check_loss(loss)
        self.miner = _check_miner(miner, loss)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            sentence_features: one dict of tokens, for the one column of texts.
            labels: (n,) integers.

        Returns:
            What the loss returns, by default a scalar.

        Raises:
            ValueError: there are several columns, or not one label for each text.
            TypeError: there are no labels, or they are no integers.
        """
        columns = list(sentence_features)
        if len(columns) != 1:
            raise ValueError(
                "sentence_features must be of one column of texts, since each text needs a label "
                f"of its own, got {len(columns)} columns; use "
                'dataset.select_columns(["text", "label"]) with the names of yours, and for pairs '
                "put both texts into one column, with the same label"
            )
        if labels is None:
            raise TypeError(
                "labels must be given, one integer per text, got None; give the dataset a column "
                '"label" of integers'
            )
        embeddings = self.model(columns[0])["sentence_embedding"]
        labels = check_labels("labels", labels, "the embeddings", len(embeddings))
        tuples = () if self.miner is None else (self.miner(embeddings, labels),)
        result: Tensor = self.loss(embeddings, labels, *tuples)
        return result

    def get_config_dict(self) -> dict[str, str | None]:
        """The loss and the miner with their options, as the card of the model shows them."""
        return {
            "loss": _described(self.loss),
            "miner": None if self.miner is None else _described(self.miner),
        }

    @property
    def citation(self) -> str:
        """The papers of what is used, in BibTeX, as the card of the model shows them."""
        parts = [part for part in (self.loss, self.miner) if part is not None]
        used = {type(module) for part in parts for module in part.modules()}
        cited = ((LoOpMiner, _LOOP), (EmbeddingExpansion, _EXPANSION))
        return "".join(text for kind, text in cited if kind in used) + _HOST


def _check_loss(loss: object) -> nn.Module:
    """Return ``loss`` if it is a module that can be called with embeddings."""
    if not isinstance(loss, nn.Module):
        raise TypeError(
            "loss must be a loss of loopml or pytorch_metric_learning, called with embeddings and "
            f"labels, got {kind_of(loss)}"
        )
    if hasattr(loss, "encode"):
        raise ValueError(
            f"loss must be called with embeddings and labels, got the model {kind_of(loss)}; "
            "the model comes first: MetricLearningLoss(model, loss)"
        )
    if "sentence_features" in inspect.signature(loss.forward).parameters:
        raise ValueError(
            f"loss must be called with embeddings and labels, got {kind_of(loss)}, which is called "
            "with texts; give that one to the trainer itself"
        )
    return loss


def _check_miner(miner: object, loss: nn.Module) -> nn.Module | None:
    """Return ``miner`` if it is None or a module whose tuples ``loss`` reads."""
    if miner is None:
        return None
    if not isinstance(miner, nn.Module):
        raise TypeError(f"miner must be a miner, or None, got {kind_of(miner)}")
    if isinstance(loss, MiningLoss):
        raise ValueError(
            f"miner must be None with {kind_of(loss)}, which mines for itself, got "
            f"{kind_of(miner)}; leave it out, or use a loss of pytorch_metric_learning"
        )
    if isinstance(miner, EmbeddingExpansion):
        raise ValueError(
            "miner must make tuples of real rows, got EmbeddingExpansion; use "
            f"SyntheticLoss({kind_of(loss)}(...), EmbeddingExpansion(...)) as the loss"
        )
    return miner


def _described(value: object) -> str:
    """A call that makes such a module, of the arguments that it keeps as attributes.

    Its own are all there; of those that it hands to a base, modules and what is no default.
    """
    if not isinstance(value, nn.Module):
        return repr(value)
    options: dict[str, str] = {}
    kinds = type(value).__mro__
    for kind in kinds[: kinds.index(nn.Module)]:
        if "__init__" not in vars(kind):  # it hands all on
            continue
        parameters = inspect.signature(kind).parameters.values()
        for parameter in parameters:
            option = getattr(value, parameter.name, parameter.empty)
            plain = isinstance(option, (int, float, str)) or option is None
            own = kind is type(value) or parameter.default not in (None, option)
            if isinstance(option, nn.Module) or (plain and own):
                options.setdefault(parameter.name, _described(option))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return f"{type(value).__name__}({', '.join(f'{k}={v}' for k, v in options.items())})"
