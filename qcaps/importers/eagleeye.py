"""Checkpoints of ``anonymous47823493/EagleEye``: pruned ResNet-50 and MobileNetV1 classifiers."""

from __future__ import annotations

from torch import Tensor

from qcaps.importers.backbones import mobilenetv1_tensors, resnet50_tensors
from qcaps.importers.mapping import ForeignTensors, Numbers
from qcaps.models.spec import ModelSpec


def eagleeye(tensors: ForeignTensors, numbers: Numbers) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Map a classifier, pruned or not; torchvision's ResNet-50 has the same names.

    Raises
    ------
    ArtifactError
        If a tensor is missing or has another shape.
    UsageError
        If `numbers` do not fit the network.
    """
    stem = ("conv1", "bn1")
    if tensors.names("layer1."):
        preset, linear = "resnet50", "fc"
        ours, widths = resnet50_tensors(tensors, stem, [f"layer{n}" for n in range(1, 5)])
    else:
        preset, linear = "mobilenetv1", "linear"
        ours, widths = mobilenetv1_tensors(tensors, stem, "layers")
    classifier = tensors.take(f"{linear}.weight", None, widths[-1])
    found = {"channels": ours["stages.stem.conv.weight"].shape[1], "classes": len(classifier), "widths": widths}
    return tensors.spec(preset, found, numbers), {
        **ours,
        "stages.classifier.linear.weight": classifier,
        "stages.classifier.linear.bias": tensors.take(f"{linear}.bias", len(classifier)),
    }
