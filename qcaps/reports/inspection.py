"""The report of an inspection, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qcaps.config.sizes import format_size
from qcaps.data.preparation import PLAIN, Preparation
from qcaps.data.spec import DataSpec
from qcaps.errors import shortened
from qcaps.reports.table import table_lines

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """One stage: what it gives to the next, what it costs, where it can be rounded and pruned.

    Parameters
    ----------
    name, outputs, parameters, macs, activation_values
        See :class:`~qcaps.evaluation.cost.StageCost`.
    weight_sites, array_sites
        How many there are; every routing iteration counts.
    units
        Kind of prunable unit → how many of it, all layers of the stage together.
    """

    name: str
    outputs: tuple[Shape, ...]
    parameters: int
    macs: int
    activation_values: int
    weight_sites: int
    array_sites: int
    units: Mapping[str, int]


@dataclass(frozen=True)
class Site:
    """One place where numbers may be rounded.

    Parameters
    ----------
    site, group, shape, values
        Its name and group, and the shape and number of its values; of an array those of one image.
    format, holds
        Its number format, and the lowest and the highest value of that; None in a float network. The format holds a
        list of scales where every channel has its own.
    range
        Smallest and largest value: of a weight in the file, of an array on training images; None if not known.
    """

    site: str
    group: str
    shape: Shape
    values: int
    format: Mapping[str, str | int | list[int]] | None
    holds: tuple[float, float] | None
    range: tuple[float, float] | None


@dataclass(frozen=True)
class PrunableUnit:
    """One kind of unit that can be pruned: its name, how many there are, and the tensors that shrink with it."""

    name: str
    count: int
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Decoder:
    """The decoder of a network, which belongs to none of its other figures."""

    name: str
    parameters: int


@dataclass(frozen=True)
class Quantized:
    """How an artifact is rounded.

    Parameters
    ----------
    rounding, seed
        The scheme, and the seed of stochastic rounding.
    bits
        Group of sites → narrowest and widest of them.
    payload_bytes
        Packed weights and their scales.
    """

    rounding: str
    seed: int
    bits: Mapping[str, tuple[int, int]]
    payload_bytes: int


@dataclass(frozen=True)
class InspectedFile:
    """The file of a network.

    Parameters
    ----------
    path, sha256, bytes
        The file on disk.
    data
        The images it was trained on and how they are prepared; None if they are no data set of ours.
    record
        How it was made.
    quantized
        None for a checkpoint.
    """

    path: str
    sha256: str
    bytes: int
    data: DataSpec | None
    record: Mapping[str, object]
    quantized: Quantized | None


@dataclass(frozen=True)
class Inspection:
    """What can be said of a network; only the ranges of its arrays take images.

    Parameters
    ----------
    name, kind
        As it was asked for, and ``network``, ``checkpoint`` or ``artifact``.
    model
        Every number of its spec.
    input, any_size, classes
        Channels, height and width of an image; whether a named network adapts to others; number of classes.
    parameters, macs, activation_values
        Of the encoder, for one image.
    float_bytes
        Of the encoder in float32, running statistics included.
    decoder
        None for none.
    stages, sites, units
        In execution order.
    file
        None for a named network.
    """

    name: str
    kind: str
    model: Mapping[str, object]
    input: tuple[int, int, int]
    any_size: bool
    classes: int
    parameters: int
    macs: int
    activation_values: int
    float_bytes: int
    decoder: Decoder | None
    stages: tuple[Stage, ...]
    sites: tuple[Site, ...]
    units: tuple[PrunableUnit, ...]
    file: InspectedFile | None


def inspection_lines(found: Inspection, *, sites: bool, units: bool) -> list[str]:
    """Tell people about a network: facts, a table of its stages and, if asked for, of its sites and units."""
    lines = [f"{found.name}: {found.kind}, {found.model['architecture']}"]
    lines += [f"  {name:<12} {text}" for name, text in _facts(found)]
    lines += ["", *_stage_table(found)]
    if sites:
        lines += ["", *_site_table(found)]
    if units:
        lines += ["", *_unit_table(found)]
    return lines


def shape_text(shape: Shape) -> str:
    """Write a shape as people do, ``256x20x20``."""
    return "x".join(map(str, shape)) or "1"


def _facts(found: Inspection) -> list[tuple[str, str]]:
    others = ", adapts to other sizes" if found.any_size else ""
    facts = [
        ("input", f"{shape_text(found.input)}, {found.classes} classes{others}"),
        ("parameters", f"{found.parameters:,}"),
        ("MACs", f"{found.macs:,} per image"),
        ("in float", format_size(found.float_bytes)),
    ]
    if found.decoder is not None:
        facts.append(("decoder", f"{found.decoder.name}, {found.decoder.parameters:,} parameters apart"))
    return facts + ([] if found.file is None else _file_facts(found.file))


def _file_facts(file: InspectedFile) -> list[tuple[str, str]]:
    facts = []
    if file.quantized is not None:
        q = file.quantized
        widths = ", ".join(f"{group} {_bits(*bits)}" for group, bits in q.bits.items())
        facts = [("widths", widths), ("rounding", q.rounding), ("weights", format_size(q.payload_bytes))]
    data = "none of ours" if file.data is None else f"{file.data.dataset}, {_prepared(file.data.preparation)}"
    facts.append(("data set", data))
    made = file.record.get("import")
    if isinstance(made, dict):
        facts.append(("imported", shortened(f"{made.get('file')} from {made.get('source')}")))
    return [*facts, ("file", format_size(file.bytes)), ("sha256", file.sha256)]


def _prepared(preparation: Preparation) -> str:
    """Tell in words what is done to all images."""
    steps = [f"pixels divided by {preparation.divisor}"]
    if preparation.resize is not None:
        steps.insert(0, f"resized to {shape_text(preparation.resize)}")
    if (preparation.mean, preparation.std) != (PLAIN.mean, PLAIN.std):
        steps.append("standardised")
    if preparation.crop is not None:
        steps.append(f"centre of {shape_text(preparation.crop)}")
    return ", ".join(steps)


def _bits(narrowest: int, widest: int) -> str:
    return f"{narrowest} bits" if narrowest == widest else f"{narrowest} to {widest} bits"


def _stage_table(found: Inspection) -> list[str]:
    head = ("stage", "output", "parameters", "MACs", "activations", "sites", "units")
    rows: list[tuple[str | int, ...]] = [
        (
            stage.name,
            " + ".join(map(shape_text, stage.outputs)),
            stage.parameters,
            stage.macs,
            stage.activation_values,
            stage.weight_sites + stage.array_sites,
            ", ".join(f"{count:,} {kind}" for kind, count in stage.units.items()),
        )
        for stage in found.stages
    ]
    total = ("total", "", found.parameters, found.macs, found.activation_values, len(found.sites), "")
    return table_lines(head, [*rows, total])


def _site_table(found: Inspection) -> list[str]:
    """List the sites; a column that would be empty is left out."""
    columns: dict[str, list[str | int]] = {
        "site": [s.site for s in found.sites],
        "group": [s.group for s in found.sites],
        "shape": [shape_text(s.shape) for s in found.sites],
        "values": [s.values for s in found.sites],
        "range": [_range_text(s.range) for s in found.sites],
        "format": [_format_text(s.format) for s in found.sites],
        "holds": [_range_text(s.holds) for s in found.sites],
    }
    shown = {head: cells for head, cells in columns.items() if any(cells)}
    return table_lines(tuple(shown), list(zip(*shown.values(), strict=True)))


def _range_text(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.3g} to {ends[1]:.3g}"


def _format_text(number_format: Mapping[str, str | int | list[int]] | None) -> str:
    """Write a number format, given in its plain-data form, as ``8 bits, step 2^-5``."""
    match number_format:
        case {"bits": bits, "frac_bits": int(frac_bits)}:
            return f"{bits} bits, step 2^{-frac_bits}"
        case {"bits": bits, "frac_bits": list(scales)}:
            return f"{bits} bits, step 2^{-max(scales)}..2^{-min(scales)} by channel"
        case {"bits": bits, "max_exponent": int(exponent)}:
            return f"{bits} bits, up to 2^{exponent}"
        case {"bits": bits, "max_exponent": list(scales)}:
            return f"{bits} bits, up to 2^{min(scales)}..2^{max(scales)} by channel"
    return "float32"


def _unit_table(found: Inspection) -> list[str]:
    if not found.units:
        return ["nothing can be pruned"]
    return table_lines(("unit", "count", "tensors"), [(u.name, u.count, len(u.tensors)) for u in found.units])
