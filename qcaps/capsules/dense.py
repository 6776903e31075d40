"""Dense layers of networks without routing."""

from __future__ import annotations

from torch import Tensor, nn

from qcaps.capsules.sites import Sites
from qcaps.capsules.squash import SquashVariant, squash

WEIGHT_SITES = {"weight": "linear.weight", "bias": "linear.bias"}


class DenseCapsules(nn.Module):
    """A dense layer whose outputs are read as capsules, output = capsule · dim + position in the vector.

    Parameters
    ----------
    inputs
        Values of one image that go in.
    capsules, dim
        Number and dimension of the capsules.
    squash_variant, squash_eps
        See :func:`~qcaps.capsules.squash.squash`; None leaves the capsules as they are.
    """

    def __init__(
        self, inputs: int, capsules: int, dim: int, *, squash_variant: SquashVariant | None, squash_eps: float = 0.0
    ) -> None:
        super().__init__()
        self.dim, self.squash_variant, self.squash_eps = dim, squash_variant, squash_eps
        self.linear = nn.Linear(inputs, capsules * dim)
        self.sites = Sites(*(("presquash",) if squash_variant else ()), "out", weights=WEIGHT_SITES)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, ...)`` to ``(batch, capsules, dim)``."""
        s = self.linear(x.flatten(1))
        capsules = s.view(len(s), -1, self.dim)
        if self.squash_variant is not None:
            capsules = squash(self.sites("presquash", capsules), self.squash_variant, self.squash_eps)
        return self.sites("out", capsules)


class FeatureClassifier(nn.Module):
    """A dense layer that scores features, and hands them on for the decoder.

    Parameters
    ----------
    inputs, classes
        Values of one image that go in, and scores.
    """

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, classes)
        self.sites = Sites("out", weights=WEIGHT_SITES)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Give the features ``(batch, classes, dim)`` as they are, and scores ``(batch, classes)``."""
        return features, self.sites("out", self.linear(features.flatten(1)))


class MapClassifier(nn.Module):
    """A dense layer from all values of a feature map to logits.

    Parameters
    ----------
    inputs, classes
        Values of one image that go in, and logits.
    """

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, classes)
        self.sites = Sites("out", weights=WEIGHT_SITES)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, channels, h, w)`` to the logits, ``(batch, classes, 1)`` and ``(batch, classes)``."""
        logits = self.sites("out", self.linear(maps.flatten(1)))
        return logits.unsqueeze(2), logits
