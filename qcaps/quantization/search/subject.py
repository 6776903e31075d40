"""The network that a search quantizes: its formats by width, and what they cost."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from qcaps.data.spec import DataSpec
from qcaps.evaluation.measure import even_blocks
from qcaps.models.network import CapsuleNetwork, float_tensors
from qcaps.models.spec import ModelSpec, image_of, spec_to_dict
from qcaps.quantization.calibration import Calibration, array_format, weight_format
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
        """Identify the network by plain data."""
        return network_content(self.model, self.network)

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
        return sum(4 * tensor.numel() for tensor in float_tensors(self.network).values())

    @functools.cached_property
    def _formats(self) -> dict[tuple[str, int], NumberFormat]:
        return {}

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

        return BitPlan(self.rounding, formats(self.calibration.weights), formats(self.calibration.arrays))

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


def network_content(model: ModelSpec, network: CapsuleNetwork) -> tuple[object, ...]:
    """Identify a network by its spec and the sha256 of its numbers, names included."""
    digest = hashlib.sha256()
    state: Mapping[str, Tensor] = network.state_dict()
    for name in sorted(state):
        digest.update(f"{name}{tuple(state[name].shape)}".encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return spec_to_dict(model), digest.hexdigest()
