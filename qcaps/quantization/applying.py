"""Apply a bit plan to a network: weights rounded once, arrays rounded as they pass their sites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qcaps.capsules.sites import Hook, hooked
from qcaps.errors import QcapsError
from qcaps.evaluation.measure import Predict, See, in_blocks, unseen
from qcaps.models.network import CapsuleNetwork, Output, predictions, weight_sites
from qcaps.quantization.draws import uniforms, weight_uniforms
from qcaps.quantization.fast_rounding import rounded_values
from qcaps.quantization.formats import NumberFormat, Rounding
from qcaps.quantization.integer import convolution_inputs, integer_convolutions
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.rounding import Rounded, quantize


@dataclass
class Saturation:
    """How many values passed a site, and how many of them were clamped."""

    values: int = 0
    clamped: int = 0


@dataclass
class ArrayRounder:
    """Rounds every array of a forward pass, and counts what it clamps.

    Parameters
    ----------
    plan
        Formats of the array sites.
    seed
        Of stochastic rounding.
    counting
        Whether clamped values are counted, which takes longer.
    """

    plan: BitPlan
    seed: int
    counting: bool = True
    saturation: dict[str, Saturation] = field(default_factory=dict)

    def forward(self, network: CapsuleNetwork, pixels: Tensor, indices: Tensor) -> Output:
        """Run the quantized network.

        Parameters
        ----------
        network
            With its weights already rounded.
        pixels
            Shape ``(batch, channels, height, width)``, values in [0, 1].
        indices
            Index of each image in its data set, which keys its draws, shape ``(batch,)``.
        """
        with hooked(network, self.hook(indices)):
            output: Output = network(pixels)
            return output

    def hook(self, indices: Tensor) -> Hook:
        """Make what rounds the arrays of the images with these indices, for :func:`~qcaps.capsules.sites.hooked`."""
        return lambda site, array: self._round(site, array, indices)

    def predictor(self, network: CapsuleNetwork, see: See = unseen) -> Predict:
        """Make the candidate for :func:`~qcaps.evaluation.measure.measure`; it computes with integers where it can.

        Every output is shown to `see`.
        """
        inputs: dict[str, str] | None = None

        def of_block(pixels: Tensor, indices: Tensor) -> Tensor:
            output = self.forward(network, pixels, indices)
            see(output)
            return predictions(output)

        in_turn = in_blocks(network, of_block)

        def predict(pixels: Tensor, indices: Tensor) -> Tensor:
            nonlocal inputs
            inputs = convolution_inputs(network, image_shape(pixels)) if inputs is None else inputs
            with integer_convolutions(network, self.plan, inputs):
                return in_turn(pixels, indices)

        return predict

    def _round(self, site: str, array: Tensor, indices: Tensor) -> Tensor:
        draws = None
        if self.plan.rounding == "stochastic_rounding":
            draws = uniforms(self.seed, site, indices, array[0].numel())
        fmt = self.plan.of_array(site)
        if not self.counting:
            with _named(site):
                return rounded_values(array, fmt, self.plan.rounding, draws)
        with _named(site):
            rounded = quantize(array, fmt, self.plan.rounding, draws)
        count = self.saturation.setdefault(site, Saturation())
        count.values += array.numel()
        count.clamped += rounded.saturated
        return rounded.values


@dataclass(frozen=True, eq=False)
class RoundedWeights:
    """Rounded parameters by name, and what was clamped by site."""

    tensors: dict[str, Tensor]
    saturation: dict[str, Saturation]


def round_weights(
    network: CapsuleNetwork, plan: BitPlan, seed: int, corrected: Mapping[str, Tensor] | None = None
) -> RoundedWeights:
    """Round every weight of a network, which stays as it is.

    Parameters
    ----------
    network, plan, seed
        In float, the formats, and the seed of stochastic rounding.
    corrected
        Weight site → what is rounded in place of the parameter.
    """
    parameters, corrected = dict(network.named_parameters()), corrected or {}
    result = RoundedWeights({}, {})
    for site, name in weight_sites(network).items():
        weight = corrected.get(site, parameters[name].detach())
        rounded = round_weight(weight, site, plan.weights[site], plan.rounding, seed)
        # Kept in the memory order of the original, so that every kernel takes the same path.
        result.tensors[name] = torch.empty_like(weight).copy_(rounded.values)
        result.saturation[site] = Saturation(weight.numel(), rounded.saturated)
    return result


def round_weight(weight: Tensor, site: str, fmt: NumberFormat, rounding: Rounding, seed: int) -> Rounded:
    """Round the weight of one site.

    Raises
    ------
    QcapsError
        If a value is NaN or infinite.
    """
    draws = weight_uniforms(seed, site, weight.numel()) if rounding == "stochastic_rounding" else None
    with _named(site):
        return quantize(weight, fmt, rounding, draws)


@contextmanager
def weights_replaced(network: CapsuleNetwork, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Lend a network other weights inside the block; afterwards it is bit for bit what it was."""
    parameters = dict(network.named_parameters())
    originals = {name: parameters[name].data for name in tensors}
    try:
        for name, tensor in tensors.items():
            parameters[name].data = tensor
        yield
    finally:
        for name, tensor in originals.items():
            parameters[name].data = tensor


@contextmanager
def _named(site: str) -> Iterator[None]:
    """Say at which site a value cannot be rounded."""
    try:
        yield
    except ValueError as error:
        raise QcapsError(str(error), where=site) from error


def image_shape(pixels: Tensor) -> tuple[int, int, int]:
    """Give channels, height and width of images ``(batch, channels, height, width)``."""
    _, channels, height, width = pixels.shape
    return channels, height, width
