"""What a measurement leaves behind: a row of a CSV file that says what, where and of which code."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.provenance import now, provenance
from benchmarks.steps.batches import Setting
from benchmarks.steps.kernels import used


@dataclass(frozen=True)
class Row:
    """One case in one setting: a time or a peak of memory.

    ``date`` is that of the whole comparison: rows that share it were measured together.
    """

    part: str
    measure: str  # "time" or "memory"
    date: str
    commit: str
    cpu: str
    cores: int
    platform: str
    python: str
    torch: str
    pml: str
    loopml: str
    numba: str  # "numba 0.68", or empty where the library ran without kernels
    threads: int
    case: str
    batch: int
    dim: int
    per_class: int
    embeddings: str
    references: int
    rounds: int
    median_ms: float | None
    p20_ms: float | None
    p80_ms: float | None
    peak_mb: float | None

    @property
    def setting(self) -> Setting:
        """The batch it was measured on."""
        return Setting(*(getattr(self, field.name) for field in fields(Setting)))

    @property
    def amount(self) -> float:
        """What was measured, in ms or MB."""
        amount = self.median_ms if self.measure == "time" else self.peak_mb
        assert amount is not None
        return amount


Comparison = dict[str, Row]  # the rows that were measured together, by case


def comparison(
    part: str, measure: str, setting: Setting, found: Mapping[str, Mapping[str, Any]], threads: int
) -> list[Row]:
    """The rows of cases that were measured together; ``found`` has the columns of each by name."""
    date = now()
    unmeasured = dict.fromkeys(("median_ms", "p20_ms", "p80_ms", "peak_mb"))
    return [
        Row(
            part=part,
            measure=measure,
            date=date,
            **provenance(),
            numba=used(),
            threads=threads,
            case=name,
            **asdict(setting),
            **{"rounds": 1, **unmeasured, **columns},
        )
        for name, columns in found.items()
    ]


def append(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to a file, which begins with their names."""
    is_new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        if is_new:
            writer.writeheader()
        for row in rows:
            writer.writerow(
                {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in asdict(row).items()}
            )


def read(path: Path) -> list[Row]:
    """The rows of a file, none where it is not there."""
    if not path.exists():
        return []
    convert: dict[str, Callable[[str], Any]] = {
        "int": int,
        "str": str,
        "float | None": lambda text: float(text) if text else None,
    }
    with path.open(newline="") as file:
        return [
            Row(**{field.name: convert[str(field.type)](line[field.name]) for field in fields(Row)})
            for line in csv.DictReader(file)
        ]


def comparisons(rows: Iterable[Row], part: str, measure: str) -> dict[Setting, Comparison]:
    """The last comparison of each setting."""
    found: dict[Setting, Comparison] = {}
    for row in rows:
        if (row.part, row.measure) == (part, measure):
            known = found.get(row.setting, {})
            if any(other.date != row.date for other in known.values()):
                known = {}
            found[row.setting] = {**known, row.case: row}
    return found


def rows_of(found: Mapping[Setting, Comparison]) -> list[Row]:
    """The rows of comparisons."""
    return [row for comparison in found.values() for row in comparison.values()]
