"""Labels to curves: which rows of a batch are joined, and which curves are negatives of which."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from loopml._checks import values_readable
from loopml._types import Pairs

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


def own_references(
    embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor
) -> Tensor:
    """The reference that each row itself is: (n,), -1 where it is none.

    A reference is the row itself if it has the row's label and all of its numbers. Where several
    are (one sample twice in a class), one of them is: the one at the row's own index, as where
    references begin with the batch, or else the first. The others are positives at distance 0, as
    they are in a batch without references.
    """
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
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    bits = (x.detach() + 0.0).contiguous().view(whole).long()  # -0.0 + 0.0 is 0.0
    place = torch.arange(1, x.shape[1] + 1, device=x.device)
    mixed = (bits + place * 0x2545F4914F6CDD1D) * 0x5851F42D4C957F2D
    mixed = (mixed ^ (mixed >> 29)) * 0x14057B7EF767814F
    return (mixed ^ (mixed >> 32)).sum(1)


def positive_mask(
    embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None, ref_labels: Tensor | None
) -> Tensor:
    """Which references are positives of which rows: the same class, and not the row itself: (n, m).

    Without references the batch is its own.
    """
    if ref_emb is None or ref_labels is None:
        return (labels.unsqueeze(1) == labels).fill_diagonal_(False)
    mask = labels.unsqueeze(1) == ref_labels
    own = own_references(embeddings, labels, ref_emb, ref_labels)
    if mask.shape[1]:
        # Where a row is none of the references, the first of them stays what it is.
        others = (own < 0).unsqueeze(1) & mask[:, :1]
        mask.scatter_(1, own.clamp(min=0).unsqueeze(1), others)
    return mask


def pair_up(
    pairing: str,
    embeddings: Tensor,
    labels: Tensor,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    *,
    gram: Tensor | None = None,
    similarity: bool = False,
) -> Pairing:
    """The curves of a batch.

    Args:
        pairing: "all" joins every two rows of a class. "auto" does so up to 8 rows of a class; in a
            larger one it joins each row with the two rows, other than itself, that lie nearest to
            another class. "consecutive" joins rows (0, 1), (2, 3), ...
        embeddings: (n, d), read only to find references that are the batch's own rows.
        labels: (n,) in any order, with any class sizes.
        ref_emb: (m, d) references: anchors come from the batch, positives and negatives from here.
        ref_labels: (m,).
        gram: (n, n), or (n + m, n + m) with references: inner products, by which "auto" knows what
            lies near; it may be left out where no class has more than 8 rows.
        similarity: whether near is a large inner product or a small distance.

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
                "use pairing='auto' or pairing='all'"
            )
        curves = _consecutive(labels)
        return _both_ways(curves, curves)
    of_class = labels if ref_labels is None else ref_labels
    frontier = None
    if pairing == "auto" and _has_large_class(of_class):
        assert gram is not None
        offset = len(gram) - len(of_class)
        frontier = _frontier(gram[offset:, offset:], of_class, similarity)
    if ref_emb is None or ref_labels is None:
        if frontier is None:
            curves, lone = all_curves(labels)
            return _both_ways(curves, _concatenate(curves, lone) if len(lone.first) else curves)
        curves, *chosen = _few_curves(frontier, labels)
        return Pairing(curves, _concatenate(curves, _lone(frontier, labels)), *chosen)
    if frontier is None:
        anchor, positive = positive_mask(embeddings, labels, ref_emb, ref_labels).nonzero(
            as_tuple=True
        )
        curves, lone = all_curves(ref_labels)
    else:
        own = own_references(embeddings, labels, ref_emb, ref_labels)
        rank = torch.where(own < 0, len(ref_labels), frontier.rank[own.clamp(min=0)])
        anchor, positive = _partners(frontier, labels, rank)
        curves, lone = _few_curves(frontier, ref_labels)[0], _lone(frontier, ref_labels)
    offset = len(labels)
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


def nearest_others(gram: Tensor, labels: Tensor, similarity: bool) -> Tensor:
    """How near the nearest row of another label is to each row.

    Args:
        gram: (n, n) inner products.
        labels: (n,).
        similarity: whether near is a large inner product or a small distance.

    Returns:
        (n,) that product, or minus half the squared distance; -inf where there is no other label.
    """
    if len(labels) == 0:
        return gram.new_empty(0)
    half_sq = gram.diagonal() * (0.0 if similarity else 0.5)
    size = _BLOCK // len(labels) + 1
    nearest = [
        (rows - half_sq).masked_fill_(label.unsqueeze(1) == labels, -torch.inf).amax(1)
        for rows, label in zip(torch.split(gram, size), torch.split(labels, size), strict=True)
    ]
    return torch.cat(nearest) - half_sq


class _Frontier(NamedTuple):
    """The rows of each class, those nearest to another class first."""

    order: Tensor  # (m,) rows, class by class
    label: Tensor  # (m,) their labels, ascending
    rank: Tensor  # (m,) the place of each row in its class

    def spans(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Where in ``order`` the class of each label starts, and its size."""
        start = torch.searchsorted(self.label, labels)
        return start, torch.searchsorted(self.label, labels, right=True) - start


def _frontier(gram: Tensor, labels: Tensor, similarity: bool) -> _Frontier:
    """The order of the rows of each class; of equally near ones the first comes first."""
    nearness = nearest_others(gram, labels, similarity)
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
