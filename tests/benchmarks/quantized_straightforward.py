"""A quantized ShallowCapsNet, straight from its description. FROZEN: the baseline of `bench_quantized.py`.

Speed is compared with this form, so it is never made faster. The whole batch goes through every layer at once, in
float; every array is scaled, rounded, clamped and scaled back as it leaves its operation; votes and weighted sums are
spelled out as broadcast and sum; and the loop ends with the published logit update that nothing reads, rounded like the
one before it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

TYPES, DIM, ITERATIONS = 32, 8, 3
# Total bits and fraction bits of an array.
Format = tuple[int, int]


def straightforward_quantized_capsnet(
    tensors: Mapping[str, Tensor], formats: Mapping[str, Format], images: Tensor
) -> Tensor:
    """Map images ``(batch, 1, 28, 28)`` to class capsules ``(batch, 10, 16)``; `tensors` hold the rounded weights."""
    x = functional.conv2d(images, tensors["stages.conv1.conv.weight"], tensors["stages.conv1.conv.bias"])
    x = _rounded(torch.relu(x), formats["conv1.out"])
    lower = _primary_capsules(x, tensors["stages.primary.conv.weight"], tensors["stages.primary.bias"], formats)
    votes = (lower[:, :, None, :, None] * tensors["stages.class_caps.weight"]).sum(3)  # (batch, in, out, dim)
    votes = _rounded(votes, formats["class_caps.votes"])
    return _routing(votes, tensors["stages.class_caps.routing.bias"], formats)


def _primary_capsules(x: Tensor, weight: Tensor, bias: Tensor, formats: Mapping[str, Format]) -> Tensor:
    """Map features ``(batch, 256, 20, 20)`` to capsules ``(batch, 1152, 8)``."""
    votes = _rounded(functional.conv2d(x, weight, stride=2), formats["primary.votes"])
    batch, _, rows, columns = votes.shape
    votes = votes.view(batch, TYPES, DIM, rows, columns)
    coupling = torch.softmax(torch.zeros(batch, TYPES, 1, rows, columns), dim=1)
    coupling = _rounded(coupling, formats["primary.coupling"])
    capsules = _squash(_rounded(coupling * votes + bias, formats["primary.sum"]))
    capsules = _rounded(capsules, formats["primary.out"])
    return capsules.permute(0, 1, 3, 4, 2).reshape(batch, TYPES * rows * columns, DIM)


def _routing(votes: Tensor, bias: Tensor, formats: Mapping[str, Format]) -> Tensor:
    """Route votes ``(batch, n_in, n_out, d_out)`` with a bias ``(n_out, d_out)`` in every pass."""
    logits = torch.zeros_like(votes[..., 0])  # (batch, in, out)
    for t in range(1, ITERATIONS + 1):
        coupling = _rounded(torch.softmax(logits, dim=2), formats[f"class_caps.coupling@{t}"])
        s = (coupling[..., None] * votes).sum(1) + bias  # (batch, out, dim)
        capsules = _rounded(_squash(_rounded(s, formats[f"class_caps.sum@{t}"])), formats[f"class_caps.out@{t}"])
        logits = logits + (votes * capsules[:, None]).sum(3)
        logits = _rounded(logits, formats[f"class_caps.logits@{min(t, ITERATIONS - 1)}"])
    return capsules


def _squash(s: Tensor) -> Tensor:
    """Shrink every vector along the third axis."""
    norm = s.norm(dim=2, keepdim=True)
    return s * norm / (1 + norm**2)


def _rounded(x: Tensor, fmt: Format) -> Tensor:
    """Round to the nearest value of a format, ties to even."""
    bits, frac_bits = fmt
    codes = torch.round(x * 2.0**frac_bits)
    return torch.clamp(codes, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) / 2.0**frac_bits
