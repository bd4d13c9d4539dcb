"""Fine-tune a whole text encoder on names of emoji, with the trainer of sentence-transformers.

    pip install -e ".[text]"
    python -m examples.text.finetune                            # some minutes on one core
    python -m examples.text.finetune --loss st-batch-hard       # a loss of sentence-transformers
    python -m examples.text.finetune --classes 64 --steps 300   # few classes: it overfits
    python -m examples.text.finetune --resume                   # go on where a run was stopped

The encoder is all-MiniLM-L6-v2, with 23 million weights. `BatchSamplers.GROUP_BY_LABEL` draws the
batches: it goes around the classes in a new order each time and takes two names of each, so a batch
of 64 has two names of each of 32 emoji. A class comes twice where one round ends and the next
begins, and more often if there are fewer than 32. Every loss gets the same batches:
`st-mnrl`, which wants pairs, takes the two names of an emoji as anchor and positive.

Every few steps the encoder is scored on names of emoji of Unicode subgroups that training never
saw. `best` in the results is the best Recall@1 of these evaluations, chosen on the very names that
it is of; `last` is chosen by nobody.

The output folder receives `results.csv`, a row for each run, and for each run a folder with
`scores.csv` (a row for each evaluation), `languages.csv` (Recall@1 by the language of the query and
that of the gallery, before and after), `neighbours.png` (what is found for some names, before and
after) and the last checkpoint. With the same `--threads` a resumed run on the CPU equals an
uninterrupted one bit for bit.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

import torch
from datasets import Dataset
from matplotlib.figure import Figure
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from sentence_transformers.sentence_transformer.losses import (
    BatchAllTripletLoss,
    BatchHardTripletLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import TrainerCallback, set_seed

from benchmarks.provenance import commit_and_machine, now
from examples.kit.saving import replacing
from examples.text import dataset
from examples.text.dataset import Names, embed
from examples.text.objectives import OBJECTIVES
from examples.text.train import retrieval
from loopml.sentence_transformers import MetricLearningLoss

Row = dict[str, Any]

# Names of unseen emoji whose neighbours are drawn.
QUERIES = ("butterfly", "papillon", "Schildkröte", "zanahoria", "klucz", "örümcek", "letto")
NEIGHBOURS = 5
RIGHT, WRONG = "#0072B2", "#999999"


class FirstAndSecond(nn.Module):
    """A loss of anchors and positives, for batches whose rows 2 i and 2 i + 1 are of one class."""

    def __init__(self, loss: MultipleNegativesRankingLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """The loss of a batch of one column of texts."""
        (features,) = sentence_features
        if not torch.equal(labels[0::2], labels[1::2]):
            raise ValueError("labels must come in pairs; use BatchSamplers.GROUP_BY_LABEL")
        embeddings = self.loss.model(features)["sentence_embedding"]
        pairs = [embeddings[0::2], embeddings[1::2]]
        return self.loss.compute_loss_from_embeddings(pairs, labels)


# Of sentence-transformers, by margin; these triplet losses measure embeddings of length 1 here,
# since the encoder ends in a normalisation.
THEIRS: Mapping[str, Callable[[SentenceTransformer, float], nn.Module]] = MappingProxyType(
    {
        "st-batch-hard": lambda model, margin: BatchHardTripletLoss(model, margin=margin),
        "st-batch-all": lambda model, margin: BatchAllTripletLoss(model, margin=margin),
        "st-mnrl": lambda model, _: FirstAndSecond(MultipleNegativesRankingLoss(model)),
    }
)
LOSSES = (*OBJECTIVES, *THEIRS)


@dataclass(frozen=True)
class Options:
    """What a training is given; the command line has the same names.

    Attributes:
        loss: one of `LOSSES`.
        margin: of the loss; "st-mnrl" has none.
        steps: of the optimizer.
        batch_size: names in a batch, an even number of at least 4.
        classes: how many emoji to train on, drawn with the seed; 0 for all 820.
        seed: of the classes, the batches and the dropout.
        learning_rate: at its highest, after a tenth of the steps; from there it falls to 0.
        eval_every: steps between evaluations; the last step is always evaluated.
        eval_classes: how many unseen emoji to evaluate on; 0 for all 760.
        threads: of the CPU.
        output: the folder of the results.
        resume: go on from the last checkpoint of this run, if there is one.
    """

    loss: str = "triplet-loop-mined"
    margin: float = 0.8
    steps: int = 150
    batch_size: int = 64
    classes: int = 0
    seed: int = 0
    learning_rate: float = 2e-4
    eval_every: int = 25
    eval_classes: int = 100
    threads: int = 1
    output: Path = Path("runs/text")
    resume: bool = False

    @property
    def folder(self) -> Path:
        """Where the files of this run are."""
        classes = self.classes or "all"
        return self.output / f"{self.loss}-margin-{self.margin}-classes-{classes}-{self.seed}"

    @property
    def recipe(self) -> Row:
        """What the result depends on."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in ("threads", "output", "resume")
        }


