"""The network that a search quantizes: its formats by width, and what they cost."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from qcaps.data.spec import DataSpec
from qcaps.evaluation.content import network_content, tensors_sha256
from qcaps.evaluation.measure import even_blocks
from qcaps.models.network import CapsuleNetwork, float_tensors, weight_sites
from qcaps.models.spec import ModelSpec, image_of
from qcaps.quantization.applying import RoundedWeights, round_weight, round_weights
from qcaps.quantization.bias_correction import Correctable, correctable, corrected_bias
from qcaps.quantization.calibration import Calibration, SiteRange, array_format, weight_format
from qcaps.quantization.formats import Float32, NumberFormat, Rounding
from qcaps.quantization.integer import convolution_inputs
from qcaps.quantization.packing import segment_bytes
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.search.groups import Widths
from qcaps.quantization.search.reference_accounting import reference_formats

# A random scheme is judged on this many seeds together.
STOCHASTIC_SEEDS = 3


@dataclass(frozen=True, eq=False)
class Subject:
    """The network being quantized.

    Parameters
    ----------
    model, network
        The folded float network, in inference form.
    data, calibration
        The images it was trained on, and its ranges on some of them.
    rounding, seed
        The scheme, and the seed of all draws.
    per_channel
        Whether weights have a scale per output channel.
    reference
        Whether widths mean what they mean to Q-CapsNets: the sign and the fraction, without saturation.
    """

    model: ModelSpec
    network: CapsuleNetwork
    data: DataSpec
    calibration: Calibration
    rounding: Rounding
    seed: int
    per_channel: bool = False
    reference: bool = False

    @property
    def seeds(self) -> tuple[int, ...]:
        """Give the seeds that a verdict is summed over."""
        count = STOCHASTIC_SEEDS if self.rounding == "stochastic_rounding" else 1
        return tuple(range(self.seed, self.seed + count))

    @property
    def sites(self) -> tuple[str, ...]:
        """List every site, weights first."""
        return (*self.calibration.weights, *self.calibration.arrays)

    @functools.cached_property
    def content(self) -> tuple[object, ...]:
        """Identify the network, and what its biases are corrected by, with plain data."""
        inputs = self.calibration.inputs
        return (*network_content(self.model, self.network), *([tensors_sha256(inputs)] if inputs else []))

    @functools.cached_property
    def blocks(self) -> Callable[[Tensor], int]:
        """Give what tells into how many blocks a batch is cut; see `even_blocks`."""
        return even_blocks(self.network)

    @functools.cached_property
    def convolution_inputs(self) -> dict[str, str]:
        """Tell which array each convolution is given; see :func:`~qcaps.quantization.integer.convolution_inputs`."""
        return convolution_inputs(self.network, image_of(self.model))

    @functools.cached_property
    def float_leftovers(self) -> int:
        """Count the bytes of values without a site, norms that cannot be folded for example."""
        return sum(tensor.nbytes for tensor in float_tensors(self.network).values())

    @functools.cached_property
    def _formats(self) -> dict[tuple[str, int], NumberFormat]:
        return {}

    @functools.cached_property
    def _biases(self) -> dict[tuple[str, NumberFormat], Tensor]:
        return {}

    @functools.cached_property
    def _corrected_formats(self) -> dict[tuple[str, int, NumberFormat], NumberFormat]:
        return {}

    @functools.cached_property
    def _correctable(self) -> dict[str, Correctable]:
        places = correctable(self.network)
        return {site: place for site, place in places.items() if site in self.calibration.inputs}

    def format(self, site: str, bits: int) -> NumberFormat:
        """Give the format of a site at a width, its scale chosen by calibration; chosen once."""
        known = self._formats
        if (site, bits) not in known:
            weights = self.calibration.weights
            known[site, bits] = (
                weight_format(weights[site], bits, self.rounding, per_channel=self.per_channel)
                if site in weights
                else array_format(self.calibration.arrays[site], bits, self.rounding)
            )
        return known[site, bits]

    def plan(self, widths: Widths) -> BitPlan:
        """Give the plan in which every site has its width."""
        if self.reference:
            return BitPlan(self.rounding, *reference_formats(self.calibration, widths))

        def formats(sites: Mapping[str, object]) -> dict[str, NumberFormat]:
            return {site: self.format(site, widths[site]) for site in sites}

        weights = formats(self.calibration.weights)
        for site, place in self._correctable.items():
            weights[place.bias] = self._bias_format(site, weights[site], place.bias, widths[place.bias])
        return BitPlan(self.rounding, weights, formats(self.calibration.arrays))

    def round_weights(self, plan: BitPlan) -> RoundedWeights:
        """Round every weight of the network, its biases corrected for what the rounding of the others shifts."""
        places = self._correctable.items()
        corrected = {place.bias: self._corrected(site, plan.weights[site]) for site, place in places}
        return round_weights(self.network, plan, self.seed, corrected)

    def settled(self, plan: BitPlan) -> Subject:
        """Give the network whose biases are what a plan corrects them to, for good: ready to be trained."""
        network, names = copy.deepcopy(self.network), weight_sites(self.network)
        parameters, ranges = dict(network.named_parameters()), dict(self.calibration.weights)
        for site, place in self._correctable.items():
            bias = self._corrected(site, plan.weights[site])
            parameters[names[place.bias]].data = bias
            ranges[place.bias] = SiteRange(float(bias.abs().max()), bias, bias.numel())
        calibration = Calibration(ranges, self.calibration.arrays)
        return dataclasses.replace(self, network=network, calibration=calibration)

    def _corrected(self, site: str, fmt: NumberFormat) -> Tensor:
        """Give the bias behind a weight that is rounded to a format; computed once."""
        known = self._biases
        if (site, fmt) not in known:
            weights, place = self.calibration.weights, self._correctable[site]
            weight, bias = weights[site].sample, weights[place.bias].sample
            error = round_weight(weight, site, fmt, self.rounding, self.seed).values - weight
            layer = self.network.get_submodule(place.layer)
            known[site, fmt] = corrected_bias(layer, bias, error, self.calibration.inputs[site], place.gain)
        return known[site, fmt]

    def _bias_format(self, site: str, fmt: NumberFormat, bias: str, bits: int) -> NumberFormat:
        """Choose the format of a corrected bias; chosen once."""
        known = self._corrected_formats
        if (bias, bits, fmt) not in known:
            values = self._corrected(site, fmt)
            found = SiteRange(float(values.abs().max()), values, values.numel())
            known[bias, bits, fmt] = weight_format(found, bits, self.rounding)
        return known[bias, bits, fmt]

    def common_width(self, bits: int) -> BitPlan:
        """Give the plan in which every site has the same width."""
        return self.plan(dict.fromkeys(self.sites, bits))

    def payload_bytes(self, widths: Widths) -> int:
        """Count the bytes of all weights; see :func:`~qcaps.quantization.artifact.payload_bytes`."""
        sites = self.calibration.weights
        return self.float_leftovers + sum(self.weight_bytes(site, widths[site]) for site in sites)

    def weight_bytes(self, site: str, bits: int) -> int:
        """Count the bytes of one weight in the file, scales included; or as Q-CapsNets counts them."""
        found = self.calibration.weights[site]
        if self.reference:
            return math.ceil(found.values * bits / 8)
        if bits == Float32.bits:
            return 4 * found.values
        return segment_bytes(found.values, bits, found.channels if self.per_channel else 1)

    def activation_bytes(self, widths: Widths) -> float:
        """Sum the bytes of all arrays of one image, votes included; an array of several iterations at its widest."""
        widest: dict[str, float] = {}
        for site, found in self.calibration.arrays.items():
            array = site.split("@", 1)[0]
            widest[array] = max(widest.get(array, 0.0), found.values * widths[site] / 8)
        return sum(widest.values())
