"""Of which code a number is, and on what machine it was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import loopml

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def now() -> str:
    """The date of a comparison."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def commit() -> str:
    """The commit that is measured, with "-dirty" where the code differs from it.

    Results and pages may differ: a measurement writes them.
    """
    code = ("src", "examples", "benchmarks", ":!benchmarks/results")
    dirty = _git("status", "--porcelain", "--untracked-files=no", "--", *code)
    found = _git("describe", "--always", "--abbrev=7", "--exclude=*")
    return f"{found}{'-dirty' if dirty else ''}" if found else "unknown"


@cache
def provenance() -> dict[str, Any]:
    """Code, machine and versions, as they were when first asked."""
    return {
        "commit": commit(),
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pml": version("pytorch-metric-learning"),
        "loopml": loopml.__version__,
    }


def commit_and_machine() -> dict[str, str]:
    """The same in two columns."""
    found = provenance()
    machine = f"{found['cpu']}, {found['cores']} cores, torch {found['torch']}"
    return {"commit": found["commit"], "machine": machine}
