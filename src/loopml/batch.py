"""A checked batch: the rows that anchors come from, and those that their tuples come from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from loopml._checks import check_embeddings, check_labels, nan_if_unusable
from loopml._devices import onto

# Numbers whose bits are mixed at once: 8 MiB.
_BLOCK = 1 << 20


class Batch(NamedTuple):
    """Anchors with their labels, and references with theirs where they are not the batch itself.

    All rows of both are numbered from the first anchor to the last reference.
    """

    embeddings: Tensor  # (n, d) float32 or float64
    labels: Tensor  # (n,) integers, where the embeddings are
    ref_emb: Tensor | None = None  # (m, d) of their dtype
    ref_labels: Tensor | None = None  # (m,)
    # Both labels as they came: mostly on the CPU, where to read them waits for nothing.
    given: tuple[Tensor, Tensor | None] | None = None

    def all_embeddings(self) -> Tensor:
        """The anchors, then the references: (n, d), or (n + m, d)."""
        if self.ref_emb is None:
            return self.embeddings
        return torch.cat([self.embeddings, self.ref_emb])

    def offset(self) -> int:
        """The number of the first row that positives and negatives come from."""
        return 0 if self.ref_emb is None else self.embeddings.shape[0]

    def labels_of_others(self) -> Tensor:
        """The labels of the rows that positives and negatives come from."""
        return self.labels if self.ref_labels is None else self.ref_labels

    def given_labels(self) -> tuple[Tensor, Tensor]:
        """The labels of the anchors, and of the rows that positives and negatives come from."""
        labels, of_others = self.given or (self.labels, self.ref_labels)
        return labels, labels if of_others is None else of_others


def batch_of(
    embeddings: object, labels: object, ref_emb: object = None, ref_labels: object = None
) -> Batch:
    """Check what pytorch-metric-learning calls a batch and its references, and convert it once.

    Half precision becomes float32, references get the dtype of the embeddings, labels move to
    their device. References that are the batch itself, labels included, are none. Embeddings are
    all NaN where a value that could not be read is not usable.

    Raises:
        TypeError: an argument is no tensor of its kind, or there are no labels.
        ValueError: shapes do not fit, a value is not usable, or references lack labels.
    """
    if ref_emb is embeddings and ref_labels is labels:
        ref_emb = ref_labels = None
    embeddings = check_embeddings("embeddings", embeddings)
    if labels is None:
        raise TypeError(
            "labels must be given, one integer per row of embeddings, got None: tuples are mined "
            "from labels here and an indices_tuple is not used; for tuples of your own use a loss "
            "of pytorch_metric_learning itself"
        )
    labels = check_labels("labels", labels, "embeddings", len(embeddings))
    device = embeddings.device
    if ref_emb is None and ref_labels is None:
        embeddings = at_least_float32(nan_if_unusable(embeddings))
        return Batch(embeddings, onto(device, labels), given=(labels, None))
    if ref_emb is None:
        raise ValueError("ref_labels was given without ref_emb; give both or neither")
    ref_emb = check_embeddings("ref_emb", ref_emb)
    if ref_labels is None:
        raise ValueError("ref_emb was given without ref_labels; give both or neither")
    ref_labels = check_labels("ref_labels", ref_labels, "ref_emb", len(ref_emb))
    if ref_emb.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"ref_emb must have as many columns as embeddings, "
            f"got {ref_emb.shape[1]} and {embeddings.shape[1]}"
        )
    embeddings = at_least_float32(nan_if_unusable(embeddings, ref_emb))
    return Batch(
        embeddings,
        onto(device, labels),
        ref_emb.to(embeddings.dtype),
        onto(device, ref_labels),
        given=(labels, ref_labels),
    )


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32 if it has less precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(x: Tensor) -> torch.autocast:
    """A context in which autocast leaves products of float32 as they are."""
    return torch.autocast(x.device.type, enabled=False)


def own_references(batch: Batch) -> Tensor:
    """The reference that each row itself is: (n,), -1 where it is none.

    A reference is the row itself if it has the row's label and all of its numbers. Where several
    are (one sample twice in a class), one of them is: the one at the row's own index, as where
    references begin with the batch, or else the first. The others are positives at distance 0, as
    they are in a batch without references.
    """
    embeddings, labels, ref_emb, ref_labels, _ = batch
    assert ref_emb is not None
    assert ref_labels is not None
    if len(ref_emb) == 0:
        return torch.full_like(labels, -1, dtype=torch.int64)
    same = _row_keys(embeddings).unsqueeze(1) == _row_keys(ref_emb)  # (n, m)
    same &= labels.unsqueeze(1) == ref_labels
    index = same.to(torch.uint8).argmax(1)  # the first
    shared = min(len(embeddings), len(ref_emb))
    here = torch.arange(shared, device=index.device)
    index[:shared] = torch.where(same.diagonal()[:shared], here, index[:shared])
    # Keys of other rows agree once in 2^64 cases.
    found = same.any(1) & (embeddings == ref_emb[index]).all(1)
    return torch.where(found, index, -1)


def _row_keys(x: Tensor) -> Tensor:
    """A number for each row, the same for rows of the same numbers: (n,) int64.

    A sum of integers is the same in every order, which a sum of floating point numbers is not.
    """
    size = _BLOCK // max(1, x.shape[1]) + 1
    return torch.cat([_keys_of(x[i : i + size]) for i in range(0, max(1, len(x)), size)])


def _keys_of(x: Tensor) -> Tensor:
    whole = {4: torch.int32, 8: torch.int64}[x.element_size()]
    bits = (x.detach() + 0.0).contiguous().view(whole).long()  # -0.0 + 0.0 is 0.0
    place = torch.arange(1, x.shape[1] + 1, device=x.device)
    mixed = (bits + place * 0x2545F4914F6CDD1D) * 0x5851F42D4C957F2D
    mixed = (mixed ^ (mixed >> 29)) * 0x14057B7EF767814F
    return (mixed ^ (mixed >> 32)).sum(1)


def positive_mask(batch: Batch) -> Tensor:
    """Which references are positives of which rows: the same class, and not the row itself: (n, m).

    The batch has references.
    """
    mask = batch.labels.unsqueeze(1) == batch.labels_of_others()
    own = own_references(batch)
    if mask.shape[1]:
        # Where a row is none of the references, the first of them stays what it is.
        others = (own < 0).unsqueeze(1) & mask[:, :1]
        mask.scatter_(1, own.clamp(min=0).unsqueeze(1), others)
    return mask
