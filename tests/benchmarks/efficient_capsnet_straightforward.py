"""Efficient-CapsNet for MNIST written straight from its paper. FROZEN: a baseline of `bench_inference.py`.

Speed is compared with this form, so it is never made faster. The whole batch goes through every layer at once, maps lie
in PyTorch's own order, batch norm follows every ReLU, the votes are spelled out as broadcast and sum, and the agreement
of every vote with every other is written down before it is summed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

STRIDES = {"conv1": 1, "conv2": 1, "conv3": 1, "conv4": 2}
PRIMARY, DIM, SCALE, NORM_EPS, SQUASH_EPS = 16, 8, 4.0, 1e-3, 1e-20


def straightforward_efficient_capsnet(tensors: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Map images ``(batch, 1, 28, 28)`` to class capsules ``(batch, 10, 16)``; `tensors` are a checkpoint's."""
    x = images
    for name, stride in STRIDES.items():
        conv, norm = f"stages.{name}.conv", f"stages.{name}.norm"
        x = torch.relu(functional.conv2d(x, tensors[f"{conv}.weight"], tensors[f"{conv}.bias"], stride))
        mean, variance = tensors[f"{norm}.running_mean"], tensors[f"{norm}.running_var"]
        x = functional.batch_norm(x, mean, variance, tensors[f"{norm}.weight"], tensors[f"{norm}.bias"], eps=NORM_EPS)
    conv = "stages.primary.conv"
    x = functional.conv2d(x, tensors[f"{conv}.weight"], tensors[f"{conv}.bias"], groups=PRIMARY * DIM)
    lower = _squash(x.view(-1, PRIMARY, DIM))
    return _class_capsules(lower, tensors["stages.class_caps.weight"], tensors["stages.class_caps.routing.bias"])


def _class_capsules(lower: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Map ``(batch, 16, 8)`` to ``(batch, 10, 16)``, weight ``(16, 10, 8, 16)`` and bias ``(16, 10, 1)``."""
    votes = (lower[:, :, None, :, None] * weight).sum(3).transpose(1, 2)  # (batch, out, in, dim)
    agreement = torch.matmul(votes, votes.transpose(2, 3)) / SCALE  # (batch, out, in, in)
    coupling = torch.softmax(agreement.sum(3, keepdim=True), dim=1) + bias.transpose(0, 1)
    return _squash((coupling * votes).sum(2))


def _squash(s: Tensor) -> Tensor:
    """Shrink every vector along the last axis."""
    norm = s.norm(dim=-1, keepdim=True)
    return (1 - 1 / (torch.exp(norm) + SQUASH_EPS)) * s / (norm + SQUASH_EPS)
