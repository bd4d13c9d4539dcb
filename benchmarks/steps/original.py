r"""What the official LoOp code computes, in PyTorch and in our words, as a yardstick.

The official code (Vasudeva et al., https://github.com/puneesh00/LoOp) is for MXNet, which is
retired. This follows its algorithm for HPHN triplet on unit vectors, step by step:

- rows (0, 1), (2, 3), ... are pairs, and pairs with an angle under 0.001 are left out;
- every two pairs of different classes are written out as four (m, d) matrices, m of order p^2;
- the minimum over the angles :math:`(\alpha, \beta) \in [0, \alpha_0] \times [0, \beta_0]` has ten
  candidates: a stationary point on each of the four edges, the four corners, and two stationary
  points inside, from a quadratic in :math:`\tan \alpha`;
- a candidate is accepted where it lies in the box and the distance does not fall into the box, the
  sign of a Karush-Kuhn-Tucker multiplier; one that is not counts as 1000 away;
- all ten pairs of points are made in d dimensions, measured by their differences, and the least
  distance is the answer;
- the gradient is autograd's through all of it: roots, arc tangents and points.

Faithful too are the flaws: where no candidate passes its sign test (arcs of one great circle, a
shared endpoint) the distance is 1000, so the hardest negative is dropped, and coincident or
opposite endpoints give NaN gradients.

Not faithful, each in the original's favour: its loops over classes and list comprehensions over
tensors are vectorised, candidates are stacked once and not concatenated nine times, prints are
left out, and the fallback for a batch with fewer than two pairs is the distance of first endpoints
without its index arithmetic. So times and memory are lower bounds of those of the original.

Not faithful to its disadvantage: some guards against a division by zero are left out. So on arcs
without a length only the gradient stands for the original, not the distance.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

REJECTED = 1000.0
_LEAST_ANGLE = 1e-3
_LEAST_DIVISOR = 1e-10


def _divisor(x: Tensor) -> Tensor:
    """``x`` moved away from 0."""
    away = torch.copysign(x.new_tensor(_LEAST_DIVISOR), x)
    return torch.where(x.abs() < _LEAST_DIVISOR, x + away, x)


def _angle(tangent: Tensor) -> Tensor:
    """The angle in [0, pi) of a tangent."""
    angle = torch.atan(tangent)
    return angle + (angle < 0) * math.pi


class _Cosine:
    """The cosine between a point of each arc, as a function of their angles alpha and beta."""

    def __init__(self, cc: Tensor, cs: Tensor, sc: Tensor, ss: Tensor) -> None:
        self.cc, self.cs, self.sc, self.ss = cc, cs, sc, ss

    def swapped(self) -> _Cosine:
        """The same with the arcs exchanged."""
        return _Cosine(self.cc, self.sc, self.cs, self.ss)

    def slope(self, alpha: Tensor, beta: Tensor) -> Tensor:
        """Its derivative in alpha: on an edge, the multiplier of the constraint."""
        at_cos = self.sc * torch.cos(beta) + self.ss * torch.sin(beta)
        at_sin = self.cc * torch.cos(beta) + self.cs * torch.sin(beta)
        return torch.cos(alpha) * at_cos - torch.sin(alpha) * at_sin

    def stationary(self, alpha: Tensor) -> Tensor:
        """The beta in [0, pi) that is stationary for a given alpha."""
        at_sin = self.cs * torch.cos(alpha) + self.ss * torch.sin(alpha)
        at_cos = self.cc * torch.cos(alpha) + self.sc * torch.sin(alpha)
        return _angle(at_sin / _divisor(at_cos))

    def roots(self) -> tuple[Tensor, Tensor]:
        """Both alphas in [0, pi) that are stationary together with some beta."""
        sum_of_roots = (self.ss**2 + self.sc**2 - self.cs**2 - self.cc**2) / _divisor(
            self.ss * self.cs + self.sc * self.cc
        )
        spread = torch.sqrt(sum_of_roots**2 + 4)
        tangents = (sum_of_roots + spread) / 2, (sum_of_roots - spread) / 2  # > 0 and < 0
        return torch.atan(tangents[0]), torch.atan(tangents[1]) + math.pi


def _frame(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The start of arcs, the unit vectors along them there, and their angles."""
    cosine = (start * end).sum(-1)
    along = end - cosine.unsqueeze(-1) * start
    return start, along / along.norm(dim=-1, keepdim=True), torch.arccos(cosine)


