"""Reference accounting: formats and sizes as Q-CapsNets counts them, for rows beside its published ones.

It gives every value one integer bit, the sign, and N fraction bits: n = N + 1 bits are charged, the step is 2^-N, and
nothing is ever clamped. Values outside [-1, 1) are therefore charged less than they need: no file can hold such a plan.

Reference: the code ``bbussolino/Q-CapsNets``; the reduction of activations is that of its later branches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from qcaps.capsules.sites import role_of
from qcaps.evaluation.cost import Shape, StageCost
from qcaps.quantization.calibration import Calibration
from qcaps.quantization.formats import FixedPoint, Float32, NumberFormat
from qcaps.quantization.search.groups import Widths

LABEL = "reference accounting"


def reference_weight_bits(stages: Iterable[StageCost], sites: Mapping[str, int], widths: Widths) -> int:
    """Count the bits of all parameters, biases and the gains and shifts of norms included.

    Parameters
    ----------
    stages
        Of the network; running statistics, scales and headers are not counted.
    sites
        Weight site → number of values.
    widths
        Of these sites. A parameter without a site is charged like the widest site of its stage.
    """
    bits = 0
    for stage in stages:
        own = {site: values for site, values in sites.items() if site.split(".", 1)[0] == stage.name}
        widest = max((widths[site] for site in own), default=Float32.bits)
        bits += sum(values * widths[site] for site, values in own.items())
        bits += (stage.parameters - sum(own.values())) * widest
    return bits


def reference_sizes(arrays: Mapping[str, Shape]) -> dict[str, int]:
    """Count the values of the one array that each layer is charged for, its output.

    Parameters
    ----------
    arrays
        Array site → shape of one image, in execution order.

    Returns
    -------
    dict
        Output site → values. Of several routing passes the last one counts; votes, sums and logits do not.
    """
    outputs = {site.split("@", 1)[0]: site for site in arrays if role_of(site) == "out"}
    return {site: math.prod(arrays[site]) for site in outputs.values()}


def reference_activation_reduction(sizes: Mapping[str, int], image: Shape, widths: Widths) -> Fraction:
    """Divide the bits of all outputs in float32 by those in their widths.

    Parameters
    ----------
    sizes
        Of the outputs, see :func:`reference_sizes`.
    image
        Channels, height and width of the input, which is charged like the first output.
    widths
        Of the output sites, and of any others.
    """
    first = next(iter(sizes))
    charged = {**sizes, first: sizes[first] + math.prod(image)}
    return Fraction(
        Float32.bits * sum(charged.values()), sum(values * widths[site] for site, values in charged.items())
    )


def reference_formats(
    calibration: Calibration, widths: Widths
) -> tuple[dict[str, NumberFormat], dict[str, NumberFormat]]:
    """Give weights and arrays the step of their width, and as many bits as keep every value from being clamped.

    Parameters
    ----------
    calibration
        Ranges of the float network.
    widths
        Of all its sites, n = N + 1; what needs more than 16 bits stays float32.

    Returns
    -------
    tuple
        Formats of the weights and of the arrays, for fixed point. Those of weights are as narrow as their largest value
        allows; arrays, which other images may drive further than those of the calibration, get all 16 bits.
    """
    weights = {s: _unclamped(r.largest, widths[s], 1) for s, r in calibration.weights.items()}
    arrays = {s: _unclamped(r.largest, widths[s], FixedPoint.max_bits) for s, r in calibration.arrays.items()}
    return weights, arrays


def _unclamped(largest: float, width: int, least_bits: int) -> NumberFormat:
    """Give the format with the step of a width that holds `largest`, whatever the rounding and the sign."""
    if width > FixedPoint.max_bits:
        return Float32()
    highest_code = math.ceil(math.ldexp(largest, width - 1))
    bits = max(width, highest_code.bit_length() + 1, least_bits)
    return FixedPoint(bits, width - 1) if bits <= FixedPoint.max_bits else Float32()


@dataclass(frozen=True)
class Outside:
    """What lies outside [-1, 1), though it is charged as if it did not.

    Parameters
    ----------
    weights
        Weights, counted exactly.
    arrays
        Array sites that reach a magnitude of 1 on the calibration images.
    """

    weights: int
    arrays: int

    @property
    def label(self) -> str:
        """Name the accounting, and say what makes the plan impossible to store."""
        found = []
        if self.weights:
            found.append(f"{self.weights:,} weight{'s' if self.weights > 1 else ''}")
        if self.arrays:
            found.append(f"values at {self.arrays} array site{'s' if self.arrays > 1 else ''}")
        return f"{LABEL}, not storable: {' and '.join(found)} outside [-1, 1)" if found else LABEL


def values_outside(calibration: Calibration, widths: Widths) -> Outside:
    """Count what the sites narrower than float32 cannot hold in the bits they are charged for."""
    weights = [r.sample for site, r in calibration.weights.items() if widths[site] <= FixedPoint.max_bits]
    arrays = [r.largest for site, r in calibration.arrays.items() if widths[site] <= FixedPoint.max_bits]
    return Outside(
        weights=sum(int(((w < -1) | (w >= 1)).sum()) for w in weights),
        arrays=sum(largest >= 1 for largest in arrays),
    )
