"""Dropping routing iterations: the same tensors, a shorter loop, and the sites that it still has."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from qcaps.models.network import array_sites
from qcaps.models.spec import ModelSpec, build, image_of
from qcaps.quantization.plan import BitPlan


def with_fewer_passes(spec: ModelSpec, plan: BitPlan, passes: int) -> tuple[ModelSpec, BitPlan] | None:
    """Shorten the routing of a network, all its routed layers together, and its bit plan with it.

    Parameters
    ----------
    spec
        Any network.
    plan
        Formats of all its sites; an array entry may cover all iterations.
    passes
        How many the shorter routing makes.

    Returns
    -------
    tuple or None
        The spec and the plan of a network that takes the same tensors. None if there is nothing to drop: the network
        has no more than that many passes, or its routing makes a single one whatever its spec says.

    Notes
    -----
    Up to its last pass a shorter routing computes what the longer one does, so every remaining site keeps a format
    that was calibrated for it.
    """
    if not 1 <= passes < getattr(spec, "routing_passes", 1):
        return None
    shorter = cast("ModelSpec", dataclasses.replace(cast("Any", spec), routing_passes=passes))
    sites = _array_sites(shorter)
    if sites == _array_sites(spec):
        return None
    covered = sites | {site.split("@", 1)[0] for site in sites}
    arrays = {site: fmt for site, fmt in plan.arrays.items() if site in covered}
    return shorter, dataclasses.replace(plan, arrays=arrays)


def _array_sites(spec: ModelSpec) -> set[str]:
    return set(array_sites(build(spec).eval(), image_of(spec)))
