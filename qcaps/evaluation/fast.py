"""The fast form of a float network on a CPU: nearly the same scores in less time."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from qcaps.evaluation.measure import Predict, See, even_blocks, unseen
from qcaps.models.network import CapsuleNetwork, Output, predictions, to_inference

# Images ``(batch, channels, height, width)`` → what the network says of them.
Forward = Callable[[Tensor], Output]

# glibc keeps freed memory up to twice the largest array it has seen freed, and looks at none above 32 MiB; the rest it
# gives back and gets again, page by page, in every block.
LARGEST_SEEN_BYTES = 31 << 20


def fast_form(network: CapsuleNetwork, *, bfloat16: bool = False) -> Forward:
    """Give a forward pass of a copy of a float network that is arranged for speed.

    Parameters
    ----------
    network
        On the CPU. Fold its batch norms first, see :func:`~qcaps.quantization.folding.fold_batch_norms`: a norm
        costs a pass over its maps.
    bfloat16
        Convolve and cast votes in bfloat16, which the predictions hardly notice; squash and routing stay in float32.
    """
    arranged = copy.deepcopy(network)
    if bfloat16:
        for module in arranged.stages.modules():
            if isinstance(module, nn.Conv2d):
                module.to(torch.bfloat16)
    arranged = to_inference(arranged)
    blocks = even_blocks(network)
    torch.empty(LARGEST_SEEN_BYTES, dtype=torch.uint8)  # never touched, freed at once

    def forward(images: Tensor) -> Output:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            outputs = [arranged(block) for block in images.chunk(blocks(images))]
        return Output(*map(torch.cat, zip(*outputs, strict=True)))

    return forward


def fast_predictor(network: CapsuleNetwork, see: See = unseen) -> Predict:
    """Make the candidate that is the fast form of a network, in bfloat16 where this processor multiplies it."""
    forward = fast_form(network, bfloat16=multiplies_bfloat16())

    def predict(pixels: Tensor, _indices: Tensor) -> Tensor:
        output = forward(pixels)
        see(output)
        return predictions(output)

    return predict


def multiplies_bfloat16() -> bool:
    """Tell whether this processor has instructions for products of bfloat16."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
