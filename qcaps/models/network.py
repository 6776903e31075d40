"""A capsule network: named stages, one after the other, and possibly a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qcaps.capsules.masking import MaskLayout, mask_capsules
from qcaps.capsules.sites import Sites, hooked
from qcaps.capsules.squash import length


class Output(NamedTuple):
    """What a network says of a batch.

    `scores` has shape ``(batch, classes)``, the largest is the prediction; `capsules` has shape
    ``(batch, classes, dim)``.
    """

    scores: Tensor
    capsules: Tensor


class CapsuleNetwork(nn.Module):
    """A list of stages from images to class capsules.

    Parameters
    ----------
    stages
        Name → module, in order; each maps the value of the one before.
    length_eps
        Added under the root of the capsule length.
    decoder, mask_layout
        Reconstruction of an image from one class capsule; None for none.
    folds
        Pairs of stages ``(normalised, next)``: the batch norm of the first may be folded into the convolution
        of the second, exactly.
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        *,
        length_eps: float = 0.0,
        decoder: nn.Module | None = None,
        mask_layout: MaskLayout = "zeros",
        folds: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(stages)
        self.length_eps = length_eps
        self.decoder = decoder
        self.mask_layout: MaskLayout = mask_layout
        self.folds = folds
        for path, module in self.stages.named_modules():
            if isinstance(module, Sites):
                module.owner = path.removesuffix(".sites")

    def forward(self, images: Tensor) -> Output:
        """Score images of shape ``(batch, channels, height, width)``, values in [0, 1]."""
        value = images
        for stage in self.stages.values():
            value = stage(value)
        return Output(length(value, self.length_eps), value)

    def reconstruct(self, capsules: Tensor, kept: Tensor) -> Tensor:
        """Draw images from the kept class capsule of each.

        Parameters
        ----------
        capsules
            Class capsules, shape ``(batch, classes, dim)``.
        kept
            Class to draw, shape ``(batch,)``.

        Raises
        ------
        ValueError
            If the network has no decoder.
        """
        if self.decoder is None:
            raise ValueError("this network has no decoder")
        images: Tensor = self.decoder(mask_capsules(capsules, kept, self.mask_layout))
        return images


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


def parameter_count(network: CapsuleNetwork) -> int:
    """Count the trainable values of the encoder."""
    return sum(p.numel() for p in network.stages.parameters())


def to_inference(network: CapsuleNetwork) -> CapsuleNetwork:
    """Put a network into the one form every measurement uses: eval mode, channels-last convolutions."""
    network.eval().requires_grad_(requires_grad=False)
    return network.to(memory_format=torch.channels_last)
