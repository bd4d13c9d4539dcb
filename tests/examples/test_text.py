"""The names of emoji, made small here or as shipped: the data, a layer on them, and an encoder."""

import csv
import json
import lzma
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from examples.emoji import dataset as emoji
from examples.text import build_names, dataset, finetune
from examples.text import train as train_text
from tests.examples.npm_packages import pack

EMOJI = {  # code points: group, subgroup
    "1F600": (0, 0),
    "2764-FE0F": (0, 2),
    "1F43B": (3, 1),
    "1F3C1": (9, 3),  # a flag
}
NAMES = {  # the brace is no emoji
    "en": {"{": "brace", "🐻": "bear", "❤": "red heart", "😀": "grinning face", "🏁": "flag"},
    "de": {"🐻": "Bear", "❤": "rotes Herz", "😀": "grinsendes Gesicht"},
    "fr": {"🐻": "ours", "❤": "cœur rouge", "😀": "red heart"},
    "en-GB": {"😀": "smiling face"},  # only what differs
    "new": None,
}


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """The two packages, with four emoji and three languages."""
    data = [
        {"hexcode": codes, "group": group, "subgroup": subgroup, "order": order}
        for order, (codes, (group, subgroup)) in enumerate(EMOJI.items())
    ]
    groups = {"subgroups": {"0": "face", "1": "animal", "2": "heart", "3": "rest"}}
    members = {"en/data.json": data, "meta/groups.json": groups, "LICENSE": "MIT"}
    pack(tmp_path, emoji.NAMES, members)
    annotations: dict[str, Any] = {"LICENSE": "Unicode", "package.json": {}}
    for language, names in NAMES.items():
        entries = {character: {"tts": [name]} for character, name in (names or {}).items()}
        content = {"identity": {}} if names is None else {"annotations": entries}
        path = f"annotations/{language}/annotations.json"
        annotations[path] = {"annotations": content}
    pack(tmp_path, build_names.ANNOTATIONS, annotations)
    return tmp_path


def test_the_file_is_what_the_packages_say(packages: Path) -> None:
    path = build_names.build(packages, packages / "out")
    content = json.loads(lzma.decompress(path.read_bytes()))
    assert content["characters"] == ["😀", "❤", "🐻"]  # in the order of Unicode, without the flag
    assert content["subgroups"] == [0, 2, 1]
    assert content["subgroup_names"] == ["face", "animal", "heart", "rest"]
    assert list(content["names"]) == ["de", "en", "fr"]
    assert content["names"]["en"] == ["grinning face", "red heart", "bear"]
    written = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    assert written["LICENSE-CLDR"] == b"Unicode"
    assert written["LICENSE-EMOJIBASE"] == b"MIT"
    build_names.build(packages, path.parent)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == written


def test_a_name_counts_once_in_a_class_and_stays_in_two(packages: Path) -> None:
    path = build_names.build(packages, packages / "out")
    train = dataset.load("train", ("en", "de", "fr"), path)
    assert train.characters == ("😀", "❤")
    assert train.texts == (
        *("grinning face", "grinsendes Gesicht", "red heart"),
        *("red heart", "rotes Herz", "cœur rouge"),
    )
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.subgroups.tolist() == [0, 0, 0, 2, 2, 2]
    assert train.languages.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.shared_names(train) == {"red heart": (0, 1)}
    assert dataset.describe(train) == (
        "6 names of 2 emoji in 2 subgroups and 3 languages; 1 names belong to several emoji"
    )
    # The first language that was asked for keeps the name that two have.
    assert dataset.load("test", ("en", "de", "fr"), path).texts == ("bear", "ours")
    assert dataset.load("test", ("fr", "de", "en"), path).texts == ("ours", "Bear")
    assert dataset.load("test", ("fr", "de", "en"), path).languages.tolist() == [0, 1]


