"""Labels to curves: which rows of a batch are joined, and which curves are negatives of which."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from loopml._checks import values_readable
from loopml._types import Gram, Pairs
from loopml.batch import Batch, own_references, positive_mask

PAIRINGS = ("auto", "all", "consecutive")

# pairing="auto": up to this many rows of a class every two are joined, ...
ALL_UP_TO = 8
# ... and in a larger class each row with this many. Measured by benchmarks/study/pairing_rules.py.
PARTNERS = 2
# Numbers in a temporary of one block: 4 MiB of float32.
_BLOCK = 1 << 20


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


def pair_up(
    pairing: str, batch: Batch, *, gram: Gram | None = None, similarity: bool = False
) -> Pairing:
    """The curves of a batch.

    Args:
        pairing: "all" joins every two rows of a class. "auto" does so up to 8 rows of a class; in a
            larger one it joins each row with the two rows, other than itself, that lie nearest to
            another class. "consecutive" joins rows (0, 1), (2, 3), ...
        batch: anchors come from its embeddings, positives and negatives from its references.
            Embeddings are read only to find references that are rows of the batch.
        gram: inner products of ``batch.all_embeddings()``, by which "auto" knows what lies near.
            It may be left out where no class has more than 8 rows.
        similarity: whether near is a large inner product or a small distance.

    Returns:
        :class:`Pairing`. With references its indices count them from n on.

    Raises:
        ValueError: under "consecutive" the batch is odd, a pair has two labels, or references
            are given.
    """
    labels, others, offset = batch.labels, batch.labels_of_others(), batch.offset()
    own = batch.ref_emb is None
    if pairing == "consecutive":
        if not own:
            raise ValueError(
                "pairing='consecutive' joins the rows of one batch and cannot use ref_emb; "
                "use pairing='auto' or pairing='all'"
            )
        curves = _consecutive(labels)
        return _both_ways(curves, curves)
    frontier = None
    if pairing == "auto" and _has_large_class(others):
        assert gram is not None
        frontier = _frontier(gram, labels, others, similarity)
    if own and frontier is None:
        curves, lone = all_curves(labels)
        return _both_ways(curves, _concatenate(curves, lone) if len(lone.first) else curves)
    if own and frontier is not None:
        curves, *chosen = _few_curves(frontier, labels)
        return Pairing(curves, _concatenate(curves, _lone(frontier, labels)), *chosen)
    if frontier is None:
        anchor, positive = positive_mask(batch).nonzero(as_tuple=True)
        curves, lone = all_curves(others)
    else:
        index = own_references(batch)
        rank = torch.where(index < 0, len(others), frontier.rank[index.clamp(min=0)])
        anchor, positive = _partners(frontier, labels, rank)
        curves, lone = _few_curves(frontier, others)[0], _lone(frontier, others)
    positives = Pairs(anchor, positive + offset, labels[anchor])
    negatives = _concatenate(curves, lone)
    negatives = Pairs(negatives.first + offset, negatives.second + offset, negatives.label)
    return Pairing(positives, negatives, *positives[:2], torch.arange(len(anchor)).to(anchor))


def _consecutive(labels: Tensor) -> Pairs:
    if len(labels) % 2:
        raise ValueError(
            f"pairing='consecutive' needs an even batch, got {len(labels)} rows; "
            "drop one or use pairing='auto' or pairing='all'"
        )
    first, second = labels[0::2], labels[1::2]
    if values_readable(labels) and not bool((first == second).all()):
        row = 2 * int((first != second).nonzero()[0])
        raise ValueError(
            f"pairing='consecutive' needs labels that agree in rows (0, 1), (2, 3), ..., "
            f"got {int(labels[row])} and {int(labels[row + 1])} in rows {row} and {row + 1}; "
            "draw it with MPerClassSampler(labels, m=2) or use pairing='auto' or pairing='all'"
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


def _has_large_class(labels: Tensor) -> bool:
    """Whether a class has more rows than are all joined."""
    ranked = labels.sort().values
    return bool((ranked[ALL_UP_TO:] == ranked[:-ALL_UP_TO]).any())


def nearest_others(gram: Gram, row_labels: Tensor, labels: Tensor, similarity: bool) -> Tensor:
    """How near the nearest row of another label is to each column.

    Args:
        gram: (n, m) of the rows with the columns, n at least 1.
        row_labels: (n,).
        labels: (m,) of the columns.
        similarity: whether near is a large inner product or a small distance.

    Returns:
        (m,) that product, or minus half the squared distance; -inf where there is no other label.
    """
    share = 0.0 if similarity else 0.5
    size = _BLOCK // max(1, len(labels)) + 1
    nearest = [
        (rows - share * square.unsqueeze(1))
        .masked_fill_(label.unsqueeze(1) == labels, -torch.inf)
        .amax(0)
        for rows, square, label in zip(
            *(torch.split(x, size) for x in (gram.inner, gram.row_square, row_labels)), strict=True
        )
    ]
    return torch.stack(nearest).amax(0) - share * gram.col_square


class _Frontier(NamedTuple):
    """The rows of each class, those nearest to another class first."""

    order: Tensor  # (m,) rows, class by class
    label: Tensor  # (m,) their labels, ascending
    rank: Tensor  # (m,) the place of each row in its class

    def spans(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Where in ``order`` the class of each label starts, and its size."""
        start = torch.searchsorted(self.label, labels)
        return start, torch.searchsorted(self.label, labels, right=True) - start


