"""The README: its code runs and its links lead somewhere."""

import re
from pathlib import Path
from typing import Any

import torch
from pytorch_metric_learning.losses import ContrastiveLoss, MultiSimilarityLoss
from torch.utils.data import TensorDataset

from loopml import EmbeddingExpansion, HPHNTripletLoss, SyntheticLoss

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_code_runs() -> None:
    """The loop on a small net; then each of the other ways on its last batch."""
    model = torch.nn.Linear(8, 4)
    names: dict[str, Any] = {
        "targets": torch.arange(32).repeat(4),
        "dataset": TensorDataset(torch.randn(128, 8), torch.arange(32).repeat(4)),
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        **{kind.__name__: kind for kind in (ContrastiveLoss, MultiSimilarityLoss)},
        **{kind.__name__: kind for kind in (EmbeddingExpansion, HPHNTripletLoss, SyntheticLoss)},
    }
    before = model.weight.clone()
    loop, others = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    exec(compile(loop, "README.md", "exec"), names)
    assert not torch.equal(model.weight, before)
    for line in others.splitlines()[1:]:  # the first is a comment
        names["embeddings"] = names["embeddings"].detach().requires_grad_()
        exec(compile(line, "README.md", "exec"), names)
        names["loss"].backward()
        assert names["embeddings"].grad.isfinite().all()


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", README):
        assert "://" in target or (ROOT / target).exists(), target
