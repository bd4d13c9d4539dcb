"""One process, or one of several that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from tqdm import tqdm


class Process(NamedTuple):
    """This process among those that train together; the one of rank 0 writes and prints."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def say(self, *lines: str) -> None:
        """Print above the progress bar."""
        if self.first:
            tqdm.write("\n".join(lines))

    def gather(self, part: Any) -> list[Any]:
        """The parts of all processes in the first one, nothing in the others."""
        if self.world == 1:
            return [part]
        parts: list[Any] = [None] * self.world if self.first else []
        dist.gather_object(part, parts or None)
        return parts


@contextmanager
def start_process(device: str) -> Iterator[Process]:
    """Join the others if torchrun started this process."""
    if "RANK" not in os.environ:
        yield Process(0, 1, torch.device(device))
        return
    own = torch.device(device)
    if device == "cuda":
        own = torch.device(device, int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    yield Process(dist.get_rank(), dist.get_world_size(), own)
    dist.barrier()  # nobody leaves while another is still being answered
    dist.destroy_process_group()
