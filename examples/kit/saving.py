"""Files that a killed process leaves whole: as they were before, or as they should become."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Another path to write to, which takes the place of ``path`` once it is on the disk.

    A process that dies before leaves ``path`` as it was, and a file ``path.tmp`` that nobody reads
    and the next call overwrites.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    yield temporary
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
