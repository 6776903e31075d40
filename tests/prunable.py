"""Tiny networks of every architecture, their numbers drawn, and what silences their units without cutting anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qcaps.data.images import ImageSet
from qcaps.models.cnn_baselines import CNNCRSFSpec, CNNCRSpec, CNNRSpec
from qcaps.models.cnn_small import CNNSmallSpec
from qcaps.models.deepcaps import DeepCapsSpec
from qcaps.models.efficient_capsnet import EfficientCapsNetSpec
from qcaps.models.em_capsnet import EMCapsNetSpec
from qcaps.models.mobilenetv1 import MOBILENETV1_WIDTHS, MobileNetV1Spec
from qcaps.models.mobilenetv1_capsnet import MobileNetV1CapsNetSpec
from qcaps.models.network import CapsuleNetwork, encoder_tensors
from qcaps.models.resnet50 import RESNET50_WIDTHS, ResNet50Spec
from qcaps.models.resnet50_capsnet import ResNet50CapsNetSpec
from qcaps.models.shallow_capsnet import ShallowCapsNetSpec
from qcaps.models.spec import ModelSpec

SHALLOW = ShallowCapsNetSpec(
    height=14,
    width=12,
    classes=3,
    conv_channels=(5, 4),
    conv_kernels=(3, 3),
    conv_strides=(1, 1),
    primary_types=3,
    primary_dim=4,
    primary_kernel=3,
    primary_coupling=0.3,
    class_dim=4,
)
CELLS = 4 * 3
EFFICIENT = EfficientCapsNetSpec(height=14, width=15, classes=3, conv_channels=(4, 5, 6, 12), primary_dim=4)
DEEP = DeepCapsSpec(
    height=18,
    width=17,
    classes=3,
    conv_channels=5,
    types=(3, 4, 2, 3, 2, 4, 4, 3, 2, 3, 4, 3),
    dims=(2, 3, 4, 3, 2, 3, 3, 4, 5, 4, 3, 5),
    competing_types=4,
    class_dim=4,
)
# λ is large, so that activations are neither 0 nor 1 and differ.
EM = EMCapsNetSpec(
    height=19, width=17, classes=3, conv_channels=4, primary_types=3, conv_types=(4, 3), lambda_limit=1.0
)
PLAIN = {"height": 12, "width": 11, "classes": 3, "conv1_channels": 4, "conv2_channels": 5, "kernel_size": 3}
# A sixteenth or an eighth of the published widths, on a map of two rows and one column.
IMAGE = {"height": 33, "width": 20, "classes": 4}
RESNET = ResNet50Spec(**IMAGE, widths=tuple(n // 16 for n in RESNET50_WIDTHS))
RESNET_CAPS = ResNet50CapsNetSpec(**IMAGE, widths=RESNET.widths, primary_types=5, class_dim=6)
MOBILE = MobileNetV1Spec(**IMAGE, widths=tuple(n // 8 for n in MOBILENETV1_WIDTHS))
MOBILE_CAPS = MobileNetV1CapsNetSpec(**IMAGE, widths=MOBILE.widths, primary_types=5, class_dim=6)

NETWORKS: Mapping[str, ModelSpec] = {
    "shallow-capsnet": SHALLOW,
    "shallow-capsnet, learned table": replace(
        SHALLOW, reshape_order="hw_type", primary_bias="conv", prior_logits=True, routing_bias="after_softmax"
    ),
    "shallow-capsnet, batch norm": replace(SHALLOW, primary_bias="conv", norm="batch", routing="uniform"),
    "shallow-capsnet, runs of cells": replace(SHALLOW, primary_bias="conv", reshape_order="stacked_raw"),
    "efficient-capsnet": EFFICIENT,
    "efficient-capsnet, folded": EFFICIENT.folded(),
    "efficient-capsnet, instance norm": replace(EFFICIENT, norm="instance", activation_slope=0.3),
    "deepcaps": DEEP,
    "deepcaps, attention": replace(DEEP, routing="attention"),
    "deepcaps, uniform": replace(DEEP, routing="uniform"),
    "em-capsnet": EM,
    "em-capsnet, uniform": replace(EM, routing="uniform"),
    "resnet50": RESNET,
    "resnet50-capsnet": RESNET_CAPS,
    "resnet50-capsnet, folded": replace(RESNET_CAPS, head="pointwise").folded(),
    "resnet50-capsnet, depthwise": replace(RESNET_CAPS, head="depthwise", primary_types=16),
    "mobilenetv1": MOBILE,
    "mobilenetv1-capsnet": replace(MOBILE_CAPS, routing="attention", routing_bias="after_softmax"),
    "mobilenetv1-capsnet, depthwise": replace(MOBILE_CAPS, head="depthwise", primary_types=16),
    "mobilenetv1-capsnet, inputs compete": replace(MOBILE_CAPS, softmax_axis="inputs"),
    "cnn-r": CNNRSpec(**PLAIN, class_dim=4),
    "cnn-cr": CNNCRSpec(**PLAIN, class_dim=4),
    "cnn-cr-sf": CNNCRSFSpec(**PLAIN, primary_types=3, primary_dim=4, class_dim=4),
    "cnn-small": CNNSmallSpec(**PLAIN),
}


def drawn_tensors(network: CapsuleNetwork) -> dict[str, Tensor]:
    """Draw every number so that the signal neither fades nor explodes, norms far from the identity."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, tensor in encoder_tensors(network).items():
        values = torch.randn(tensor.shape, generator=generator)
        if name.endswith(("norm.weight", "running_var")):
            values = 0.6 + torch.rand(tensor.shape, generator=generator)
        elif name.endswith(("bias", "running_mean", "beta_u", "beta_a")):
            values = 0.1 * values
        elif tensor.ndim == 6:  # matrices of poses
            values = 0.5 * values
        elif tensor.ndim in (2, 4) and "class_caps.weight" not in name and "prior" not in name:
            gain = 9 if ".skip." in name or ".l3." in name else 2  # a squash shrinks what is short
            values = values * (gain / tensor[0].numel()) ** 0.5
        tensors[name] = values
    return tensors


