"""ShallowCapsNet as Q-CapsNets has it, straight from its description. FROZEN: a baseline of `bench_inference.py`.

Speed is compared with this form, so it is never made faster. The whole batch goes through every layer at once, maps lie
in PyTorch's own order, and the primary capsules are routed as they are described: the one input type votes for 32
types, the votes are weighted with the coupling coefficients 1/32 and the bias is added.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from routing_straightforward import straightforward_class_capsules
from torch import Tensor
from torch.nn import functional

TYPES, DIM, ITERATIONS = 32, 8, 3


def straightforward_shallow_capsnet(tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Map images ``(batch, 1, 28, 28)`` to class capsules ``(batch, 10, 16)``; `tensors` are a checkpoint's."""
    x = functional.conv2d(images, tensors["stages.conv1.conv.weight"], tensors["stages.conv1.conv.bias"])
    lower = _primary_capsules(torch.relu(x), tensors["stages.primary.conv.weight"], tensors["stages.primary.bias"])
    weight, bias = tensors["stages.class_caps.weight"], tensors["stages.class_caps.routing.bias"]
    return straightforward_class_capsules(lower, weight, bias, ITERATIONS)


def _primary_capsules(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Map features ``(batch, 256, 20, 20)`` to capsules ``(batch, 1152, 8)``."""
    votes = functional.conv2d(x, weight, stride=2)
    batch, _, rows, columns = votes.shape
    votes = votes.view(batch, TYPES, DIM, rows, columns)
    coupling = torch.softmax(torch.zeros(batch, TYPES, 1, rows, columns), dim=1)
    s = coupling * votes + bias
    norm = s.norm(dim=2, keepdim=True)
    capsules = s * norm / (1 + norm**2)
    return capsules.permute(0, 1, 3, 4, 2).reshape(batch, TYPES * rows * columns, DIM)