def main(argv: Sequence[str] | None = None) -> None:
    """Train once and print what came of it."""
    options = parse(argv)
    result = train(options)
    print(report(result))
    print(f"Files: {options.folder}, {options.output / 'results.csv'}")


def parse(argv: Sequence[str] | None) -> Options:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    described = (Options.__doc__ or "").split("Attributes:\n")[1].splitlines()
    meanings = dict(line.strip().split(": ", 1) for line in described if ": " in line)
    for name, default in asdict(Options()).items():
        flag, meaning = f"--{name.replace('_', '-')}", meanings[name]
        if default is False:
            parser.add_argument(flag, action="store_true", help=meaning)
        else:
            choices = LOSSES if name == "loss" else None
            parser.add_argument(
                flag, type=type(default), default=default, choices=choices, help=meaning
            )
    return Options(**vars(parser.parse_args(argv)))


def train(options: Options, model: SentenceTransformer | None = None) -> Row:
    """Train one encoder, or what is left of it, and write its files.

    Args:
        options: which training.
        model: the encoder to begin with, which is trained in place; default: all-MiniLM-L6-v2.

    Returns:
        The row of `results.csv`. Peak memory is that of the process, so of all it has trained.

    Raises:
        ValueError: if the run to resume was begun with other options.
    """
    torch.set_num_threads(options.threads)
    folder = options.folder
    if not options.resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    _check_recipe(options)
    done = folder / "result.json"
    if done.exists():
        finished: Row = json.loads(done.read_text())
        return finished

    set_seed(options.seed)
    model = dataset.encoder() if model is None else model
    unseen = some_classes(dataset.load("test"), options.eval_classes)
    before = embed(model, unseen.texts)
    trainer, clock = make_trainer(model, options, unseen)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    after = embed(model, unseen.texts)

    scores = [{"step": 0, **retrieval(before, unseen.labels)}, *evaluations(trainer)]
    write_csv(folder / "scores.csv", scores)
    languages = by_language(unseen, before, after)
    write_csv(folder / "languages.csv", languages)
    draw(unseen, before, after).savefig(folder / "neighbours.png", dpi=150)
    result = summary(options, scores, clock)
    done.write_text(json.dumps(result, indent=2) + "\n")
    append_csv(options.output / "results.csv", result)
    return result


def make_trainer(
    model: SentenceTransformer, options: Options, unseen: Names
) -> tuple[SentenceTransformerTrainer, Clock]:
    """The trainer of sentence-transformers with one of the losses, and the clock of its steps."""
    names = dataset.load("train")
    labels = names.labels
    if options.classes:
        generator = torch.Generator().manual_seed(options.seed)
        chosen = torch.randperm(len(names.characters), generator=generator)[: options.classes]
        labels = torch.where(torch.isin(labels, chosen), labels, -1)
    rows = (labels >= 0).nonzero().squeeze(1).tolist()
    texts = Dataset.from_dict(
        {"text": [names.texts[row] for row in rows], "label": labels[rows].tolist()}
    )
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(options.folder),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        batch_sampler=BatchSamplers.GROUP_BY_LABEL,
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        learning_rate=options.learning_rate,
        warmup_steps=options.steps // 10,
        seed=options.seed,
        eval_strategy="steps",
        eval_steps=options.eval_every,
        save_strategy="steps",
        save_steps=options.eval_every,
        save_total_limit=1,
        logging_steps=options.eval_every,
        report_to="none",
    )
    clock = Clock()
    trainer = SentenceTransformerTrainer(
        model,
        arguments,
        train_dataset=texts,
        loss=make_loss(options.loss, options.margin, model),
        evaluator=UnseenNames(unseen),
        callbacks=[clock, AtTheEnd()],
    )
    return trainer, clock


