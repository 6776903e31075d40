"""Apply a bit plan to a network: weights rounded once, arrays rounded as they pass their sites."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qcaps.capsules.sites import hooked
from qcaps.errors import QcapsError
from qcaps.evaluation.measure import Predict, in_blocks
from qcaps.models.network import CapsuleNetwork, Output, predictions, weight_sites
from qcaps.quantization.draws import uniforms, weight_uniforms
from qcaps.quantization.formats import NumberFormat
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
    """

    plan: BitPlan
    seed: int
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

        def hook(site: str, array: Tensor) -> Tensor:
            return self._round(site, array, indices)

        with hooked(network, hook):
            output: Output = network(pixels)
            return output

    def predictor(self, network: CapsuleNetwork) -> Predict:
        """Make the candidate for :func:`~qcaps.evaluation.measure.measure`."""
        return in_blocks(network, lambda pixels, indices: predictions(self.forward(network, pixels, indices)))

    def _round(self, site: str, array: Tensor, indices: Tensor) -> Tensor:
        draws = None
        if self.plan.rounding == "stochastic_rounding":
            draws = uniforms(self.seed, site, indices, array[0].numel())
        rounded = _quantize(site, array, self.plan.of_array(site), self.plan, draws)
        count = self.saturation.setdefault(site, Saturation())
        count.values += array.numel()
        count.clamped += rounded.saturated
        return rounded.values


@dataclass(frozen=True, eq=False)
class RoundedWeights:
    """Rounded parameters by name, and what was clamped by site."""

    tensors: dict[str, Tensor]
    saturation: dict[str, Saturation]


def round_weights(network: CapsuleNetwork, plan: BitPlan, seed: int) -> RoundedWeights:
    """Round every weight of a network, which stays as it is."""
    parameters = dict(network.named_parameters())
    result = RoundedWeights({}, {})
    for site, name in weight_sites(network).items():
        weight = parameters[name].detach()
        draws = None
        if plan.rounding == "stochastic_rounding":
            draws = weight_uniforms(seed, site, weight.numel())
        rounded = _quantize(site, weight, plan.weights[site], plan, draws)
        # Kept in the memory order of the original, so that every kernel takes the same path.
        result.tensors[name] = torch.empty_like(weight).copy_(rounded.values)
        result.saturation[site] = Saturation(weight.numel(), rounded.saturated)
    return result


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


def _quantize(site: str, x: Tensor, fmt: NumberFormat, plan: BitPlan, draws: Tensor | None) -> Rounded:
    try:
        return quantize(x, fmt, plan.rounding, draws)
    except ValueError as error:
        raise QcapsError(str(error), where=site) from error