def test_an_emoji_without_a_name_leaves_no_gap(tmp_path: Path) -> None:
    path = tmp_path / "names.json.xz"
    content = {
        "characters": ["a", "b", "c"],
        "subgroups": [0, 0, 1],
        "subgroup_names": ["x", "y"],
        "names": {"en": [None, "bear", "fox"]},
    }
    path.write_bytes(lzma.compress(json.dumps(content).encode()))
    everything = dataset.load("all", ("en",), path)
    assert everything.characters == ("b", "c")
    assert everything.labels.tolist() == [0, 1]
    nothing = dataset.load("all", (), path)
    assert (nothing.texts, nothing.characters, len(nothing.labels)) == ((), (), 0)


def test_the_shipped_names_are_split_as_the_images_are(tmp_path: Path) -> None:
    train, test, everything = (dataset.load(split) for split in dataset.SPLITS)
    assert (len(train.characters), len(test.characters)) == (820, 760)
    assert not set(train.characters) & set(test.characters)
    assert set(train.characters) | set(test.characters) == set(everything.characters)
    assert train.subgroup_names[0] == "face-smiling"
    assert "pie" in dataset.shared_names(everything)
    for names in (train, test, everything):
        assert names.labels.unique().tolist() == list(range(len(names.characters)))
        assert names.languages.unique().tolist() == list(range(len(dataset.LATIN)))
    # Images of as many subgroups, in the file of `emoji`:
    subgroups = everything.subgroups.numpy()
    columns = {"features": np.zeros((len(subgroups), 1), np.float32), "vendor": subgroups}
    names = {"names": np.array(["?"]), "vendor_names": np.array(["?"]), "name": 0 * subgroups}
    numbered = {"subgroup": subgroups, "subgroup_names": np.array(everything.subgroup_names)}
    np.savez(tmp_path / "features.npz", **columns, **names, **numbered)
    for split, names_of_split in (("train", train), ("test", test)):
        images = emoji.load(split, tmp_path)
        assert torch.equal(images.subgroups.unique(), names_of_split.subgroups.unique())


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split must be one of train, test, all; got 'val'"):
        dataset.load("val")
    with pytest.raises(ValueError, match=r"languages must be some of .*, en, .*; got xx, yy"):
        dataset.load("train", ("xx", "en", "yy"))
    with pytest.raises(FileNotFoundError, match=r"python -m examples\.text\.dataset"):
        dataset.load_features("train", tmp_path)
    np.savez(tmp_path / "features.npz", features=np.zeros(3), digest=np.array("other"))
    with pytest.raises(ValueError, match="is of other names; delete it and build it again"):
        dataset.load_features("train", tmp_path)


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eighty emoji in five languages in the place of those that are shipped."""
    path = tmp_path / "names.json.xz"
    languages = tuple("vwxyz")
    content = {
        "characters": [f"emoji {i}" for i in range(80)],
        "subgroups": [i % 2 for i in range(80)],
        "subgroup_names": ["even", "odd"],
        "names": {code: [f"{code} {i}" for i in range(80)] for code in languages},
    }
    path.write_bytes(lzma.compress(json.dumps(content).encode()))
    load = dataset.load
    monkeypatch.setattr(dataset, "load", lambda split: load(split, languages, path))


@pytest.mark.usefixtures("few")
def test_features_are_built_once_and_lie_beside_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lengths(_: object, texts: tuple[str, ...], progress: bool) -> torch.Tensor:
        return torch.tensor([[len(text)] for text in texts]).float()

    monkeypatch.setattr(dataset, "encoder", lambda: None)
    monkeypatch.setattr(dataset, "embed", lengths)
    path = dataset.build(tmp_path)
    written = path.stat().st_mtime_ns
    assert dataset.build(tmp_path).stat().st_mtime_ns == written
    for split in dataset.SPLITS:
        features = dataset.load_features(split, tmp_path)
        assert features.dtype == torch.float32
        expected = [[float(len(text))] for text in dataset.load(split).texts]
        assert features.tolist() == expected


@pytest.mark.usefixtures("few")
def test_a_layer_learns_from_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names that differ along few of many noisy columns: a layer finds these on unseen emoji."""
    names = dataset.load("all")
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(len(names.characters), 10))[names.labels.numpy()]
    noise = 2 * rng.normal(size=(len(names.texts), 30))
    features = np.hstack([signal, noise]).astype(np.float32)
    digest = np.array(dataset._digest(names.texts))
    np.savez(tmp_path / "features.npz", features=features, digest=digest)
    arguments = ["--cache", str(tmp_path), "--seeds", "0", "1", "--learning-rate", "0.03"]
    train_text.main([*arguments, "--epochs", "30", "--losses", "hphn", "triplet-loop"])
    first, *lines = capsys.readouterr().out.splitlines()
    number = r"recall_at_1 (\d+\.\d)"
    as_they_are = re.fullmatch(rf"features as they are +{number} +map_at_r \d+\.\d", first)
    assert as_they_are
    assert [line.split()[0] for line in lines] == ["hphn", "triplet-loop"]
    for line in lines:
        learnt = re.search(rf"{number} ± \d+\.\d  map_at_r \d+\.\d ± \d+\.\d  \d+ s$", line)
        assert learnt
        assert float(learnt[1]) > float(as_they_are[1]) + 10