def make_loss(name: str, margin: float, model: SentenceTransformer) -> nn.Module:
    """A loss as the trainer calls it, with tokens and labels."""
    if name in THEIRS:
        return THEIRS[name](model, margin)
    loss, miner = OBJECTIVES[name](margin)
    return MetricLearningLoss(model, loss, miner=miner)


class UnseenNames(SentenceEvaluator):
    """Recall@1 and MAP@R of names, each in turn the query and all others the gallery."""

    def __init__(self, names: Names) -> None:
        super().__init__()
        self.names = names
        self.primary_metric = "recall_at_1"

    def __call__(
        self,
        model: SentenceTransformer,
        output_path: str | None = None,
        epoch: float = -1,
        steps: int = -1,
    ) -> dict[str, float]:
        """The scores of `model`; the rest is not used."""
        return retrieval(embed(model, self.names.texts), self.names.labels)


class Clock(TrainerCallback):
    """How long each step took, of the wall and of the CPU, without reading and evaluation."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []
        self.start = (0.0, 0.0)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.start = (time.perf_counter(), time.process_time())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        wall, cpu = self.start
        self.steps.append((time.perf_counter() - wall, time.process_time() - cpu))


class AtTheEnd(TrainerCallback):
    """Evaluate and save after the last step, if it is between two evaluations."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for it."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True


