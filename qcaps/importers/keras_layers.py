"""Weights of Keras layers in the axis order of PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from qcaps.importers.mapping import ForeignTensors, in_order
from qcaps.models.spec import ModelSpec

# Registry name of a decoder by the number of its weights.
DECODERS = {0: "none", 6: "fc", 10: "upsample48"}


def conv_weight(kernel: Tensor) -> Tensor:
    """Turn a kernel ``(rows, columns, in, out)`` into ``(out, in, rows, columns)``; depthwise ones have one `in`."""
    return kernel.permute(3, 2, 0, 1)


def decoder_name(tensors: ForeignTensors, weights: Sequence[str]) -> str:
    """Tell a decoder by its weights.

    Raises
    ------
    ArtifactError
        If no decoder has so many.
    """
    if len(weights) not in DECODERS:
        raise tensors.refusal(f"the file has a decoder of {len(weights)} weights, which is unknown")
    return DECODERS[len(weights)]


def decoder_tensors(tensors: ForeignTensors, weights: Sequence[str], spec: ModelSpec) -> dict[str, Tensor]:
    """Take a decoder, kernels and biases in turn.

    The last dense layer of ``fc`` draws channels last, ours channels first.

    Raises
    ------
    ArtifactError
        If its layers are not those of the decoder of `spec`.
    """
    taken = []
    for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
        weight = tensors.take(kernel)
        taken += [conv_weight(weight) if weight.dim() == 4 else weight.t(), tensors.take(bias)]
    pixels = (spec.height, spec.width, spec.channels)
    if spec.decoder == "fc" and len(taken[-1]) == spec.height * spec.width * spec.channels:
        taken[-2:] = [tensor.reshape(*pixels, *tensor.shape[1:]).movedim(2, 0).flatten(0, 2) for tensor in taken[-2:]]
    return in_order(spec, "decoder.", taken, str(tensors.foreign.path))
