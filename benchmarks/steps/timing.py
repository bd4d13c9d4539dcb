"""Times of steps that take turns, so that what slows the machine down slows down all of them."""

from __future__ import annotations

import gc
import random
from collections.abc import Mapping
from time import perf_counter, process_time
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.steps.batches import Batch
from benchmarks.steps.cases import Case, Step, run
from benchmarks.steps.gate import step_once

LEAST_ROUNDS, MOST_ROUNDS = 5, 60


class Times(NamedTuple):
    """Milliseconds of one case, over its rounds."""

    rounds: int
    median_ms: float
    p20_ms: float
    p80_ms: float


def seconds(case: Case, step: Step, batch: Batch) -> float:
    """One step, forward and backward.

    In one thread it is time of the processor, which other programs do not lengthen much.
    """
    clock = process_time if torch.get_num_threads() == 1 else perf_counter
    leaf = batch.embeddings.clone().requires_grad_()
    with case.backend():
        start = clock()
        run(step, leaf, batch.labels)
        return clock() - start


def interleaved(cases: list[Case], batch: Batch, budget: float) -> Mapping[str, Times]:
    """Time each case once a round, for as many rounds as fit into ``budget`` seconds, at least 5.

    Every round has an order of its own, so that no case always follows the same one and finds the
    caches as that one leaves them. Garbage is collected between steps, never within one.
    """
    start = perf_counter()
    for case in cases:
        step_once(case, batch)  # the gate has seen the first rows alone; it compiled the kernels
    rounds = int(np.clip(budget / (perf_counter() - start), LEAST_ROUNDS, MOST_ROUNDS))
    steps = {case.name: (case, case.build(batch)) for case in cases}
    found: dict[str, list[float]] = {name: [] for name in steps}
    order = random.Random(0)
    gc.collect()
    gc.freeze()  # what is there already need not be looked through again and again
    gc.disable()
    try:
        for _ in range(rounds):
            for name in order.sample(list(steps), len(steps)):
                gc.collect()
                found[name].append(seconds(*steps[name], batch))
    finally:
        gc.enable()
        gc.unfreeze()
    return {
        name: Times(rounds, *(1e3 * np.percentile(values, (50, 20, 80))).tolist())
        for name, values in found.items()
    }