def some_classes(names: Names, count: int) -> Names:
    """The names of `count` emoji, the same ones always, those of `QUERIES` among them."""
    total = len(names.characters)
    if not count or count >= total:
        return names
    asked = [names.labels[names.texts.index(query)].item() for query in QUERIES]
    evenly = [i * total // count for i in range(count)]
    chosen = torch.tensor(list(dict.fromkeys([*asked, *evenly]))[:count]).sort().values
    rows = torch.isin(names.labels, chosen).nonzero().squeeze(1)
    return Names(
        texts=tuple(names.texts[row] for row in rows.tolist()),
        labels=torch.searchsorted(chosen, names.labels[rows]),
        subgroups=names.subgroups[rows],
        languages=names.languages[rows],
        characters=tuple(names.characters[label] for label in chosen.tolist()),
        subgroup_names=names.subgroup_names,
        language_names=names.language_names,
    )


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole: its trainer_state.json is written last."""
    states = folder.glob("checkpoint-*/trainer_state.json")
    found = sorted(states, key=lambda state: int(state.parent.name.split("-")[1]))
    return str(found[-1].parent) if found else None


def evaluations(trainer: SentenceTransformerTrainer) -> list[Row]:
    """Step and scores of each evaluation, those before a checkpoint included."""
    return [
        {"step": row["step"], **{name: row[f"eval_{name}"] for name in ("recall_at_1", "map_at_r")}}
        for row in trainer.state.log_history
        if "eval_recall_at_1" in row
    ]


def summary(options: Options, scores: Sequence[Row], clock: Clock) -> Row:
    """A row of `results.csv`."""
    best = max(scores, key=lambda row: row["recall_at_1"])
    wall, cpu = zip(*clock.steps, strict=True) if clock.steps else ((0.0,), (0.0,))
    of_scores = {
        f"{name}_{score}": value
        for name, row in (("before", scores[0]), ("best", best), ("last", scores[-1]))
        for score, value in row.items()
    }
    return {
        "date": now(),
        **options.recipe,
        **of_scores,
        "seconds_per_step": round(median(wall), 3),
        "cpu_seconds_per_step": round(median(cpu), 3),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "threads": options.threads,
        **commit_and_machine(),
    }


def report(result: Row) -> str:
    """The scores in words."""
    lines = [
        f"{name:7} step {result[f'{name}_step']:4}  "
        f"Recall@1 {100 * result[f'{name}_recall_at_1']:.1f} %  "
        f"MAP@R {100 * result[f'{name}_map_at_r']:.1f} %"
        for name in ("before", "best", "last")
    ]
    cost = f"{result['seconds_per_step']} s a step, {result['peak_memory_mb']} MB at most"
    return "\n".join([*lines, cost])


def by_language(names: Names, before: Tensor, after: Tensor) -> list[Row]:
    """Recall@1 of the queries of one language in the names of another, before and after.

    A query counts if its emoji has a name in the other language that is not one of an earlier
    language: a name that several languages share is in the first of them alone.
    """
    scores = [normalize(embeddings) @ normalize(embeddings).T for embeddings in (before, after)]
    rows = []
    for gallery, gallery_name in enumerate(names.language_names):
        in_gallery = (names.languages == gallery).nonzero().squeeze(1)
        of_gallery = names.labels[in_gallery]
        if not len(in_gallery):
            continue
        nearest = [of_gallery[score[:, in_gallery].argmax(dim=1)] for score in scores]
        right = [found == names.labels for found in nearest]
        answerable = torch.isin(names.labels, of_gallery)
        for query, query_name in enumerate(names.language_names):
            asked = answerable & (names.languages == query)
            if query != gallery and asked.any():
                recall = [round(row[asked].float().mean().item(), 4) for row in right]
                rows.append(
                    {
                        "query": query_name,
                        "gallery": gallery_name,
                        "queries": int(asked.sum()),
                        "before": recall[0],
                        "after": recall[1],
                    }
                )
    return rows


def draw(names: Names, before: Tensor, after: Tensor) -> Figure:
    """The nearest names of some queries, before and after; the right ones in blue and bold."""
    queries = [names.texts.index(query) for query in QUERIES]
    figure = Figure(figsize=(10, 0.5 + len(queries) * (NEIGHBOURS + 1) * 0.19))
    axes = figure.add_axes((0.02, 0.01, 0.96, 0.97))
    axes.set_axis_off()
    axes.set(xlim=(0, 3), ylim=(len(queries) * (NEIGHBOURS + 1), -1.5))
    for column, title in enumerate(("query", "before", "after")):
        axes.text(column, -1, title, weight="bold")
    for i, query in enumerate(queries):
        axes.text(0, i * (NEIGHBOURS + 1), _in_its_language(names, query))
    for column, embeddings in enumerate((before, after), start=1):
        directions = normalize(embeddings)
        for i, query in enumerate(queries):
            scores = directions @ directions[query]
            scores[query] = -torch.inf
            top = i * (NEIGHBOURS + 1)
            for rank, row in enumerate(scores.topk(NEIGHBOURS).indices.tolist()):
                right = names.labels[row] == names.labels[query]
                look: Row = {"color": RIGHT, "weight": "bold"} if right else {"color": WRONG}
                axes.text(column, top + rank, _in_its_language(names, row), **look)
    return figure


def _in_its_language(names: Names, row: int) -> str:
    text, language = names.texts[row], names.language_names[names.languages[row]]
    return f"{text if len(text) < 40 else text[:37] + '...'} ({language})"


def _check_recipe(options: Options) -> None:
    """Keep what the run depends on, or compare it with what was kept."""
    path = options.folder / "options.json"
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(options.recipe, indent=2) + "\n")
    kept = json.loads(path.read_text())
    if kept != options.recipe:
        other = [name for name, value in options.recipe.items() if kept.get(name) != value]
        raise ValueError(
            f"the run in {options.folder} was begun with "
            f"{', '.join(f'{name}={kept.get(name)}' for name in other)}; give the same options to "
            "resume it, or leave --resume out to begin again"
        )


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line for each row, with the names of the first row as header."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def append_csv(path: Path, row: Row) -> None:
    """Add a line, and the header to a new file."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row.keys())
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