def _point(frame: tuple[Tensor, Tensor, Tensor], angle: Tensor) -> Tensor:
    """The points of arcs at some angle."""
    return frame[0] * torch.cos(angle).unsqueeze(-1) + frame[1] * torch.sin(angle).unsqueeze(-1)


def arc_distance(p0: Tensor, p1: Tensor, q0: Tensor, q1: Tensor) -> Tensor:
    """The least distance of arcs between unit vectors (m, d), or 1000 where no candidate passes."""
    p, q = _frame(p0, p1), _frame(q0, q1)
    cosine = _Cosine(*((x * y).sum(-1) for x in p[:2] for y in q[:2]))
    swapped, zero = cosine.swapped(), torch.zeros_like(p[2])
    p_ends, q_ends = ((zero, p0, -1), (p[2], p1, 1)), ((zero, q0, -1), (q[2], q1, 1))
    points_p, points_q, accepted = [], [], []

    def add(point_p: Tensor, point_q: Tensor, passes: Tensor) -> None:
        points_p.append(point_p)
        points_q.append(point_q)
        accepted.append(passes)

    for alpha, end, outward in p_ends:
        beta = cosine.stationary(alpha)
        passes = (outward * cosine.slope(alpha, beta) >= 0) & (beta <= q[2])
        add(end, _point(q, beta), passes)
    for beta, end, outward in q_ends:
        alpha = swapped.stationary(beta)
        passes = (outward * swapped.slope(beta, alpha) >= 0) & (alpha <= p[2])
        add(_point(p, alpha), end, passes)
    for alpha, p_end, p_outward in p_ends:
        for beta, q_end, q_outward in q_ends:
            p_passes = p_outward * cosine.slope(alpha, beta) >= 0
            add(p_end, q_end, p_passes & (q_outward * swapped.slope(beta, alpha) >= 0))
    for alpha in cosine.roots():
        beta = cosine.stationary(alpha)
        add(_point(p, alpha), _point(q, beta), (alpha <= p[2]) & (beta <= q[2]))

    difference = torch.stack(points_p) - torch.stack(points_q)  # (10, m, d)
    distance = torch.sqrt((difference * difference).sum(-1) + 1e-20)
    passes = torch.stack(accepted).to(distance.dtype)
    return (distance * passes + REJECTED * (1 - passes)).amin(0)


def _farthest_positive(x: Tensor, labels: Tensor) -> Tensor:
    """Per pair of rows the greatest distance of either to a row of its class, from differences."""
    difference = x.unsqueeze(1) - x.unsqueeze(0)  # (n, n, d)
    distance = torch.sqrt((difference * difference).sum(-1) + 1e-20)
    positive = distance * (labels.unsqueeze(1) == labels)
    return positive.max(1).values.reshape(-1, 2).max(1).values


def hphn_triplet(embeddings: Tensor, labels: Tensor, margin: float = 0.2) -> Tensor:
    """HPHN triplet with LoOp on pairs of consecutive rows (n, d), averaged over pairs."""
    x = normalize(embeddings)
    first, second = x[0::2], x[1::2]
    label = labels[0::2]
    if len(labels) == 2 * len(label.unique()):
        d_ap = torch.sqrt((first - second).square().sum(-1) + 1e-20)
    else:
        d_ap = _farthest_positive(x, labels)
    is_arc = torch.arccos((first * second).sum(-1)) > _LEAST_ANGLE
    arcs = int(is_arc.sum()) >= 2
    if arcs:
        first, second, label, d_ap = first[is_arc], second[is_arc], label[is_arc], d_ap[is_arc]
    i, j = torch.triu_indices(len(label), len(label), 1)
    negative = label[i] != label[j]
    i, j = i[negative], j[negative]
    if arcs:
        distance = arc_distance(first[i], second[i], first[j], second[j])
    else:
        distance = torch.sqrt((first[i] - first[j]).square().sum(-1) + 1e-20)
    distances = distance.new_full((len(label), len(label)), math.inf)
    distances = distances.index_put((i, j), distance).index_put((j, i), distance)
    return torch.relu(d_ap - distances.amin(1) + margin).mean()
