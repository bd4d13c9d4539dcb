"""Labels to curves: which rows of a batch are joined, and which curves are negatives of which."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from loopml._checks import values_readable
from loopml._types import Pairs

PAIRINGS = ("all", "consecutive")


class Pairing(NamedTuple):
    """The curves of a batch; every index counts the batch first and the references after it.

    Attributes:
        positives: the curves that an anchor can be on, each once.
        negatives: the curves that can be a negative: pairs, and lone samples as pairs (i, i).
        anchor: (o,) the anchor of each ordered positive pair.
        positive: (o,) its positive.
        curve: (o,) the curve of ``positives`` that joins the two.
    """

    positives: Pairs
    negatives: Pairs
    anchor: Tensor
    positive: Tensor
    curve: Tensor


def positive_mask(
    embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None, ref_labels: Tensor | None
) -> Tensor:
    """Which references are positives of which rows: the same class, and not the row itself: (n, m).

    Without references the batch is its own. A reference row that equals the batch's row at the
    same index, as where references begin with the batch, is that row itself.
    """
    if ref_emb is None or ref_labels is None:
        return (labels.unsqueeze(1) == labels).fill_diagonal_(False)
    mask = labels.unsqueeze(1) == ref_labels
    shared = min(len(embeddings), len(ref_emb))
    itself = (embeddings[:shared] == ref_emb[:shared]).all(1)
    mask.diagonal()[:shared] &= ~itself
    return mask


def pair_up(
    pairing: str,
    embeddings: Tensor,
    labels: Tensor,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
) -> Pairing:
    """The curves of a batch.

    Args:
        pairing: "all" joins every two rows of a class; "consecutive" joins rows (0, 1), (2, 3), ...
        embeddings: (n, d), read only to find references that are the batch's own rows.
        labels: (n,) in any order, with any class sizes.
        ref_emb: (m, d) references: anchors come from the batch, positives and negatives from here.
        ref_labels: (m,).

    Returns:
        :class:`Pairing`. With references its indices count them from n on.

    Raises:
        ValueError: under "consecutive" the batch is odd, a pair has two labels, or references
            are given.
    """
    if pairing == "consecutive":
        if ref_labels is not None:
            raise ValueError(
                "pairing='consecutive' joins the rows of one batch and cannot use ref_emb; "
                "use pairing='all'"
            )
        curves = _consecutive(labels)
        return _both_ways(curves, curves)
    if ref_labels is None:
        curves, lone = all_curves(labels)
        return _both_ways(curves, _concatenate(curves, lone) if len(lone.first) else curves)
    mask = positive_mask(embeddings, labels, ref_emb, ref_labels)
    offset = len(labels)
    anchor, positive = mask.nonzero(as_tuple=True)
    positives = Pairs(anchor, positive + offset, labels[anchor])
    curves, lone = all_curves(ref_labels)
    negatives = _concatenate(curves, lone)
    negatives = Pairs(negatives.first + offset, negatives.second + offset, negatives.label)
    return Pairing(positives, negatives, *positives[:2], torch.arange(len(anchor)).to(anchor))


def _consecutive(labels: Tensor) -> Pairs:
    if len(labels) % 2:
        raise ValueError(
            f"pairing='consecutive' needs an even batch, got {len(labels)} rows; "
            "drop one or use pairing='all'"
        )
    first, second = labels[0::2], labels[1::2]
    if values_readable(labels) and not bool((first == second).all()):
        row = 2 * int((first != second).nonzero()[0])
        raise ValueError(
            f"pairing='consecutive' needs labels that agree in rows (0, 1), (2, 3), ..., "
            f"got {int(labels[row])} and {int(labels[row + 1])} in rows {row} and {row + 1}; "
            "sort the batch by label or use pairing='all'"
        )
    index = torch.arange(len(labels), device=labels.device)
    return Pairs(index[0::2], index[1::2], first)


def all_curves(labels: Tensor) -> tuple[Pairs, Pairs]:
    """Every unordered pair of a class, in the order of its rows, and every lone sample."""
    n = len(labels)
    ranked, row = labels.sort(stable=True)
    position = torch.empty_like(row).scatter_(0, row, torch.arange(n, device=row.device))
    end = torch.searchsorted(ranked, labels, right=True)
    later = end - position - 1  # how many rows of the class come after each
    first = torch.arange(n, device=row.device).repeat_interleave(later)
    before = later.cumsum(0) - later
    nth = torch.arange(len(first), device=row.device) - before[first]
    second = row[position[first] + 1 + nth]
    size = end - torch.searchsorted(ranked, labels)
    (lone,) = (size == 1).nonzero(as_tuple=True)
    return Pairs(first, second, labels[first]), Pairs(lone, lone, labels[lone])


def _concatenate(a: Pairs, b: Pairs) -> Pairs:
    return Pairs(*(torch.cat(columns) for columns in zip(a, b, strict=True)))


def _both_ways(curves: Pairs, negatives: Pairs) -> Pairing:
    index = torch.arange(len(curves.first), device=curves.first.device)
    return Pairing(
        curves,
        negatives,
        torch.cat([curves.first, curves.second]),
        torch.cat([curves.second, curves.first]),
        torch.cat([index, index]),
    )
