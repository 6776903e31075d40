"""Checkpoints of ``EIDOSLAB/towards-efficient-capsule-networks``: a backbone of EagleEye with a capsule head."""

from __future__ import annotations

from torch import Tensor

from qcaps.importers.backbones import mobilenetv1_tensors, resnet50_tensors
from qcaps.importers.mapping import ForeignTensors, Numbers
from qcaps.models.spec import ModelSpec

# Both backbones halve the image five times.
PIXELS_PER_CELL = 32
# An option of its primary layer has a bias that its code never reads.
UNUSED = "primaryCaps.routing_bias"


def towards_efficient(tensors: ForeignTensors, numbers: Numbers) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Map a checkpoint; the number of routing passes lies beside its state dict.

    The MobileNetV1 of this source was trained without the ReLU of its first convolution.

    Raises
    ------
    ArtifactError
        If a tensor is missing or has another shape.
    UsageError
        If `numbers` do not fit the network.
    """
    # The published code lets the lower capsules compete for each class, not the classes for each lower capsule.
    found: dict[str, object] = {"softmax_axis": "inputs"}
    if tensors.names("resnet50."):
        preset = "resnet50-capsnet"
        layers = [f"resnet50.{n}" for n in range(4, 8)]
        ours, widths = resnet50_tensors(tensors, ("resnet50.0", "resnet50.1"), layers)
    else:
        preset = "mobilenetv1-capsnet"
        found["stem_relu"] = False
        ours, widths = mobilenetv1_tensors(tensors, ("mobilenet.0", "mobilenet.1"), "mobilenet.2")
    ours |= tensors.renamed("primaryCaps.caps_poses", "stages.primary.conv")
    weight = tensors.take("classCaps.weight", None, 1, 1, None, None, None)[:, 0, 0]  # (lower, class, class_dim, dim)
    types, classes, class_dim, dim = weight.shape
    ours["stages.class_caps.weight"] = weight.transpose(2, 3)
    bias = tensors.take("classCaps.routing_bias", classes, 1, 1, class_dim, 1)
    ours["stages.class_caps.routing.bias"] = bias.flatten(1)
    if UNUSED in tensors:
        tensors.ignore(UNUSED)
    if "routing_iterations" in tensors.foreign.numbers:
        found["routing_passes"] = tensors.foreign.numbers["routing_iterations"]
    side = PIXELS_PER_CELL * ours["stages.primary.conv.weight"].shape[2]
    found |= {
        "channels": ours["stages.stem.conv.weight"].shape[1],
        "height": side,
        "width": side,
        "classes": classes,
        "widths": widths,
        "primary_types": types,
        "primary_dim": dim,
        "class_dim": class_dim,
    }
    return tensors.spec(preset, found, numbers), ours
