"""The table of sites: widths, bytes and saturation."""

from __future__ import annotations

from collections.abc import Mapping

from qcaps.capsules.sites import group_of
from qcaps.quantization.applying import Saturation
from qcaps.quantization.calibration import Calibration
from qcaps.quantization.formats import FixedPoint, Float32, NumberFormat, format_to_dict
from qcaps.quantization.packing import segment_bytes
from qcaps.quantization.plan import BitPlan
from qcaps.reports.quantization import Layer


def layer_table(plan: BitPlan, calibration: Calibration, saturation: Mapping[str, Saturation]) -> tuple[Layer, ...]:
    """List every site of a plan, weights first.

    Parameters
    ----------
    plan, calibration
        Formats and sizes.
    saturation
        Values passed and clamped, by site, weights and arrays alike.
    """
    rows = []
    for formats, ranges in ((plan.weights, calibration.weights), (plan.arrays, calibration.arrays)):
        for site, fmt in formats.items():
            values = ranges[site].values
            size = _weight_bytes(values, fmt) if ranges is calibration.weights else values * fmt.bits / 8
            rows.append(_layer(site, fmt, values, size, saturation.get(site, Saturation())))
    return tuple(rows)


def activation_bytes(plan: BitPlan, calibration: Calibration) -> tuple[float, int]:
    """Sum the bytes of all arrays of one image, under the plan and in float32.

    Votes, coupling coefficients, logits, sums and outputs all count; an array of several iterations counts once,
    at its widest.
    """
    widest: dict[str, float] = {}
    values: dict[str, int] = {}
    for site, fmt in plan.arrays.items():
        array = site.split("@", 1)[0]
        widest[array] = max(widest.get(array, 0), calibration.arrays[site].values * fmt.bits / 8)
        values[array] = calibration.arrays[site].values
    return sum(widest.values()), 4 * sum(values.values())


def _weight_bytes(count: int, fmt: NumberFormat) -> float:
    return 4 * count if isinstance(fmt, Float32) else segment_bytes(count, fmt.bits)


def _layer(site: str, fmt: NumberFormat, values: int, size_bytes: float, counted: Saturation) -> Layer:
    return Layer(
        site=site,
        group=group_of(site),
        kind=str(format_to_dict(fmt)["kind"]),
        bits=fmt.bits,
        scale=fmt.integer_bits if isinstance(fmt, FixedPoint) else getattr(fmt, "max_exponent", None),
        values=values,
        bytes=size_bytes,
        saturated=counted.clamped / counted.values if counted.values else 0.0,
    )
