"""The table of sites: widths, scales, bytes, saturation and sensitivity; and what arrays take together."""

from __future__ import annotations

from collections.abc import Mapping

from qcaps.capsules.sites import group_of
from qcaps.quantization.applying import Saturation
from qcaps.quantization.calibration import Calibration
from qcaps.quantization.formats import (
    FixedPoint,
    Logarithmic,
    NumberFormat,
    OneScale,
    PerChannel,
    format_to_dict,
)
from qcaps.quantization.packing import stored_bytes
from qcaps.quantization.plan import BitPlan
from qcaps.reports.quantization import Layer


def layer_table(
    plan: BitPlan,
    calibration: Calibration,
    saturation: Mapping[str, Saturation],
    damages: Mapping[str, Mapping[int, float]],
) -> tuple[Layer, ...]:
    """List every site of a plan, weights first.

    Parameters
    ----------
    plan, calibration
        Formats and sizes.
    saturation
        Values passed and clamped, by site, weights and arrays alike.
    damages
        Site → width → predicted damage; sites that were not measured may be missing.
    """
    rows = []
    for formats, ranges in ((plan.weights, calibration.weights), (plan.arrays, calibration.arrays)):
        for site, fmt in formats.items():
            values = ranges[site].values
            counted = saturation.get(site, Saturation())
            rows.append(
                Layer(
                    site=site,
                    group=group_of(site),
                    kind=str(format_to_dict(fmt)["kind"]),
                    bits=fmt.bits,
                    scales=_scales(fmt),
                    values=values,
                    bytes=stored_bytes(values, fmt) if ranges is calibration.weights else values * fmt.bits / 8,
                    saturated=counted.clamped / counted.values if counted.values else 0.0,
                    sensitivity=damages.get(site, {}).get(fmt.bits),
                )
            )
    return tuple(rows)


def array_bytes(plan: BitPlan, calibration: Calibration) -> dict[str, float]:
    """Give the bytes of every array of one image: an array of several iterations counts once, at its widest."""
    widest: dict[str, float] = {}
    for site, fmt in plan.arrays.items():
        array = site.split("@", 1)[0]
        widest[array] = max(widest.get(array, 0), calibration.arrays[site].values * fmt.bits / 8)
    return widest


def _scales(fmt: NumberFormat) -> tuple[int, int] | None:
    """Give the least and the largest scale of a format."""
    match fmt:
        case PerChannel():
            scales = [_scale(channel) for channel in fmt.channels]
            return min(scales), max(scales)
        case FixedPoint() | Logarithmic():
            return _scale(fmt), _scale(fmt)
    return None


def _scale(fmt: OneScale) -> int:
    return fmt.integer_bits if isinstance(fmt, FixedPoint) else fmt.max_exponent
