"""DeepCaps' 3-D convolutional capsules written straight from their description. FROZEN: the baseline of
`bench_conv3d_capsules.py`.

Speed and memory are compared with this form, so it is never made better. One 3-D kernel slides over the lower types,
the coupling coefficients of all upper types and positions compete in one softmax, coupling × votes exists in memory,
and the loop ends with the published logit update that nothing reads.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def straightforward_conv3d_capsules(
    x: Tensor, weight: Tensor, conv_bias: Tensor, routing_bias: Tensor, iterations: int
) -> Tensor:
    """Map ``(batch, in·dim_in, h, w)`` to ``(batch, out, dim, h, w)``.

    The kernel is ``(out·dim, 1, dim_in, 3, 3)``, the bias of the routing ``(out, dim, 1, 1)``.
    """
    n_out, dim = routing_bias.shape[:2]
    depth = weight.shape[2]
    maps = functional.conv3d(x[:, None], weight, conv_bias, stride=(depth, 1, 1), padding=(0, 1, 1))
    batch, _, n_in, height, width = maps.shape
    votes = maps.view(batch, n_out, dim, n_in, height, width).permute(0, 3, 1, 2, 4, 5)
    return straightforward_conv3d_routing(votes, routing_bias, iterations)


def straightforward_conv3d_routing(votes: Tensor, bias: Tensor, iterations: int) -> Tensor:
    """Route votes ``(batch, in, out, dim, h, w)`` to ``(batch, out, dim, h, w)``."""
    batch, n_in, n_out, _, height, width = votes.shape
    logits = torch.zeros(batch, n_in, n_out, height, width)
    for _ in range(iterations):
        coupling = torch.softmax(logits.flatten(2), dim=2).view(batch, n_in, n_out, 1, height, width)
        s = (coupling * votes).sum(1) + bias  # (batch, out, dim, h, w)
        norm = s.norm(dim=2, keepdim=True)
        capsules = s * norm / (1 + norm**2)
        logits = logits + (votes * capsules[:, None]).sum(3)
    return capsules
