"""MobileNetV1 with a capsule head in place of its pooling and linear layer.

Reference: Renzulli and Grangetto, "Towards Efficient Capsule Networks", 2022, and its code
``EIDOSLAB/towards-efficient-capsule-networks``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcaps.capsules.backbone_layers import BatchNormSpec
from qcaps.models.backbone import Backbone
from qcaps.models.headed_backbone import HeadedBackboneSpec
from qcaps.models.mobilenetv1 import GROUPS, MOBILENETV1_WIDTHS, mobilenetv1_backbone
from qcaps.models.spec import Preset


@dataclass(frozen=True)
class MobileNetV1CapsNetSpec(HeadedBackboneSpec):
    """Every number of a MobileNetV1 with a capsule head; the defaults have 7,566,304 values.

    Parameters
    ----------
    widths
        Output channels of the groups in :data:`qcaps.models.mobilenetv1.GROUPS`.
    primary_types
        An eighth of the last of them.
    stem_relu
        False only for checkpoints that were trained without the ReLU of the first convolution.
    """

    architecture: ClassVar[str] = "mobilenetv1-capsnet"
    groups: ClassVar[tuple[str, ...]] = GROUPS

    widths: tuple[int, ...] = MOBILENETV1_WIDTHS
    primary_types: int = 128
    stem_relu: bool = True

    def backbone(self, norm: BatchNormSpec | None) -> Backbone:
        """Build the backbone, with batch norms or with biases instead."""
        return mobilenetv1_backbone(self.channels, self.widths, norm, stem_relu=self.stem_relu)


MOBILENETV1_CAPSNET = Preset(MobileNetV1CapsNetSpec(), any_size=True)
