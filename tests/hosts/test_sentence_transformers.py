"""Our losses in sentence-transformers: its trainer, its cards, and its losses around ours."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from pytorch_metric_learning import losses
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.losses import (
    AdaptiveLayerLoss,
    BatchHardTripletLoss,
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from loopml import EmbeddingExpansion, HPHNTripletLoss, LoOpMiner, NPairLoss, SyntheticLoss
from loopml.sentence_transformers import MetricLearningLoss

CLASSES = (("red", "green", "blue"), ("one", "two", "three"), ("cat", "dog", "cow"))
TEXTS = [f"{first} {second}" for words in CLASSES for first in words for second in words]
LABELS = torch.arange(len(CLASSES)).repeat_interleave(9)
DIM = 8


def tokenizer() -> Tokenizer:
    """One token a word."""
    words = ["[PAD]", "[UNK]", *(word for words in CLASSES for word in words)]
    vocabulary = {word: number for number, word in enumerate(words)}
    result = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    result.pre_tokenizer = pre_tokenizers.Whitespace()
    return result


@pytest.fixture
def static() -> SentenceTransformer:
    """The mean of the vectors of the words."""
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer(), embedding_dim=DIM)])


@pytest.fixture
def bert(tmp_path: Path) -> SentenceTransformer:
    """Two layers, without dropout."""
    config = BertConfig(
        vocab_size=11,
        hidden_size=DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=DIM,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(), pad_token="[PAD]", unk_token="[UNK]"
    )
    fast.save_pretrained(tmp_path / "bert")
    return SentenceTransformer(modules=[Transformer(str(tmp_path / "bert")), Pooling(DIM)])


def features_of(model: SentenceTransformer) -> dict[str, Tensor]:
    """What the trainer hands to a loss, for all texts."""
    features: dict[str, Tensor] = model.preprocess(TEXTS)
    return features


def embedded(model: SentenceTransformer) -> Tensor:
    embeddings: Tensor = model(features_of(model))["sentence_embedding"]
    return embeddings


def gradients_of(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


def trainer(
    model: SentenceTransformer, loss: nn.Module, folder: Path, **options: Any
) -> SentenceTransformerTrainer:
    """A trainer of a few steps on the CPU."""
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=3,
        per_device_train_batch_size=12,
        learning_rate=0.1,
        batch_sampler=BatchSamplers.GROUP_BY_LABEL,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **options,
    )
    data = Dataset.from_dict({"text": TEXTS, "label": LABELS.tolist()})
    return SentenceTransformerTrainer(model, args, train_dataset=data, loss=loss)


@pytest.mark.parametrize(
    ("loss", "miner"),
    [
        (SyntheticLoss(losses.MultiSimilarityLoss(), LoOpMiner()), None),
        (HPHNTripletLoss(synthesizer=EmbeddingExpansion()), None),
        (losses.TripletMarginLoss(), LoOpMiner()),
    ],
    ids=["synthetic", "hphn", "mined"],
)
def test_loss_is_that_of_the_embeddings(
    static: SentenceTransformer, loss: nn.Module, miner: nn.Module | None
) -> None:
    """In value and in gradient."""
    embeddings = embedded(static)
    tuples = () if miner is None else (miner(embeddings, LABELS),)
    expected = loss(embeddings, LABELS, *tuples)
    result = MetricLearningLoss(static, loss, miner=miner)([features_of(static)], LABELS)
    assert torch.equal(result, expected)
    assert result > 0
    (got,), (wanted,) = gradients_of(static, result), gradients_of(static, expected)
    assert torch.equal(got, wanted)
    assert got.abs().max() > 0


def test_trainer_trains_and_the_card_says_with_what(
    static: SentenceTransformer, tmp_path: Path
) -> None:
    """The name of the loss, its options and its papers; labels come in groups, steps in two."""
    loss = SyntheticLoss(losses.TripletMarginLoss(margin=0.3), LoOpMiner(num_negatives=2))
    wrapped = MetricLearningLoss(static, loss)
    with torch.no_grad():
        before = wrapped([features_of(static)], LABELS)
    trainer(static, wrapped, tmp_path, gradient_accumulation_steps=2).train()
    with torch.no_grad():
        assert wrapped([features_of(static)], LABELS) < before
    static.save_pretrained(str(tmp_path / "saved"))
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "<code>loopml.sentence_transformers.MetricLearningLoss</code> with these" in card
    assert "SyntheticLoss(loss=TripletMarginLoss(margin=0.3, " in card
    assert "synthesizer=LoOpMiner(geometry='auto', pairing='auto', num_negatives=2, " in card
    assert "@inproceedings{vasudeva2021loop," in card
    assert "@misc{musgrave2020pytorch," in card
    assert "ko2020embedding" not in card
    for name in ("MetricLearningLoss", "SyntheticLoss", "TripletMarginLoss"):
        assert f"- loss:{name}\n" in card


@pytest.mark.parametrize(
    ("loss", "miner", "described", "cited"),
    [
        (
            losses.SupConLoss(),
            None,
            "SupConLoss(temperature=0.1, ",
            [],
        ),
        (losses.ContrastiveLoss(), LoOpMiner(), "ContrastiveLoss(pos_margin=0, ", ["loop"]),
        (
            HPHNTripletLoss(soft_margin=True, synthesizer=EmbeddingExpansion(3)),
            None,
            "HPHNTripletLoss(margin=0.2, soft_margin=True, "
            "synthesizer=EmbeddingExpansion(n_points=3, normalize=True, pairing='auto', "
            "num_negatives=1), ",
            ["embedding"],
        ),
        (NPairLoss(), None, "NPairLoss(synthesizer=None, l2_reg=0.0, ", []),
    ],
    ids=["plain", "mined", "expansion", "n_pair"],
)
def test_config_and_citation(
    loss: nn.Module, miner: nn.Module | None, described: str, cited: list[str]
) -> None:
    """They say what is used and nothing else, and a file can hold the config."""
    wrapped = MetricLearningLoss(nn.Identity(), loss, miner=miner)
    config = wrapped.get_config_dict()
    assert json.loads(json.dumps(config)) == config
    assert config["loss"] is not None
    assert config["loss"].startswith(described)
    assert (config["miner"] or "").startswith("LoOpMiner(geometry='auto'" if miner else "")
    found = [key for key in ("loop", "embedding") if f"{key}," in wrapped.citation]
    assert found == cited
    assert "musgrave2020pytorch" in wrapped.citation


def test_matryoshka_adds_the_sizes(static: SentenceTransformer) -> None:
    """Each of the first numbers of every embedding, with tuples of its own."""
    loss = HPHNTripletLoss(synthesizer=LoOpMiner())
    wrapper = MatryoshkaLoss(static, MetricLearningLoss(static, loss), [DIM, 4], [1.0, 0.5])
    result = wrapper([features_of(static)], LABELS)
    embeddings = embedded(static)
    expected = loss(embeddings, LABELS) + 0.5 * loss(embeddings[:, :4], LABELS)
    torch.testing.assert_close(result, expected)


def test_adaptive_layers_adds_the_layers(bert: SentenceTransformer) -> None:
    """Every layer, pooled as the last one."""
    loss = SyntheticLoss(losses.TripletMarginLoss(), LoOpMiner())
    ours = MetricLearningLoss(bert, loss)
    wrapper = AdaptiveLayerLoss(bert, ours, n_layers_per_step=-1, kl_temperature=0.0)
    result = wrapper([features_of(bert)], LABELS)
    inputs = features_of(bert)
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    layers = bert[0].auto_model(**inputs, output_hidden_states=True).hidden_states
    *first, last = [loss(layer.mean(1), LABELS) for layer in layers]  # every text has two words
    torch.testing.assert_close(result, last + sum(first) / len(first))


def test_half_precision_and_checkpointing(bert: SentenceTransformer) -> None:
    """The loss is float32, and that of bfloat16 embeddings; checkpoints change no gradient."""
    loss = MetricLearningLoss(bert, SyntheticLoss(losses.TripletMarginLoss(), LoOpMiner()))
    exact = loss([features_of(bert)], LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = loss([features_of(bert)], LABELS)
    assert result.dtype == torch.float32
    assert 0 < abs(result - exact) < 0.05 * exact
    bert.train()
    forwards = []
    inner = bert[0].auto_model.encoder.layer[0].attention
    inner.register_forward_pre_hook(lambda *_: forwards.append(1))
    before = gradients_of(bert, loss([features_of(bert)], LABELS))
    bert[0].auto_model.activation_checkpointing_enable()
    after = gradients_of(bert, loss([features_of(bert)], LABELS))
    assert len(forwards) == 1 + 2  # the second time it is run again for the gradient
    for got, wanted in zip(after, before, strict=True):
        torch.testing.assert_close(got, wanted)


def test_wrong_batches(static: SentenceTransformer) -> None:
    loss = MetricLearningLoss(static, losses.TripletMarginLoss())
    features = features_of(static)
    with pytest.raises(ValueError, match=r"one column of texts.* got 2 columns"):
        loss([features, features], LABELS)
    with pytest.raises(TypeError, match="labels must be given, one integer per text, got None"):
        loss([features], None)
    with pytest.raises(TypeError, match=r"labels must be integers, got torch.float32; use labels"):
        loss([features], LABELS.float())
    with pytest.raises(ValueError, match=r"labels must have shape \(27,\).* got \(26,\)"):
        loss([features], LABELS[1:])


def test_wrong_losses_and_miners(static: SentenceTransformer, bert: SentenceTransformer) -> None:
    triplet = losses.TripletMarginLoss()
    for other in (BatchHardTripletLoss(static), CachedMultipleNegativesRankingLoss(bert)):
        with pytest.raises(ValueError, match=f"got {type(other).__name__}, which is called with"):
            MetricLearningLoss(static, other)
    with pytest.raises(ValueError, match="the model comes first"):
        MetricLearningLoss(triplet, static)
    with pytest.raises(TypeError, match="got the class TripletMarginLoss itself; call it"):
        MetricLearningLoss(static, losses.TripletMarginLoss)
    with pytest.raises(TypeError, match="miner must be a miner, or None, got str"):
        MetricLearningLoss(static, triplet, miner="hard")
    with pytest.raises(ValueError, match="miner must be None with HPHNTripletLoss"):
        MetricLearningLoss(static, HPHNTripletLoss(), miner=LoOpMiner())
    with pytest.raises(ValueError, match=r"use SyntheticLoss\(TripletMarginLoss\(...\), Embed"):
        MetricLearningLoss(static, triplet, miner=EmbeddingExpansion())
