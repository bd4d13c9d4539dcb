"""sentence-transformers with a loss on synthetic negatives, on the names of Unicode characters.

A text is the name of a character, such as "GREEK SMALL LETTER ALPHA WITH TONOS". Its class is the
letter. The model takes the mean of one vector for each word. It has to learn that marks do not
count. Put your own model in its place. Needs `pip install "sentence-transformers[train]"`.

    python examples/sentence_transformers_trainer.py --steps 200
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from datasets import Dataset
from pytorch_metric_learning.losses import MultiSimilarityLoss
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

from loopml import LoOpMiner, SyntheticLoss
from loopml.evaluation import RetrievalAccuracy
from loopml.sentence_transformers import MetricLearningLoss


def names_of_letters() -> list[dict[str, str | int]]:
    """The names of the characters of each letter that has four or more, with its number."""
    names = defaultdict(list)
    for character in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(character) in ("Lu", "Ll"):
            letter = unicodedata.normalize("NFD", character)[0].lower()
            names[letter].append(unicodedata.name(character))
    kept = [names[letter] for letter in sorted(names) if len(names[letter]) >= 4]
    return [{"text": text, "label": label} for label, texts in enumerate(kept) for text in texts]


def make_model(texts: Iterable[str]) -> SentenceTransformer:
    """A vector for each word of the texts."""
    words = sorted({word for text in texts for word in text.split()})
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=64)])


def recall(model: SentenceTransformer, data: Dataset) -> float:
    """Recall@1, each text in turn the query and all others the gallery."""
    accuracy = RetrievalAccuracy(recall_at=(1,), include=("recall_at_1",))
    embeddings = torch.from_numpy(model.encode(data["text"]))
    return accuracy.get_accuracy(embeddings, torch.tensor(data["label"]))["recall_at_1"]


def main(argv: Sequence[str] | None = None) -> None:
    """Train for some steps on half of the letters, and evaluate on the other half."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    data = Dataset.from_list(names_of_letters())
    train, test = (data.filter(lambda row, odd=odd: row["label"] % 2 == odd) for odd in (0, 1))
    model = make_model(data["text"])
    loss = MetricLearningLoss(model, SyntheticLoss(MultiSimilarityLoss(), LoOpMiner()))
    before = recall(model, test)
    with tempfile.TemporaryDirectory() as folder:
        args = SentenceTransformerTrainingArguments(
            folder,
            max_steps=options.steps,
            per_device_train_batch_size=64,
            learning_rate=1e-2,
            batch_sampler=BatchSamplers.GROUP_BY_LABEL,
            logging_steps=max(1, options.steps // 10),
            save_strategy="no",
            disable_tqdm=True,
        )
        SentenceTransformerTrainer(model, args, train_dataset=train, loss=loss).train()
    print(f"Recall@1 on unseen letters: {before:.3f} before, {recall(model, test):.3f} after")


if __name__ == "__main__":
    main()
