"""``qcaps inspect``: what a named network, a checkpoint or an artifact is made of; only ``--ranges`` needs data."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from qcaps.artifacts.bundled import find_checkpoint
from qcaps.capsules.sites import group_of
from qcaps.config import InspectConfig, configure, model_numbers
from qcaps.errors import UsageError, quoted
from qcaps.evaluation.cost import NetworkCost, network_cost
from qcaps.models.network import CapsuleNetwork, encoder_tensors, weight_sites
from qcaps.models.spec import ModelSpec, build, fitted_spec, image_of, preset, spec_to_dict
from qcaps.progress import OnProgress, silent
from qcaps.quantization.artifact import Artifact, payload_bytes
from qcaps.quantization.formats import NumberFormat, format_to_dict
from qcaps.quantization.loading import Loaded, load
from qcaps.registry import MODELS, near_matches
from qcaps.reports.inspection import (
    Decoder,
    InspectedFile,
    Inspection,
    PrunableUnit,
    Quantized,
    Site,
    Stage,
    inspection_lines,
)
from qcaps.verbs.outcome import Outcome
from qcaps.verbs.site_ranges import Range, array_ranges, held_range, weight_ranges

DEFAULTS = InspectConfig()
NO_RANGES: Mapping[str, Range] = {}


def inspect(subject: Path | str | None = None, *, on_progress: OnProgress = silent, **options: object) -> Outcome:
    """Describe a network: figures, stages, sites and prunable units.

    Parameters
    ----------
    subject
        Name of a network as `qcaps list models` has it, else a file or the name of a shipped one; None takes the
        shipped default. A file that bears the name of a network is meant by ``./name``.
    on_progress
        Told after every batch of images, of which only ``ranges`` needs any.
    options
        The fields of :class:`~qcaps.config.InspectConfig`.

    Returns
    -------
    Outcome
        Its document always lists the sites and units.

    Raises
    ------
    UsageError
        If an option is wrong, there is no such network or file, or images are missing.
    ArtifactError
        If a file is unreadable.
    StoppedError
        If interrupted while images ran.
    """
    config = configure(InspectConfig, options)
    found = inspection(subject, config, on_progress)
    document = {"schema": "qcaps.inspect/1", **dataclasses.asdict(found)}
    lines = inspection_lines(found, sites=config.sites or config.ranges, units=config.units)
    return Outcome(0, (), document, tuple(lines))


def inspection(
    subject: Path | str | None, config: InspectConfig = DEFAULTS, on_progress: OnProgress = silent
) -> Inspection:
    """Describe a network; see :func:`inspect`."""
    name = str(subject)
    if name in MODELS:
        if config.ranges:
            raise UsageError("a named network has no numbers yet", where="--ranges", do="name a file")
        return _described(name, _spec(name, config), None, {})
    loaded = load(_path(subject, config))
    return described(
        loaded, weight_ranges(loaded) | (array_ranges(loaded, config, on_progress) if config.ranges else {})
    )


def described(loaded: Loaded, ranges: Mapping[str, Range] = NO_RANGES) -> Inspection:
    """Describe the network of a file, with the ranges that are known."""
    return _described(str(loaded.path), loaded.model, loaded, ranges)


def _spec(name: str, config: InspectConfig) -> ModelSpec:
    """Make the spec of a named network as training would, with its usual decoder."""
    known = preset(name).spec
    numbers = model_numbers(config.model_arg)
    image, classes = config.input or image_of(known), cast("int", numbers.pop("classes", known.classes))
    spec = fitted_spec(name, image, classes, numbers)
    return fitted_spec(name, image, classes, {"decoder": spec.usual_decoder, **numbers})


def _path(subject: Path | str | None, config: InspectConfig) -> Path:
    """Find the file that is meant, which has its own numbers."""
    try:
        path = find_checkpoint(None if subject is None else Path(subject))
    except UsageError as error:
        do = f"{near_matches(str(subject), MODELS.names())}`qcaps list models` shows the networks; {error.do}"
        raise UsageError(f"there is no network and no file {quoted(subject)}", do=do) from error
    if config.input or config.model_arg:
        where = "--input" if config.input else "--model-arg"
        raise UsageError("a file has its own numbers", where=where, do="leave it out, or name a network")
    return path


def _described(name: str, spec: ModelSpec, loaded: Loaded | None, ranges: Mapping[str, Range]) -> Inspection:
    """Describe a network by building it on the meta device."""
    network = build(spec).eval()
    cost = network_cost(network, image_of(spec))
    artifact = None if loaded is None else loaded.artifact
    decoder = None
    if network.decoder is not None:
        decoder = Decoder(spec.decoder, sum(p.numel() for p in network.decoder.parameters()))
    return Inspection(
        name=name,
        kind="network" if loaded is None else "checkpoint" if artifact is None else "artifact",
        model=spec_to_dict(spec),
        input=image_of(spec),
        any_size=loaded is None and preset(name).any_size,
        classes=spec.classes,
        parameters=sum(stage.parameters for stage in cost.stages),
        macs=sum(stage.macs for stage in cost.stages),
        activation_values=sum(stage.activation_values for stage in cost.stages),
        float_bytes=4 * sum(tensor.numel() for tensor in encoder_tensors(network).values()),
        decoder=decoder,
        stages=_stages(network, cost),
        sites=_sites(network, cost, artifact, ranges),
        units=tuple(PrunableUnit(u.name, u.count, tuple(cut.tensor for cut in u.cuts)) for u in network.units),
        file=None if loaded is None else _file(loaded),
    )


def _stages(network: CapsuleNetwork, cost: NetworkCost) -> tuple[Stage, ...]:
    """Add to the cost of every stage its sites and units."""
    weights, arrays = (Counter(site.split(".", 1)[0] for site in part) for part in (weight_sites(network), cost.arrays))
    units: dict[str, Counter[str]] = {stage.name: Counter() for stage in cost.stages}
    for unit in network.units:
        stage, *_, kind = unit.name.split(".")
        units[stage][kind] += unit.count
    return tuple(
        Stage(**vars(s), weight_sites=weights[s.name], array_sites=arrays[s.name], units=dict(units[s.name]))
        for s in cost.stages
    )


def _sites(
    network: CapsuleNetwork, cost: NetworkCost, artifact: Artifact | None, ranges: Mapping[str, Range]
) -> tuple[Site, ...]:
    """List every site, weights first, with its format in an artifact and its range where that is known."""
    parameters = dict(network.named_parameters())
    weights = {site: tuple(parameters[name].shape) for site, name in weight_sites(network).items()}
    formats: dict[str, NumberFormat] = {}
    if artifact is not None:
        formats = {**artifact.plan.weights, **{site: artifact.plan.of_array(site) for site in cost.arrays}}
    return tuple(
        Site(
            site=site,
            group=group_of(site),
            shape=shape,
            values=math.prod(shape),
            format=format_to_dict(formats[site]) if formats else None,
            holds=held_range(formats[site]) if formats else None,
            range=ranges.get(site),
        )
        for site, shape in {**weights, **cost.arrays}.items()
    )


def _file(loaded: Loaded) -> InspectedFile:
    return InspectedFile(
        path=str(loaded.path),
        sha256=loaded.sha256,
        bytes=loaded.file_bytes,
        data=loaded.data,
        record=loaded.record,
        quantized=None if loaded.artifact is None else _quantized(loaded.artifact),
    )


def _quantized(artifact: Artifact) -> Quantized:
    plan = artifact.plan
    bits: dict[str, list[int]] = {}
    for site, fmt in {**plan.weights, **plan.arrays}.items():
        bits.setdefault(group_of(site), []).append(fmt.bits)
    widths = {group: (min(found), max(found)) for group, found in bits.items()}
    return Quantized(plan.rounding, artifact.seed, widths, payload_bytes(artifact.network, plan))
