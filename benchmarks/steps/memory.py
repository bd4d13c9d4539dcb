"""Peak memory of one step, each in a process of its own.

The process builds everything, runs the case on a tiny and on a small batch (so that what is loaded
or compiled on first use is there), marks how much memory is resident, runs one step and reports how
far the peak rose above the mark. Left out are thus the interpreter, torch and the batch itself;
included is what torch's allocator asks for and returns within the step, and the gradient of the
batch.

Limits: it is resident memory in pages as the operating system counts it, so differences under 1 MB
mean nothing, and a step that fits into what the allocator kept from start-up shows as less than it
uses. On Linux the mark is exact (the high-water mark is reset); elsewhere it is the peak until then
(``ru_maxrss``), and steps that stay under the peak of the imports show as 0.

``ru_maxrss`` will not do on Linux: a child begins with the peak of its parent, here a benchmark
that may have filled gigabytes.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import subprocess
import sys
from dataclasses import astuple, fields, replace
from pathlib import Path

import torch

from benchmarks.provenance import ROOT
from benchmarks.steps.batches import PER_CLASS_BESIDE_QUEUE, Setting, make
from benchmarks.steps.cases import CASES, run
from benchmarks.steps.gate import step_once

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_peak() -> float:
    """The most memory that was resident until now, or since `reset_peak`, in MB."""
    if STATUS.exists():
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 1024
    per_unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_unit


def reset_peak() -> None:
    """Let the peak start from what is resident now, where the system can."""
    if CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5")


def peak_of_step(name: str, setting: Setting) -> float:
    """How far one step raises the peak of this process, in MB."""
    case = CASES[name]
    rows, references = setting.batch, setting.references
    whole = PER_CLASS_BESIDE_QUEUE if references else setting.per_class
    for part in (rows // (2 * whole), 8):
        step_once(case, make(replace(setting, batch=rows // part, references=references // part)))
    batch = make(setting)
    step, leaf = case.build(batch), batch.embeddings.clone().requires_grad_()
    gc.collect()
    reset_peak()
    before = resident_peak()
    with case.backend():
        run(step, leaf, batch.labels)
    return resident_peak() - before


def peak_in_fresh_process(name: str, setting: Setting, threads: int) -> float:
    """The same in a process of its own."""
    options = (*astuple(setting), threads)
    command = [sys.executable, "-m", "benchmarks.steps.memory", name, *map(str, options)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout)


def main() -> None:
    """Print the peak of one case, in MB."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=CASES, metavar="case")
    for name in ("batch", "dim", "per_class"):
        parser.add_argument(name, type=int)
    parser.add_argument("embeddings")
    parser.add_argument("references", type=int)
    parser.add_argument("threads", type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    setting = Setting(*(getattr(options, field.name) for field in fields(Setting)))
    print(peak_of_step(options.case, setting))


if __name__ == "__main__":
    main()
