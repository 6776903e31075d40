"""ResNet-50 with a capsule head in place of its pooling and linear layer.

Reference: Renzulli and Grangetto, "Towards Efficient Capsule Networks", 2022, and its code
``EIDOSLAB/towards-efficient-capsule-networks``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcaps.capsules.backbone_layers import BatchNormSpec
from qcaps.models.backbone import Backbone
from qcaps.models.headed_backbone import HeadedBackboneSpec
from qcaps.models.resnet50 import GROUPS, RESNET50_WIDTHS, resnet50_backbone
from qcaps.models.spec import Preset


@dataclass(frozen=True)
class ResNet50CapsNetSpec(HeadedBackboneSpec):
    """Every number of a ResNet-50 with a capsule head; the defaults have 40,615,136 values.

    Parameters
    ----------
    widths
        Output channels of the groups in :data:`qcaps.models.resnet50.GROUPS`.
    """

    architecture: ClassVar[str] = "resnet50-capsnet"
    groups: ClassVar[tuple[str, ...]] = GROUPS

    widths: tuple[int, ...] = RESNET50_WIDTHS

    def backbone(self, norm: BatchNormSpec | None) -> Backbone:
        """Build the backbone, with batch norms or with biases instead."""
        return resnet50_backbone(self.channels, self.widths, norm)


RESNET50_CAPSNET = Preset(ResNet50CapsNetSpec(), any_size=True)