@pytest.fixture
def encoder(tmp_path: Path) -> Callable[[], SentenceTransformer]:
    """An encoder of two small layers that reads letters, with dropout; the same at each call."""
    letters = ["[PAD]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz"]
    tokens = Tokenizer(models.WordLevel({x: i for i, x in enumerate(letters)}, unk_token="[UNK]"))
    tokens.normalizer = normalizers.BertNormalizer(strip_accents=True, lowercase=True)
    tokens.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="[PAD]", unk_token="[UNK]")
    path = tmp_path / "bert"
    fast.save_pretrained(path)
    config = BertConfig(
        vocab_size=len(letters),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(path)

    def build() -> SentenceTransformer:
        bert = Transformer(str(path), max_seq_length=24)
        return SentenceTransformer(modules=[bert, Pooling(32), Normalize()], device="cpu")

    return build


@pytest.fixture
def options(tmp_path: Path) -> finetune.Options:
    """A training of seconds."""
    return finetune.Options(
        steps=5,
        batch_size=8,
        classes=6,
        eval_every=2,
        eval_classes=12,
        learning_rate=1e-2,
        output=tmp_path / "runs",
    )


def test_a_stopped_training_goes_on_to_the_same_weights(
    encoder: Callable[[], SentenceTransformer],
    options: finetune.Options,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = finetune.train(options, encoder())
    stopped = replace(options, output=options.output / "stopped", resume=True)

    def stop(_: finetune.Clock, __: object, state: Any, *___: object, **____: object) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finetune.Clock, "on_step_end", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune.train(stopped, encoder())
    assert Path(str(finetune.last_checkpoint(stopped.folder))).name == "checkpoint-2"
    resumed = finetune.train(stopped, encoder())

    weights, scores = [], []
    for run in (options, stopped):
        weights.append(load_file(run.folder / "checkpoint-5" / "model.safetensors"))
        scores.append((run.folder / "scores.csv").read_text())
    begun = load_file(options.output.parent / "bert" / "model.safetensors")
    assert weights[0].keys() == begun.keys()
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
    assert any(not torch.equal(weight, begun[name]) for name, weight in weights[0].items())
    assert scores[0] == scores[1]
    assert [row.split(",")[0] for row in scores[0].splitlines()] == ["step", "0", "2", "4", "5"]

    columns = [name for name in whole if re.match("before|best|last", name)]
    assert len(columns) == 9
    assert [whole[name] for name in columns] == [resumed[name] for name in columns]
    (row,) = csv.DictReader((options.output / "results.csv").read_text().splitlines())
    assert row.keys() == whole.keys()
    assert (options.folder / "neighbours.png").stat().st_size > 10_000
    # What is done is not done again, and what was begun otherwise is not gone on with.
    assert finetune.train(stopped) == resumed
    with pytest.raises(ValueError, match=r"was begun with steps=5; give the same options"):
        finetune.train(replace(stopped, steps=6))


@pytest.mark.parametrize("name", finetune.LOSSES)
def test_every_loss_takes_a_batch(name: str, encoder: Callable[[], SentenceTransformer]) -> None:
    model = encoder()
    loss = finetune.make_loss(name, 0.5, model)
    features = model.preprocess(["bear", "ours", "fox", "renard", "owl", "hibou"])
    value = loss([features], torch.tensor([0, 0, 1, 1, 2, 2]))
    value.backward()
    assert value.item() > 0
    assert all(
        parameter.grad.isfinite().all()
        for parameter in model[0].parameters()
        if parameter.grad is not None
    )
    assert sum(p.grad.abs().sum() for p in model[0].parameters() if p.grad is not None) > 0


def test_pairs_are_the_two_names_of_a_class(encoder: Callable[[], SentenceTransformer]) -> None:
    model = encoder().eval()
    loss = MultipleNegativesRankingLoss(model)
    first, second = ["bear", "fox", "owl"], ["ours", "renard", "hibou"]
    expected = loss([model.preprocess(first), model.preprocess(second)], torch.empty(0))
    mixed = model.preprocess([name for pair in zip(first, second, strict=True) for name in pair])
    pairs = finetune.FirstAndSecond(loss)
    found = pairs([mixed], torch.tensor([0, 0, 1, 1, 2, 2]))
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="labels must come in pairs"):
        pairs([mixed], torch.tensor([0, 1, 1, 2, 2, 0]))


def test_few_classes_are_of_the_seed(
    encoder: Callable[[], SentenceTransformer], options: finetune.Options
) -> None:
    unseen = finetune.some_classes(dataset.load("test"), 12)
    names = dataset.load("train")
    found = []
    for seed in (0, 0, 1):
        trainer, _ = finetune.make_trainer(encoder(), replace(options, seed=seed), unseen)
        data = trainer.train_dataset
        labels = torch.tensor(data["label"])
        assert len(labels.unique()) == options.classes
        rows = torch.isin(names.labels, labels).nonzero().squeeze(1).tolist()
        assert list(data["text"]) == [names.texts[row] for row in rows]
        found.append(labels.tolist())
        batch = next(iter(trainer.get_train_dataloader()))["label"]
        assert torch.equal(batch[0::2], batch[1::2])  # what `st-mnrl` rests on
    assert found[0] == found[1] != found[2]


def test_the_classes_of_the_queries_are_evaluated() -> None:
    test = dataset.load("test")
    some = finetune.some_classes(test, 40)
    assert len(some.characters) == 40
    assert some.labels.unique().tolist() == list(range(40))
    assert set(finetune.QUERIES) <= set(some.texts)
    rows = [test.characters.index(character) for character in some.characters]
    assert torch.equal(some.subgroups, test.subgroups[torch.isin(test.labels, torch.tensor(rows))])
    assert finetune.some_classes(test, 0) is test


def test_recall_by_language() -> None:
    """Two emoji in two languages: a French query finds the English name, and not the other way."""
    names = dataset.Names(
        texts=("bear", "ours", "fox", "renard", "zorro"),
        labels=torch.tensor([0, 0, 1, 1, 1]),
        subgroups=torch.zeros(5, dtype=torch.int64),
        languages=torch.tensor([0, 1, 0, 1, 2]),
        characters=("🐻", "🦊"),
        subgroup_names=("animal",),
        language_names=("en", "fr", "es", "de"),
    )
    apart = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1], [0, 1]])
    turned = apart[[0, 3, 2, 3, 4]]  # the French bear where the French fox is
    rows = finetune.by_language(names, apart, turned)
    found = {(row["query"], row["gallery"]): list(row.values())[2:] for row in rows}
    assert found == {
        ("fr", "en"): [2, 1.0, 0.5],
        ("es", "en"): [1, 1.0, 1.0],
        ("en", "fr"): [2, 1.0, 0.5],
        ("es", "fr"): [1, 1.0, 0.0],
        ("en", "es"): [1, 1.0, 1.0],
        ("fr", "es"): [1, 1.0, 1.0],
    }


def test_the_command_line_has_every_option() -> None:
    assert finetune.parse([]) == finetune.Options()
    given = finetune.parse(["--loss", "st-mnrl", "--margin", "0.5", "--classes", "9", "--resume"])
    assert given == finetune.Options(loss="st-mnrl", margin=0.5, classes=9, resume=True)
