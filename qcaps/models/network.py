"""A capsule network: named stages, one after the other, and possibly a decoder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from qcaps.capsules.losses import ClassLoss
from qcaps.capsules.masking import MaskLayout, mask_capsules
from qcaps.capsules.sites import Sites, hooked
from qcaps.capsules.squash import length
from qcaps.models.units import Unit

# Every call of a convolution reorders its weights. For more than so many of them that is slow from channels-last: by a
# third for the 9×9 convolution of a ShallowCapsNet, by half for a ResNet's last ones.
MOST_WEIGHTS_CHANNELS_LAST = 100_000


class Output(NamedTuple):
    """What a network says of a batch.

    `scores` has shape ``(batch, classes)``, the largest is the prediction: lengths of the class capsules, activations
    of matrix capsules, logits of a plain classifier. `capsules` has shape ``(batch, classes, dim)``.
    """

    scores: Tensor
    capsules: Tensor


@dataclass(frozen=True)
class Fold:
    """A batch norm and the convolution it may be folded into, exactly; paths within the stages."""

    norm: str
    conv: str


@dataclass(frozen=True)
class Chain:
    """Two convolutions with a ReLU between them, a leaky one or a maximum perhaps; paths within the stages.

    A channel may be made larger in the one and as much smaller in the other. Nothing else reads it, and the second
    convolution has one group.
    """

    first: str
    second: str


class CapsuleNetwork(nn.Module):
    """A list of stages from images to class capsules.

    Parameters
    ----------
    stages
        Name → module, in order; each maps the value of the one before. The last gives class capsules
        ``(batch, classes, dim)``, or a pair of them and the scores ``(batch, classes)``.
    length_eps
        Added under the root of the capsule length.
    decoder, mask_layout
        Reconstruction of an image from one class capsule; None for none.
    folds, chains
        Every batch norm that can be folded away, and all convolutions between which channels can be balanced.
    units
        What can be pruned.
    loss
        What the scores are trained with.
    backbone
        Names of the stages in front of a capsule head, those that are frozen to train the head alone.
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        *,
        length_eps: float = 0.0,
        decoder: nn.Module | None = None,
        mask_layout: MaskLayout = "zeros",
        folds: Sequence[Fold] = (),
        chains: Sequence[Chain] = (),
        units: Sequence[Unit] = (),
        loss: ClassLoss = "margin",
        backbone: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(stages)
        self.length_eps = length_eps
        self.decoder = decoder
        self.mask_layout: MaskLayout = mask_layout
        self.folds = tuple(folds)
        self.chains = tuple(chains)
        self.units = tuple(units)
        self.loss: ClassLoss = loss
        self.backbone = tuple(backbone)
        self.frozen: frozenset[str] = frozenset()
        for path, module in self.stages.named_modules():
            if isinstance(module, Sites):
                module.owner = path.removesuffix(".sites")

    def forward(self, images: Tensor) -> Output:
        """Score images of shape ``(batch, channels, height, width)``, values in [0, 1]."""
        value = images
        for stage in self.stages.values():
            value = stage(value)
        return self.read_out(value)

    def read_out(self, value: Tensor | tuple[Tensor, Tensor]) -> Output:
        """Score what the last stage gave."""
        if isinstance(value, Tensor):
            return Output(length(value, self.length_eps), value)
        capsules, scores = value
        return Output(scores, capsules)

    def freeze(self, names: Collection[str]) -> None:
        """Keep stages as they are: no gradients, and always in evaluation mode, so that no statistics drift."""
        self.frozen = frozenset(names)
        for name in self.frozen:
            self.stages[name].requires_grad_(requires_grad=False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        for name in self.frozen:
            self.stages[name].eval()
        return self

    def reconstruct(self, capsules: Tensor, kept: Tensor) -> Tensor:
        """Draw images from the kept class capsules.

        Parameters
        ----------
        capsules
            Class capsules, shape ``(batch, classes, dim)``.
        kept
            Class to draw of each image, shape ``(batch,)``, or several, shape ``(batch, n)``, drawn apart by the one
            decoder.

        Returns
        -------
        Tensor
            Shape ``(batch, channels, height, width)`` or ``(batch, n, channels, height, width)``.

        Raises
        ------
        ValueError
            If the network has no decoder.
        """
        if self.decoder is None:
            raise ValueError("this network has no decoder")
        masked = mask_capsules(capsules, kept, self.mask_layout)
        images: Tensor = self.decoder(masked.flatten(0, -2))
        return images.view(*masked.shape[:-1], *images.shape[1:])


def predictions(output: Output) -> Tensor:
    """Take the class with the largest score, the lowest index on a tie: shape ``(batch,)``."""
    return output.scores.argmax(1)


def weight_sites(network: CapsuleNetwork) -> dict[str, str]:
    """List the weight sites in execution order: site name → parameter name."""
    found: dict[str, str] = {}
    for module in network.stages.modules():
        if isinstance(module, Sites):
            for role, parameter in module.weights.items():
                found[f"{module.owner}.{role}"] = f"stages.{module.owner}.{parameter}"
    return found


def array_sites(network: CapsuleNetwork, image: tuple[int, int, int]) -> dict[str, int]:
    """List the array sites in execution order, with the values that one image has there.

    Parameters
    ----------
    network
        On any device; on the meta device nothing is computed.
    image
        Channels, height and width.
    """
    values: dict[str, int] = {}

    def note(site: str, array: Tensor) -> Tensor:
        values[site] = array[0].numel()
        return array

    device = next(network.parameters()).device
    with torch.no_grad(), hooked(network, note):
        network(torch.empty(1, *image, device=device))
    return values


def encoder_tensors(network: CapsuleNetwork) -> dict[str, Tensor]:
    """List what inference needs: every parameter and running statistic outside the decoder."""
    return {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith("decoder.") and not name.endswith("num_batches_tracked")
    }


def float_tensors(network: CapsuleNetwork) -> dict[str, Tensor]:
    """List the encoder tensors without a weight site, norms that cannot be folded for example: they stay in float."""
    rounded = set(weight_sites(network).values())
    return {name: tensor for name, tensor in encoder_tensors(network).items() if name not in rounded}


def parameter_count(network: CapsuleNetwork) -> int:
    """Count the trainable values of the encoder."""
    return sum(p.numel() for p in network.stages.parameters())


def to_inference(network: CapsuleNetwork) -> CapsuleNetwork:
    """Put a network into the one form every measurement uses: eval mode, convolutions in their fastest memory order."""
    network.eval().requires_grad_(requires_grad=False)
    order = torch.channels_last if _likes_channels_last(network) else torch.contiguous_format
    return network.to(memory_format=order)


def _likes_channels_last(network: CapsuleNetwork) -> bool:
    """Tell whether all convolutions are small; an instance norm works in PyTorch's own order."""
    modules = list(network.stages.modules())
    weights = [module.weight.numel() for module in modules if isinstance(module, nn.Conv2d)]
    normed = any(isinstance(module, nn.InstanceNorm2d) for module in modules)
    return not normed and max(weights, default=0) <= MOST_WEIGHTS_CHANNELS_LAST
