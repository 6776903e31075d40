"""BitPlan: the number format of every site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from qcaps.errors import ArtifactError, quoted
from qcaps.quantization.formats import NumberFormat, PerChannel, Rounding, format_from_dict, format_to_dict
from qcaps.quantization.packing import segment_format
from qcaps.registry import ROUNDINGS


@dataclass(frozen=True)
class BitPlan:
    """How every site is rounded.

    Parameters
    ----------
    rounding
        The scheme, common to all sites.
    weights, arrays
        Site name → format, in execution order. An array entry without ``@iteration`` covers all iterations; only
        weights have formats per channel.

    Raises
    ------
    ValueError
        If an array has a format per channel.
    """

    rounding: Rounding
    weights: Mapping[str, NumberFormat]
    arrays: Mapping[str, NumberFormat]

    def __post_init__(self) -> None:
        """Refuse arrays with a scale per channel: their first axis is the batch."""
        if any(isinstance(fmt, PerChannel) for fmt in self.arrays.values()):
            raise ValueError("only weights have a scale per channel")

    def of_array(self, site: str) -> NumberFormat:
        """Give the format of an array site.

        An entry without iteration covers all of them; a routing of a single pass, which names none, takes the format
        of the first.

        Raises
        ------
        KeyError
            If the plan has none: a site is never left float in silence.
        """
        array, _, iteration = site.partition("@")
        names = (site, array) if iteration else (site, f"{site}@1")
        return self.arrays[next((name for name in names if name in self.arrays), site)]


def plan_to_dict(plan: BitPlan) -> dict[str, object]:
    """Write a plan as plain data, every scale included."""
    return {
        "rounding": plan.rounding,
        "weights": {site: format_to_dict(fmt) for site, fmt in plan.weights.items()},
        "arrays": {site: format_to_dict(fmt) for site, fmt in plan.arrays.items()},
    }


def plan_to_header(plan: BitPlan) -> dict[str, object]:
    """Write a plan for the header of a file: scales per channel are only counted, since the segments hold them."""
    return {**plan_to_dict(plan), "weights": {site: _weight_to_header(fmt) for site, fmt in plan.weights.items()}}


def plan_from_header(data: object, segments: Mapping[str, Tensor], *, where: str) -> BitPlan:
    """Read a plan out of the header of a file, and scales per channel out of its segments.

    Raises
    ------
    ArtifactError
        If it is not exactly what :func:`plan_to_header` writes, or a segment lacks its scales.
    """
    if not isinstance(data, dict) or data.keys() != {"rounding", "weights", "arrays"}:
        raise ArtifactError("the header holds no bit plan", where=where)
    rounding = data["rounding"]
    if not isinstance(rounding, str) or rounding not in ROUNDINGS:
        raise ArtifactError(f"unknown rounding {quoted(rounding)}", where=where)
    for part in ("weights", "arrays"):
        if not isinstance(data[part], dict):
            raise ArtifactError(f"the {part} of the bit plan are not a mapping", where=where)
    weights = {s: _weight_from_header(f, segments.get(s), where=f"{where}: {s}") for s, f in data["weights"].items()}
    arrays = {s: format_from_dict(f, where=f"{where}: {s}") for s, f in data["arrays"].items()}
    return BitPlan(rounding, weights, arrays)  # type: ignore[arg-type]  # checked by name


def _weight_to_header(fmt: NumberFormat) -> Mapping[str, object]:
    if isinstance(fmt, PerChannel):
        return {"kind": format_to_dict(fmt.base)["kind"], "bits": fmt.bits, "channels": len(fmt.shifts)}
    return format_to_dict(fmt)


def _weight_from_header(data: object, segment: Tensor | None, *, where: str) -> NumberFormat:
    match data:
        case {"kind": str(kind), "bits": int(bits), "channels": int(channels), **others} if not others:
            if segment is None or channels < 1 or bool in (type(bits), type(channels)):
                raise ArtifactError("a format per channel has no channels or no segment", where=where)
            return segment_format(segment, kind, bits, channels, where=where)
    return format_from_dict(data, where=where)
