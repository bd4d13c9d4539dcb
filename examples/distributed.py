"""Two processes on one machine train as one process would on the joined batch.

DistributedLossWrapper of pytorch-metric-learning gathers the embeddings of all processes. So the
loss finds positives and negatives in all of them. DistributedDataParallel averages the gradients.

    torchrun --nproc-per-node 2 examples/distributed.py --steps 100
    torchrun --nproc-per-node 2 examples/distributed.py --steps 100 --efficient

With --efficient each process computes the loss of its own anchors alone, against all embeddings.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from pytorch_metric_learning.samplers import MPerClassSampler
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from kit import glyphs
from kit.training import make_net
from loopml import HPHNTripletLoss, LoOpMiner

BATCH = 32  # of each process
IMAGES_PER_CLASS = 4


def main(argv: Sequence[str] | None = None) -> None:
    """Be one of the processes; the first prints a line for every tenth of the steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--efficient", action="store_true", help="own anchors alone")
    options = parser.parse_args(argv)
    if "RANK" not in os.environ:
        parser.error("start it with: torchrun --nproc-per-node 2 examples/distributed.py")

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    np.random.seed(rank)  # noqa: NPY002, MPerClassSampler draws other images in each process
    data = glyphs.load("train")
    sampler = MPerClassSampler(data.labels, IMAGES_PER_CLASS, BATCH, options.steps * BATCH)
    net = DistributedDataParallel(make_net())
    loss_fn = DistributedLossWrapper(
        HPHNTripletLoss(synthesizer=LoOpMiner()), efficient=options.efficient
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for step, (images, labels) in enumerate(DataLoader(data, BATCH, sampler=sampler), 1):
        loss = loss_fn(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0 and step % max(1, options.steps // 10) == 0:
            print(f"step {step:4}  loss {loss.item() / world:.4f}")  # the wrapper multiplies it

    # Equal weights everywhere show that the processes trained one net.
    weights = torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
    highest, lowest = weights.clone(), weights.clone()
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    dist.all_reduce(lowest, dist.ReduceOp.MIN)
    if rank == 0:
        difference = (highest - lowest).max().item()
        print(f"{world} processes, weights differ by {difference:.0e}")
    dist.barrier()  # nobody leaves while another is still being answered
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
