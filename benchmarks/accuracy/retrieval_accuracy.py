"""Time and memory of `RetrievalAccuracy` on embeddings of the size of Stanford Online Products.

60,502 random unit rows of 512 dimensions in 11,316 classes; beside it faiss's flat index on the
same rows, which is asked for some of the queries and scaled. Then how much longer the search takes
where products in float64 cannot tell rows apart: in two groups that are 1e9 times as far from each
other as the rows within them. One thread, process time. From the root of the repository, five
minutes:

    python -m benchmarks.accuracy.retrieval_accuracy
"""

from __future__ import annotations

import argparse
import resource
import time

import faiss
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.provenance import commit
from loopml.evaluation import RetrievalAccuracy

ROWS, DIM, CLASSES, NEIGHBOURS = 60_502, 512, 11_316, 8
ASKED = 2_048  # of faiss
FAR = 8_192  # rows in two groups


def seconds(x: Tensor, labels: Tensor, distance: str) -> tuple[float, dict[str, float]]:
    """Process time of the search of all neighbours, and the scores."""
    ranks = (1, NEIGHBOURS)
    scores = tuple(f"recall_at_{rank}" for rank in ranks)
    calculator = RetrievalAccuracy(recall_at=ranks, distance=distance, include=scores)
    start = time.process_time()
    found = calculator.get_accuracy(x, labels)
    return time.process_time() - start, found


def main() -> None:
    """Print the figures."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(ROWS) % CLASSES
    x = torch.randn(CLASSES, DIM, generator=generator)[labels]
    x = normalize(x + 2 * torch.randn(ROWS, DIM, generator=generator))
    print(f"commit {commit()}, torch {torch.__version__}, faiss {faiss.__version__}")
    for distance in ("euclidean", "cosine"):
        taken, found = seconds(x, labels, distance)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"{distance}: {found}, {taken:.0f} s, at most {peak:.2f} GB in all so far")
    index = faiss.IndexFlatL2(DIM)
    index.add(x.numpy())
    start = time.process_time()
    index.search(x[:ASKED].numpy(), NEIGHBOURS + 1)
    print(f"faiss's flat index: {(time.process_time() - start) * ROWS / ASKED:.0f} s")
    few, of_few = x[:FAR].double(), labels[:FAR] % (FAR // NEIGHBOURS)
    apart = few.clone()
    apart[::2, 0] += 1e9
    near, far = (seconds(rows, of_few, "euclidean")[0] for rows in (few, apart))
    print(f"{FAR} rows in two groups that are far apart: {far / near:.0f} times as long as in one")


if __name__ == "__main__":
    main()