def _frontier(gram: Gram, row_labels: Tensor, labels: Tensor, similarity: bool) -> _Frontier:
    """The order of the rows of each class; of equally near ones the first comes first."""
    nearness = nearest_others(gram, row_labels, labels, similarity)
    order = nearness.argsort(descending=True, stable=True)
    label, by_class = labels[order].sort(stable=True)
    order = order[by_class]
    start = torch.searchsorted(label, label)
    place = torch.arange(len(order), device=order.device) - start
    return _Frontier(order, label, torch.empty_like(order).scatter_(0, order, place))


def _joined_with(rank: Tensor, size: Tensor) -> Tensor:
    """How far into its class's order a row is joined, which leaves ``PARTNERS`` without itself."""
    return torch.where(size <= ALL_UP_TO, size, PARTNERS + (rank < PARTNERS).long())


def _partners(frontier: _Frontier, labels: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """Each row with the rows that it is joined with, in order: (o,) and (o,).

    Args:
        frontier: of the rows that are joined with.
        labels: (n,) of the rows that are joined.
        rank: (n,) the places of these rows in the frontier, beyond it where they have none.
    """
    start, size = frontier.spans(labels)
    place = torch.arange(ALL_UP_TO, device=labels.device)
    joined = place < _joined_with(rank, size).unsqueeze(1)  # (n, ALL_UP_TO)
    row, slot = (joined & (place != rank.unsqueeze(1))).nonzero(as_tuple=True)
    partner = frontier.order[start[row] + slot]
    sort = (row * len(frontier.order) + partner).argsort()
    return row[sort], partner[sort]


def _few_curves(frontier: _Frontier, labels: Tensor) -> tuple[Pairs, Tensor, Tensor, Tensor]:
    """The curves of rows with their partners, each once; the ordered pairs, and their curves."""
    row, partner = _partners(frontier, labels, frontier.rank)
    size = frontier.spans(labels)[1][row]
    mutual = frontier.rank[row] < _joined_with(frontier.rank[partner], size)
    once = (row < partner) | ~mutual
    row, partner, mutual = row[once], partner[once], mutual[once]
    first, second = torch.minimum(row, partner), torch.maximum(row, partner)
    sort = (first * len(labels) + second).argsort()
    row, first, second, mutual = row[sort], first[sort], second[sort], mutual[sort]
    forth, back = (
        (mutual | (row == chooser)).nonzero(as_tuple=True)[0] for chooser in (first, second)
    )
    anchor = torch.cat([first[forth], second[back]])
    positive = torch.cat([second[forth], first[back]])
    return Pairs(first, second, labels[first]), anchor, positive, torch.cat([forth, back])


def _lone(frontier: _Frontier, labels: Tensor) -> Pairs:
    """The samples of classes of one row."""
    (row,) = (frontier.spans(labels)[1] == 1).nonzero(as_tuple=True)
    return Pairs(row, row, labels[row])


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
