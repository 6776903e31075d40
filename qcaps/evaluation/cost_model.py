"""The cost of a network as a formula of its widths: exact, for every layer, without building anything again."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qcaps.evaluation.cost import LayerCost
from qcaps.evaluation.formula import Formula, Terms, Vector, product, quotient, total
from qcaps.evaluation.lengths import Recogniser, side_terms
from qcaps.evaluation.trace import Shape, Trace, traced
from qcaps.models.spec import ModelSpec, build, image_of

# What is counted. EagleEye: products of Conv2d and Linear alone, and parameters with 2 or 4 sides.
Convention = Literal["qcaps", "eagleeye"]
EAGLEEYE_RANKS = (2, 4)
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Cost:
    """Cost of a network of some widths for one image.

    Parameters
    ----------
    layers
        In execution order.
    arrays
        Array, a site name without its iteration → values. With :func:`~qcaps.evaluation.liveness.array_lives`, which
        no width changes, :func:`~qcaps.evaluation.liveness.peak` gives what is alive together.
    capsules
        Capsules that vote for the classes.
    """

    layers: tuple[LayerCost, ...]
    arrays: Mapping[str, int]
    capsules: int

    @property
    def macs(self) -> int:
        """Sum the multiply-accumulates."""
        return sum(layer.macs for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Sum the trainable values."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Sum the bytes of all arrays in single precision."""
        return FLOAT_BYTES * sum(self.arrays.values())


@dataclass(frozen=True)
class CostModel:
    """Formulas of the cost of one network for one image.

    Parameters
    ----------
    units
        Unit → how many there are, the full widths. A vector of widths has this order.
    macs, parameters, activations
        By layer; activations are the values of its arrays.
    arrays
        Values by array.
    capsules
        Capsules that vote for the classes, those of both branches of a DeepCaps and the primary capsules of most
        others; none without routing.
    """

    units: Mapping[str, int]
    macs: Formula
    parameters: Formula
    activations: Formula
    arrays: Formula
    capsules: Formula

    def vector(self, widths: Mapping[str, int]) -> Vector:
        """Bring the widths of some units into their order, with the full widths of all others.

        Raises
        ------
        ValueError
            If there is no such unit.
        """
        unknown = sorted(widths.keys() - self.units.keys())
        if unknown:
            raise ValueError(f"there is no unit {unknown[0]!r}")
        return np.array([widths.get(name, count) for name, count in self.units.items()], np.int64)

    def at(self, widths: Mapping[str, int]) -> Cost:
        """Give the cost of every layer when these numbers of units stay, and all others whole."""
        vector = self.vector(widths)
        parameters, macs, values = (part.rows(vector) for part in (self.parameters, self.macs, self.activations))
        layers = (LayerCost(name, parameters[name], macs[name], values[name]) for name in macs)
        return Cost(tuple(layers), self.arrays.rows(vector), self.capsules(vector))


def cost_model(spec: ModelSpec, convention: Convention = "qcaps") -> CostModel:
    """Derive the formulas of a network from its declared units and a few passes of blank images.

    Parameters
    ----------
    spec
        Of any network, pruned already or not.
    convention
        What is counted.

    Raises
    ------
    ValueError
        If a length of the network follows no width that its units declare.
    """
    network = build(spec).eval()
    sides = side_terms(network.units, {name: tensor.shape for name, tensor in network.stages.named_parameters()})
    units = {unit.name: unit.count for unit in network.units}
    recognise = Recogniser(itertools.chain(*sides.values()), list(units.values()))
    narrower = (spec.with_widths(dict(zip(units, probe.tolist(), strict=True))) for probe in recognise.probes)
    traces = [traced(build(one).eval(), image_of(one)) for one in narrower]
    plain = convention == "eagleeye"
    parameters = {name: product(terms) for name, terms in sides.items() if not plain or len(terms) in EAGLEEYE_RANKS}
    arrays, layers = _array_terms(traces, recognise), traces[0].layers
    own = {layer: [array for array in arrays if array.rsplit(".", 1)[0] == layer] for layer in layers}
    return CostModel(
        units,
        macs=Formula(_product_terms(traces, recognise, plain=plain)),
        parameters=Formula({layer: _sum(parameters, names) for layer, names in layers.items()}),
        activations=Formula({layer: _sum(arrays, names) for layer, names in own.items()}),
        arrays=Formula(arrays),
        capsules=Formula(_voters(arrays, last=list(traces[0].outputs)[-1], classes=spec.classes)),
    )


def _sum(terms: Mapping[str, Terms], names: Sequence[str]) -> Terms:
    return total(terms[name] for name in names if name in terms)


def _product_terms(traces: Sequence[Trace], recognise: Recogniser, *, plain: bool) -> dict[str, Terms]:
    """Sum the multiply-accumulates of every layer."""
    found: dict[str, list[Terms]] = {layer: [] for layer in traces[0].layers}
    for same in zip(*(trace.products for trace in traces), strict=True):
        if same[0].plain or not plain:
            found[same[0].layer].append(_volume([one.lengths for one in same], recognise))
    return {layer: total(terms) for layer, terms in found.items()}


def _array_terms(traces: Sequence[Trace], recognise: Recogniser) -> dict[str, Terms]:
    """Count the values of every array, one of several iterations once."""
    once = {site.split("@", 1)[0]: site for site in traces[0].arrays}
    return {array: _volume([trace.arrays[site] for trace in traces], recognise) for array, site in once.items()}


def _volume(shapes: Sequence[Shape], recognise: Recogniser) -> Terms:
    """Multiply the lengths of something, given its lengths in every probe."""
    return product(recognise(lengths) for lengths in zip(*shapes, strict=True))


def _voters(arrays: Mapping[str, Terms], *, last: str, classes: int) -> dict[str, Terms]:
    """Count the capsules that vote for the classes: each has one coupling coefficient with every class."""
    couplings = f"{last}.coupling"
    return {couplings: quotient(arrays[couplings], classes)} if couplings in arrays else {}
