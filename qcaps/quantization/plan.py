"""BitPlan: the number format of every site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qcaps.errors import ArtifactError, quoted
from qcaps.quantization.formats import (
    NumberFormat,
    Rounding,
    format_from_dict,
    format_to_dict,
)
from qcaps.registry import ROUNDINGS


@dataclass(frozen=True)
class BitPlan:
    """How every site is rounded.

    Parameters
    ----------
    rounding
        The scheme, common to all sites.
    weights, arrays
        Site name → format, in execution order. An array entry without ``@iteration`` covers all iterations.
    """

    rounding: Rounding
    weights: Mapping[str, NumberFormat]
    arrays: Mapping[str, NumberFormat]

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
    """Write a plan as plain data."""
    return {
        "rounding": plan.rounding,
        "weights": {site: format_to_dict(fmt) for site, fmt in plan.weights.items()},
        "arrays": {site: format_to_dict(fmt) for site, fmt in plan.arrays.items()},
    }


def plan_from_dict(data: object, *, where: str) -> BitPlan:
    """Read a plan out of the header of a file.

    Raises
    ------
    ArtifactError
        If it is not exactly what :func:`plan_to_dict` writes.
    """
    if not isinstance(data, dict) or data.keys() != {"rounding", "weights", "arrays"}:
        raise ArtifactError("the header holds no bit plan", where=where)
    rounding = data["rounding"]
    if not isinstance(rounding, str) or rounding not in ROUNDINGS:
        raise ArtifactError(f"unknown rounding {quoted(rounding)}", where=where)
    formats: dict[str, dict[str, NumberFormat]] = {}
    for part in ("weights", "arrays"):
        if not isinstance(data[part], dict):
            raise ArtifactError(f"the {part} of the bit plan are not a mapping", where=where)
        formats[part] = {s: format_from_dict(f, where=f"{where}: {s}") for s, f in data[part].items()}
    return BitPlan(rounding, formats["weights"], formats["arrays"])  # type: ignore[arg-type]  # checked by name
