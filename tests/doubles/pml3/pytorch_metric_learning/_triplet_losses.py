"""A double of pytorch-metric-learning 3: its documented contract only; not the library."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ._base import BaseMetricLossFunction
from ._guesses import guess
from ._tuples import triplets_of
from .reducers import AvgNonZeroReducer, BaseReducer, DivisorReducer

DOUBLE = True


def _check_all(triplets_per_anchor: Any) -> None:
    if triplets_per_anchor != "all":
        raise NotImplementedError("triplets_per_anchor: not in the double")


class TripletMarginLoss(BaseMetricLossFunction):
    """[d_ap - d_an + margin]_+ or, smooth, its softplus."""

    def __init__(
        self,
        margin: float = 0.2,
        swap: bool = False,
        smooth_loss: bool = False,
        triplets_per_anchor: Any = "all",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        _check_all(triplets_per_anchor)
        self.margin, self.swap, self.smooth_loss = margin, swap, smooth_loss

    def default_reducer(self) -> BaseReducer:
        """Over the positive values."""
        return AvgNonZeroReducer()

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        """One element for each triplet."""
        triplets = triplets_of(indices_tuple, labels, ref_labels)
        a, p, n = triplets
        if len(a) == 0:
            return {}
        mat = self.distance(embeddings, ref_emb)
        violation = self.distance.margin(mat[a, p], mat[a, n])
        if self.swap:
            among = mat if ref_emb is None else self.distance(ref_emb)
            violation = torch.max(violation, self.distance.margin(mat[a, p], among[p, n]))
        hinge = functional.softplus if self.smooth_loss else functional.relu
        return {"loss": {"losses": hinge(violation + self.margin), "indices": triplets}}


class MarginLoss(BaseMetricLossFunction):
    """[d_ap - beta + margin]_+ + [beta - d_an + margin]_+, over how many of them are positive."""

    def __init__(
        self,
        margin: float = 0.2,
        nu: float = 0,
        beta: float = 1.2,
        triplets_per_anchor: Any = "all",
        learn_beta: bool = False,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        _check_all(triplets_per_anchor)
        self.margin, self.nu, self.learn_beta = margin, nu, learn_beta
        values = torch.full((num_classes or 1,), float(beta))
        if learn_beta:
            self.beta = nn.Parameter(values)
        else:
            self.register_buffer("beta", values)

    def default_reducer(self) -> BaseReducer:
        """By the terms' own divisor."""
        return DivisorReducer()

    def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
        """One element for each triplet, and the size of beta where it is learned."""
        if (self.beta.dtype, self.beta.device) != (embeddings.dtype, embeddings.device):
            raise guess("bad_batch")("move the loss to the dtype and device of the embeddings")
        triplets = triplets_of(indices_tuple, labels, ref_labels)
        a, p, n = triplets
        if len(a) == 0:
            return {}
        mat = self.distance(embeddings, ref_emb)
        beta = self.beta if len(self.beta) == 1 else self.beta[labels[a]]
        far = functional.relu(self.distance.margin(mat[a, p], beta) + self.margin)
        near = functional.relu(self.distance.margin(beta, mat[a, n]) + self.margin)
        divisor = int((far > 0).sum() + (near > 0).sum())
        terms = {"margin_loss": {"losses": far + near, "indices": triplets, "divisor": divisor}}
        if self.learn_beta:
            one = len(self.beta) == 1
            terms["beta_reg_loss"] = {
                "losses": beta * self.nu,
                "indices": torch.zeros_like(a[:1]) if one else a,
                "divisor": 1 if one else divisor,
            }
        return terms