def pixels_for(spec: ModelSpec, count: int = 2) -> Tensor:
    """Draw images in double precision."""
    shape = (count, spec.channels, spec.height, spec.width)
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def labelled_images(spec: ModelSpec, count: int) -> ImageSet:
    """Draw labelled 8-bit images."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (count, spec.channels, spec.height, spec.width), generator=generator)
    labels = torch.randint(0, spec.classes, (count,), generator=generator)
    names = tuple(map(str, range(spec.classes)))
    return ImageSet("digits", "train", pixels.to(torch.uint8), labels, torch.arange(count), names)


@dataclass(frozen=True)
class Silence:
    """What has to be overwritten at some sites for units to be silent.

    Parameters
    ----------
    site
        Pattern of the site names, without iterations.
    axis
        Axis on which units lie, seen as ``(outer, count, run)``.
    run
        Consecutive entries of one unit.
    value
        That is written.
    """

    site: str
    axis: int
    run: int = 1
    value: float = 0.0


def silences(spec: ModelSpec, unit: str) -> list[Silence]:
    """Say where units are silenced, after the last operation that could make them speak again."""
    layer, kind = unit.rsplit(".", 1)
    if isinstance(spec, DeepCapsSpec) and kind != "channels":
        return list(_deep(spec, layer, kind))
    if isinstance(spec, EMCapsNetSpec) and kind == "types":
        if layer == "primary":
            return [Silence(r"primary\.activation\.out", 1)]
        # With no activation a type gets no share of any lower capsule once the first pass is over.
        gone = Silence(rf"{layer}\.logits", 2, value=-torch.inf)
        return [gone, Silence(rf"{layer}\.routing\.activation\.out", 2)]
    if kind != "channels":
        return list(_primary(spec, kind))
    if layer.endswith(".out"):
        return [Silence(rf"{layer.removesuffix('.out')}\.\d+\.sum_out", 1)]
    if isinstance(spec, MobileNetV1Spec | MobileNetV1CapsNetSpec):
        number = 0 if layer == "stem" else int(layer.removeprefix("block"))
        made = layer if layer == "stem" else rf"{layer}\.pointwise"
        # A depthwise convolution of nothing still has the shift of its norm.
        return [Silence(rf"{made}\.out", 1), Silence(rf"block{number + 1}\.depthwise\.out", 1)]
    return [Silence(rf"{re.escape(layer)}\.out", 1)]


def _primary(spec: ModelSpec, kind: str) -> Iterator[Silence]:
    """Silence primary capsules; dimensions before the squash, which would share out their length."""
    if isinstance(spec, ResNet50CapsNetSpec) and spec.head == "depthwise":  # its blocks read these channels too
        yield Silence(r"layer4\.\d+\.sum_out", 1, spec.primary_dim if kind == "types" else 1)
    by_cell = getattr(spec, "reshape_order", "type_hw") == "type_hw"
    if kind == "types":
        cells = CELLS if by_cell and isinstance(spec, ShallowCapsNetSpec) else 1
        yield Silence(r"primary\.out", 1, cells)
    elif kind == "positions":
        yield Silence(r"primary\.out", 1, 1 if by_cell else spec.primary_types)
    elif getattr(spec, "primary_bias", "conv") == "routed":
        yield Silence(r"primary\.sum", 1)
    else:
        yield Silence(r"primary\.presquash", 2)


def _deep(spec: DeepCapsSpec, layer: str, kind: str) -> Iterator[Silence]:
    block = layer.split(".")[0]
    number = int(block[-1])
    if layer != block:  # a layer inside
        yield Silence(rf"{layer}\.presquash", 1 if kind == "types" else 4)
        if layer == "block4.l1" and kind == "types":  # a pose of nothing still votes, by the bias of the convolution
            yield Silence(r"block4\.skip\.votes", 1)
    elif kind == "dims":
        for made in ("l3", "skip"):
            yield Silence(rf"block[{number}{4 if number == 3 else ''}]\.{made}\.presquash", 4)
        if number == 3:
            yield Silence(r"block4\.skip\.votes", 3)
            yield Silence(r"block4\.skip\.sum", 2)
    else:
        yield Silence(rf"{block}\.sum_out", 1, spec.dims[3 * number - 1])
        if number == 4:  # 2 rows and 2 columns
            yield Silence(r"block4\.skip\.votes", 2, 4)
            yield Silence(r"block4\.skip\.sum", 1, 4)


def silencer(spec: ModelSpec, counts: Mapping[str, int], removed: Mapping[str, Sequence[int]]) -> Callable[..., Tensor]:
    """Make the hook that silences the removed units of a network, whose sites it checks for being there."""
    wanted = [(silence, counts[unit], list(gone)) for unit, gone in removed.items() for silence in silences(spec, unit)]

    def hook(site: str, array: Tensor) -> Tensor:
        for silence, count, gone in wanted:
            if re.fullmatch(silence.site, site.split("@", 1)[0]):
                apart = array.unflatten(silence.axis, (-1, count, silence.run))
                apart = apart.index_fill(silence.axis + 1, torch.tensor(gone, dtype=torch.int64), silence.value)
                array = apart.flatten(silence.axis, silence.axis + 2)
        return array

    return hook
