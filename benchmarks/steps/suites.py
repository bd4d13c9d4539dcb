"""Which cases are measured on which batches, and what each section of the page is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

from benchmarks.steps import cases
from benchmarks.steps.batches import Setting
from benchmarks.steps.cases import CASES, Case, without_kernels

PLAIN = ("random", "clustered")
YARDSTICKS = (cases.ONE_PRODUCT, cases.BATCH_HARD)
HPHN = (cases.LOOP_CONSECUTIVE, cases.LOOP, cases.EXPANSION)


def both(names: Iterable[str]) -> tuple[str, ...]:
    """Cases of ours with and without kernels."""
    return tuple(twin for name in names for twin in (name, without_kernels(name)))


TABLE = (
    *YARDSTICKS,
    cases.BATCH_HARD_MINER,
    cases.MULTI_SIMILARITY_MINER,
    cases.MULTI_SIMILARITY,
    cases.CONTRASTIVE,
    *both(
        (
            *HPHN,
            cases.MINED_TRIPLET,
            cases.LOOP_MINER,
            cases.SYNTHETIC,
            cases.SYNTHETIC_CONTRASTIVE,
        )
    ),
)
GROWTH = (
    *YARDSTICKS,
    cases.ALL_TRIPLETS,
    cases.MULTI_SIMILARITY,
    cases.ORIGINAL,
    *both(HPHN),
    cases.SYNTHETIC,
)
PAPERS = (cases.BATCH_HARD, cases.ORIGINAL, *both((cases.LOOP_CONSECUTIVE,)))
PLAIN_AND_SYNTHETIC = (
    cases.MULTI_SIMILARITY,
    cases.CONTRASTIVE,
    *both((cases.SYNTHETIC, cases.SYNTHETIC_CONTRASTIVE)),
)
QUEUE = (cases.BATCH_HARD, *both((cases.LOOP_DEFAULT,)))


@dataclass(frozen=True)
class Experiment:
    """Cases that are measured side by side on one batch."""

    part: str
    measure: str  # "time" or "memory"
    setting: Setting
    names: tuple[str, ...]

    @property
    def cases(self) -> list[Case]:
        """The cases that are sensible for a batch of this size."""
        chosen = [CASES[name] for name in self.names]
        return [case for case in chosen if self.setting.batch <= case.max_batch]


def grid(
    part: str,
    measure: str,
    names: Sequence[str],
    *,
    batch: Sequence[int] = (128,),
    dim: Sequence[int] = (128,),
    per_class: Sequence[int] = (2, 4),
    embeddings: Sequence[str] = ("random",),
    references: Sequence[int] = (0,),
) -> tuple[Experiment, ...]:
    """An experiment on each combination."""
    settings = product(batch, dim, per_class, embeddings, references)
    return tuple(Experiment(part, measure, Setting(*s), tuple(names)) for s in settings)


SUITES: Mapping[str, tuple[Experiment, ...]] = MappingProxyType(
    {
        "table": grid(
            "table", "time", TABLE, batch=(32, 128, 512, 2048), dim=(128, 512), embeddings=PLAIN
        ),
        "growth": grid(
            "growth", "time", GROWTH, batch=tuple(2**k for k in range(5, 13)), per_class=(2,)
        ),
        "papers": (
            *grid("papers", "time", PAPERS, dim=(128, 512), embeddings=PLAIN),
            *grid("papers", "memory", PAPERS, dim=(128, 512), per_class=(2,)),
        ),
        "memory": (
            *grid("memory", "memory", (*YARDSTICKS, *both(HPHN)), batch=(4096,), dim=(128, 512)),
            *grid(
                "memory",
                "memory",
                PLAIN_AND_SYNTHETIC,
                batch=(2048,),
                dim=(128, 512),
                per_class=(4,),
            ),
        ),
        "queue": tuple(
            experiment
            for measure, embeddings in (("time", PLAIN), ("memory", ("random",)))
            for per_class, references in ((8, (8192, 16384, 32768, 65536)), (64, (65536,)))
            for experiment in grid(
                "queue",
                measure,
                QUEUE,
                per_class=(per_class,),
                embeddings=embeddings,
                references=references,
            )
        ),
        # Every part on batches that take no time: that it runs is all that it shows.
        "smoke": (
            *grid("table", "time", TABLE, batch=(16, 32), dim=(16,), per_class=(4,)),
            *grid("growth", "time", GROWTH, batch=(8, 16), dim=(16,), per_class=(2,)),
            *grid("papers", "time", PAPERS, batch=(16,), dim=(16,), per_class=(2,)),
            *grid("queue", "time", QUEUE, batch=(16,), dim=(16,), per_class=(8,), references=(64,)),
            *grid(
                "memory", "memory", (cases.ONE_PRODUCT,), batch=(512,), dim=(16,), per_class=(2,)
            ),
        ),
    }
)
