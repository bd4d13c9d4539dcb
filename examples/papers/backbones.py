"""Networks of torchvision that end in an embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models


class Backbone(NamedTuple):
    """How to make a network, which layer of it classifies, and what else only serves that."""

    make: Callable[[], nn.Module]
    classifier: str
    auxiliary: tuple[str, ...] = ()


def _googlenet() -> nn.Module:
    # transform_input: torchvision's weights are of another implementation, with its normalisation.
    return models.googlenet(
        weights=None, aux_logits=False, transform_input=True, init_weights=True, dropout=0
    )


BACKBONES: Mapping[str, Backbone] = MappingProxyType(
    {
        "googlenet": Backbone(_googlenet, "fc", ("aux1", "aux2")),
        "resnet50": Backbone(models.resnet50, "fc"),
        "convnext_tiny": Backbone(models.convnext_tiny, "classifier.2"),
    }
)


class Embedder(nn.Module):
    """Images (n, 3, size, size) to embeddings (n, dim) of length 1.

    Args:
        backbone: a key of `BACKBONES`.
        dim: of the embeddings.
        frozen_batch_norm: keep statistics, scale and shift of the batch normalisations as they
            are.
    """

    def __init__(self, backbone: str, dim: int, frozen_batch_norm: bool = False) -> None:
        super().__init__()
        make, classifier, auxiliary = BACKBONES[backbone]
        self.trunk = make()
        self.head = nn.Linear(self.trunk.get_submodule(classifier).in_features, dim)
        # As the papers' code: Xavier of magnitude 2, where PyTorch's has 3.
        nn.init.xavier_uniform_(self.head.weight, gain=(2 / 3) ** 0.5)
        nn.init.zeros_(self.head.bias)
        parent, _, child = classifier.rpartition(".")
        setattr(self.trunk.get_submodule(parent), child, nn.Identity())
        self.unused = tuple(f"{name}." for name in (classifier, *auxiliary))
        norms = [module for module in self.modules() if isinstance(module, _BatchNorm)]
        if frozen_batch_norm and not norms:
            raise ValueError(f"{backbone} has no batch normalisation to freeze")
        self.frozen = norms if frozen_batch_norm else []
        for norm in self.frozen:
            norm.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """The embeddings of a batch."""
        return normalize(self.head(self.trunk(images)))

    def train(self, mode: bool = True) -> Embedder:
        """Switch between training and evaluation; what is frozen stays in evaluation."""
        super().train(mode)
        for norm in self.frozen:
            norm.eval()
        return self

    def load_weights(self, path: Path) -> None:
        """Take the features of a state dict of torchvision's network; its classifier is left out.

        Raises:
            ValueError: it is of another network.
        """
        state = torch.load(path, map_location="cpu", weights_only=True)
        features = {
            name: value for name, value in state.items() if not name.startswith(self.unused)
        }
        expected = self.trunk.state_dict()
        wrong = sorted(
            {name for name in features if name not in expected}
            | {
                name
                for name, value in expected.items()
                if name not in features or features[name].shape != value.shape
            }
        )
        if wrong:
            raise ValueError(
                f"{path} is not of this backbone: {len(wrong)} entries are missing, unknown or of "
                f"another shape, the first is {wrong[0]}; give torchvision's state dict of it"
            )
        self.trunk.load_state_dict(features)
