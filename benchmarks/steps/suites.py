"""Which cases are measured on which batches, and what each part of the report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

from benchmarks.steps import cases
from benchmarks.steps.batches import EMBEDDINGS, Setting
from benchmarks.steps.cases import CASES, Case

DIMS = (64, 128, 512)
BATCHES = tuple(2**k for k in range(5, 14))  # 32 to 8192
YARDSTICKS = (cases.FLOOR, cases.BATCH_HARD)
TARGETS = (
    *YARDSTICKS,
    cases.LOOP_CONSECUTIVE,
    cases.LOOP,
    cases.EXPANSION,
    cases.INDEX_MINER,
    cases.SYNTHETIC,
    cases.ON_SYNTHETIC,
)
AGAINST_ORIGINAL = (*YARDSTICKS, cases.ORIGINAL, cases.LOOP_CONSECUTIVE)
# On collapsed rows the original has no arcs left and does something else.
ON_ANY_EMBEDDINGS = tuple(name for name in CASES if name != cases.ORIGINAL)
IN_MEMORY = (*YARDSTICKS, cases.LOOP_CONSECUTIVE, cases.LOOP, cases.EXPANSION)


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
    names: Sequence[str],
    *,
    batch: Sequence[int],
    dim: Sequence[int],
    per_class: Sequence[int] = (2, 4),
    embeddings: Sequence[str] = ("random",),
    measure: str = "time",
) -> tuple[Experiment, ...]:
    """An experiment on each combination."""
    settings = product(batch, dim, per_class, embeddings)
    return tuple(Experiment(part, measure, Setting(*s), tuple(names)) for s in settings)


PLAIN = ("random", "clustered")
SUITES: Mapping[str, tuple[Experiment, ...]] = MappingProxyType(
    {
        # The ratios that the library is held to.
        "targets": (
            *grid("targets", TARGETS, batch=(32, 128, 512, 2048), dim=(128, 512), embeddings=PLAIN),
            *grid("original", AGAINST_ORIGINAL, batch=(128,), dim=(512,), embeddings=PLAIN),
        ),
        # How steps grow, with the batch and, in a batch of 1024, with the pairs alone.
        "scaling": (
            *grid("batch", tuple(CASES), batch=BATCHES, dim=(128,)),
            *grid("pairs", TARGETS, batch=(1024,), dim=(128,), per_class=(2, 4, 8, 16)),
        ),
        # Whether it matters what the embeddings are.
        "embeddings": grid(
            "embeddings",
            ON_ANY_EMBEDDINGS,
            batch=(128, 512),
            dim=DIMS,
            embeddings=tuple(EMBEDDINGS),
        ),
        "memory": (
            *grid(
                "memory",
                IN_MEMORY,
                batch=(4096,),
                dim=(128, 512),
                per_class=(2, 4, 8),
                measure="memory",
            ),
            *grid(
                "original",
                AGAINST_ORIGINAL,
                batch=(128, 256),
                dim=(512,),
                per_class=(2,),
                measure="memory",
            ),
        ),
    }
)
# Every part on batches that take no time: that it runs is all that it shows.
SMOKE = (
    *grid("targets", TARGETS, batch=(16, 32), dim=(16,), per_class=(4,), embeddings=PLAIN),
    *grid("original", AGAINST_ORIGINAL, batch=(16,), dim=(16,), per_class=(2,)),
    *grid("batch", tuple(CASES), batch=(8, 16, 32), dim=(16,), per_class=(2,)),
    *grid("pairs", TARGETS, batch=(32,), dim=(16,), per_class=(2, 4, 8)),
    *grid(
        "embeddings",
        ON_ANY_EMBEDDINGS,
        batch=(16,),
        dim=(16,),
        per_class=(2,),
        embeddings=tuple(EMBEDDINGS),
    ),
    *grid(
        "memory",
        (cases.FLOOR,),
        batch=(512,),
        dim=(16,),
        per_class=(2,),
        measure="memory",
    ),
)
ALL_SUITES: Mapping[str, tuple[Experiment, ...]] = MappingProxyType(
    {
        **SUITES,
        "all": tuple(experiment for suite in SUITES.values() for experiment in suite),
        "smoke": SMOKE,
    }
)
