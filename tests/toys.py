"""Toy capsule networks and images, small enough for a test to run them many times."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcaps.capsules.sites import Sites
from qcaps.data.images import ImageSet, Split
from qcaps.models.efficient_capsnet import EfficientCapsNetSpec
from qcaps.models.network import CapsuleNetwork, to_inference
from qcaps.models.shallow_capsnet import ShallowCapsNetSpec
from qcaps.models.spec import ModelSpec, initialised

# Batch norms after every convolution; the last one is followed by a depthwise layer.
NORMED = EfficientCapsNetSpec(height=14, width=14, classes=3, conv_channels=(4, 4, 6, 16), class_dim=4)
FOLDED = NORMED.folded()
# Three routing iterations, so that sites repeat.
ROUTED = ShallowCapsNetSpec(
    height=14,
    width=14,
    classes=3,
    conv_channels=(4,),
    conv_kernels=(5,),
    primary_types=3,
    primary_dim=4,
    primary_kernel=5,
    primary_coupling=1 / 3,
    class_dim=4,
)
# With this seed each of the three networks predicts more than one class.
SEED = 44


def toy_network(spec: ModelSpec, seed: int = SEED) -> CapsuleNetwork:
    """Build a network of random numbers in inference form; its norms are far from the identity."""
    network = initialised(spec, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("bias") or ".norm." in name:
            size = 1.0 if name.endswith("norm.weight") else 0.1
            tensor.copy_(size * torch.randn(tensor.shape, generator=generator))
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        if name == "stages.class_caps.weight":
            tensor.mul_(4)  # votes large enough for the classes to differ
    return to_inference(network)


def toy_images(spec: ModelSpec, count: int = 20, *, seed: int = 0, split: Split = "validation") -> ImageSet:
    """Draw images of large random patches, with indices that are neither ordered nor dense."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randint(0, 256, (count, spec.channels, 3, 3), generator=generator)
    pixels = patches.repeat_interleave(5, 2).repeat_interleave(5, 3)[:, :, : spec.height, : spec.width]
    labels = torch.randint(0, spec.classes, (count,), generator=generator)
    indices = torch.randperm(5 * count, generator=generator)[:count]
    names = tuple(map(str, range(spec.classes)))
    return ImageSet("digits", split, pixels.to(torch.uint8), labels, indices, names)


def echo_network(*weight: float) -> CapsuleNetwork:
    """Build a network that passes its pixels through one site, as class capsules of one dimension."""
    return to_inference(CapsuleNetwork({"echo": _Echo(torch.tensor(weight or (1.0,)))}))


class _Echo(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.sites = Sites("out", weights={"weight": "weight"})

    def forward(self, pixels: Tensor) -> Tensor:
        return self.sites("out", pixels.flatten(1).unsqueeze(2))  # (batch, pixels, 1)
