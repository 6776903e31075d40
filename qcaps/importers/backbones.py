"""The tensors of ResNet-50 and MobileNetV1 as torchvision and EagleEye name them; pruned widths stand in the shapes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from qcaps.importers.mapping import ForeignTensors
from qcaps.models import mobilenetv1, resnet50

BLOCKS = len(mobilenetv1.STRIDES)


def resnet50_tensors(
    tensors: ForeignTensors, stem: tuple[str, str], layers: Sequence[str]
) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Take a ResNet-50 without its linear layer, and tell its widths.

    Parameters
    ----------
    tensors
        Of the file.
    stem
        Paths of the first convolution and its norm.
    layers
        Paths of the four layers.

    Raises
    ------
    ArtifactError
        If a tensor is missing.
    """
    ours = _conv_norm(tensors, *stem, "stages.stem")
    for n, (path, blocks) in enumerate(zip(layers, resnet50.BLOCKS, strict=True), start=1):
        for i in range(blocks):
            block = f"stages.layer{n}.{i}"
            for k in (1, 2, 3):
                ours |= _conv_norm(tensors, f"{path}.{i}.conv{k}", f"{path}.{i}.bn{k}", f"{block}.conv{k}")
        around = f"{path}.0.downsample"
        ours |= _conv_norm(tensors, f"{around}.0", f"{around}.1", f"stages.layer{n}.0.downsample")
    makers = [group.replace(".out", ".0.conv3") for group in resnet50.GROUPS]
    return ours, tuple(len(ours[f"stages.{maker}.conv.weight"]) for maker in makers)


def mobilenetv1_tensors(
    tensors: ForeignTensors, stem: tuple[str, str], layers: str
) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Take a MobileNetV1 without its linear layer, and tell its widths.

    Parameters
    ----------
    tensors
        Of the file.
    stem
        Paths of the first convolution and its norm.
    layers
        Path of the blocks.

    Raises
    ------
    ArtifactError
        If a tensor is missing.
    """
    ours = _conv_norm(tensors, *stem, "stages.stem")
    for i in range(BLOCKS):
        for k, ours_name in ((1, "depthwise"), (2, "pointwise")):
            path = f"stages.block{i + 1}.{ours_name}"
            ours |= _conv_norm(tensors, f"{layers}.{i}.conv{k}", f"{layers}.{i}.bn{k}", path)
    makers = ["stem", *(f"{group}.pointwise" for group in mobilenetv1.GROUPS[1:])]
    return ours, tuple(len(ours[f"stages.{maker}.conv.weight"]) for maker in makers)


def _conv_norm(tensors: ForeignTensors, conv: str, norm: str, ours: str) -> dict[str, Tensor]:
    return tensors.renamed(conv, f"{ours}.conv") | tensors.renamed(norm, f"{ours}.norm")
