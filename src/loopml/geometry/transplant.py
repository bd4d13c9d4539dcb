r"""Carry a synthetic negative over to a real anchor, keeping its distance.

The nearest points :math:`z_p` and :math:`z_n` of two curves are both synthetic. But a tuple of a
pytorch-metric-learning loss can only say "the distance from row a to row n". So the negative is
moved to a point :math:`n'` whose distance from the real anchor :math:`a` equals the distance from
:math:`z_p` to :math:`z_n`, for all embeddings. Value and gradient are then those of a loss whose
distance matrix had this entry overwritten.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loopml.geometry.lengths import distance_between, normalized
from loopml.geometry.packing import wide


def onto_sphere(anchor: Tensor, z_p: Tensor, z_n: Tensor) -> Tensor:
    r"""The image of ``z_n`` under the rotation that takes ``z_p`` to ``anchor``, all unit vectors.

    .. math:: n' = z_n - \frac{\langle z_p + a, z_n \rangle}{1 + \langle z_p, a \rangle} (z_p + a)
        + 2 \langle z_p, z_n \rangle a

    Then :math:`\langle a, n' \rangle = \langle z_p, z_n \rangle` and :math:`\lVert n' \rVert = 1`.
    The formula is singular at :math:`z_p = -a`. If the angle between :math:`z_p` and :math:`a` is
    more than a right angle, :math:`-z_p` and :math:`-z_n` are taken instead. They have the same
    inner product.

    Args:
        anchor: (..., d) unit vectors.
        z_p: (..., d) unit vectors.
        z_n: (..., d) unit vectors.

    Returns:
        (..., d) unit vectors.
    """
    cosine = (z_p * anchor).sum(-1, keepdim=True)
    sign = torch.where(cosine.detach() < 0, -1, 1).to(z_n.dtype)
    z_p, z_n, cosine = sign * z_p, sign * z_n, sign * cosine
    middle = z_p + anchor
    along = (middle * z_n).sum(-1, keepdim=True) / (1 + cosine)
    return z_n - along * middle + 2 * (z_p * z_n).sum(-1, keepdim=True) * anchor


def onto_sphere_at_distance(anchor: Tensor, z_p: Tensor, z_n: Tensor) -> Tensor:
    r"""The unit vector at the distance ``|z_p - z_n|`` from ``anchor``, along ``z_n - z_p``.

    For points of straight segments between unit vectors. They lie inside the sphere, so no rotation
    can move them to the anchor. With :math:`d = \lVert z_p - z_n \rVert` and :math:`\tau` the unit
    tangent at :math:`a` along :math:`z_n - z_p`

    .. math:: n' = (1 - d^2 / 2)\, a + d \sqrt{1 - d^2 / 4}\; \tau.
    """
    distance = distance_between(z_p, z_n).unsqueeze(-1)
    heading = z_n - z_p
    tangent = heading - (heading * anchor).sum(-1, keepdim=True) * anchor
    # Straight towards or away from the anchor's pole there is no tangent: take any.
    least = torch.nn.functional.one_hot(anchor.detach().abs().argmin(-1), anchor.shape[-1])
    least = least.to(anchor.dtype)
    spare = least - (least * anchor).sum(-1, keepdim=True) * anchor
    straight = tangent.detach().norm(dim=-1, keepdim=True) <= 1e-9 * distance.detach()
    tangent = normalized(torch.where(straight, spare, tangent))
    far = (1 - distance.square() / 4).clamp(min=0)
    # Opposite points: sqrt'(0) is infinite, and the term vanishes.
    root = torch.where(far > 0, torch.where(far > 0, far, 1).sqrt(), 0)
    return (1 - distance.square() / 2) * anchor + distance * root * tangent


def onto_plane(anchor: Tensor, z_p: Tensor, z_n: Tensor) -> Tensor:
    """``z_n`` moved by the translation from ``z_p`` to ``anchor``, which keeps the distance."""
    return anchor + (z_n - z_p)


def along_anchor(anchor: Tensor, z_p: Tensor, z_n: Tensor) -> Tensor:
    """``z_n`` moved along ``anchor`` until ``<anchor, n'> = <z_p, z_n>``: keeps the dot product.

    For an anchor that is zero, or so short that n' would be 1e15 long, there is no useful n'. Then
    ``z_n`` is returned as it is.
    """
    dtype = z_n.dtype
    # The gradient holds 1 / |a|^4, beyond float32 for an ordinary short anchor.
    anchor, z_p, z_n = wide(anchor), wide(z_p), wide(z_n)
    sq_anchor = anchor.square().sum(-1, keepdim=True)
    missing = ((z_p - anchor) * z_n).sum(-1, keepdim=True)
    within = (missing.detach() / 1e15).square() < sq_anchor.detach()
    shift = torch.where(within, missing, 0) / torch.where(within, sq_anchor, 1)
    return (z_n + shift * anchor).to(dtype)
