"""Whether the routing of a quantized network is at work: without it, with it, and what rounding did to it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from qcaps.artifacts.checkpoint import Checkpoint
from qcaps.data.images import ImageSet
from qcaps.evaluation.measure import Measurement, Predict, predictor
from qcaps.evaluation.routing_watch import Mean, RoutingWatch
from qcaps.evaluation.watching import watched
from qcaps.models.network import encoder_tensors, to_inference
from qcaps.models.spec import filled
from qcaps.quantization.artifact import Artifact
from qcaps.quantization.loading import Loaded
from qcaps.reports.quantization import RoutingChange, SiteChange, UniformRouting

# Images of the search split on which the routing is looked at.
WATCHED = 256

# Predicts every image of a set once; the last argument names the work.
Measure = Callable[[Predict, ImageSet, str], Measurement]


def uniform_routing(
    measure: Measure,
    source: Checkpoint,
    file: Loaded,
    images: ImageSet,
    quantized: Measurement,
    in_float: Measurement,
) -> UniformRouting:
    """Repeat two measurements with all coupling coefficients equal, and say so if no prediction changes.

    Parameters
    ----------
    measure
        How images are predicted.
    source, file
        The float network, and the artifact.
    images, quantized, in_float
        What was measured, and the two measurements.
    """
    spec = file.model.with_uniform_routing()
    if spec == file.model:  # there is no routing, or it is uniform already
        return UniformRouting(quantized.accuracy, in_float.accuracy, "")
    ablated = to_inference(filled(spec, encoder_tensors(file.network), where=file.path.name))
    found = measure(artifact_of(file).rounder().predictor(ablated), images, "uniform routing: quantized")
    in_float_spec = source.model.with_uniform_routing()
    float_network = to_inference(filled(in_float_spec, source.tensors, where="checkpoint"))
    float_found = measure(predictor(float_network), images, "uniform routing: float")
    note = ""
    if torch.equal(found.predictions, quantized.predictions):
        off = not torch.equal(float_found.predictions, in_float.predictions)
        note = "is off in the quantized network" if off else "earns nothing on these images, in float either"
        note = f"uniform routing gives the very same predictions: routing {note}"
    return UniformRouting(found.accuracy, float_found.accuracy, note)


def routing_change(measure: Measure, source: Checkpoint, file: Loaded, images: ImageSet) -> RoutingChange:
    """Look at couplings and logits of the float network and of the artifact, iteration by iteration.

    Parameters
    ----------
    measure, source, file
        As for :func:`uniform_routing`.
    images
        The first of them are looked at.
    """
    some = images.subset(torch.arange(min(WATCHED, len(images))))
    rounder = artifact_of(file).rounder()
    before, after = RoutingWatch(), RoutingWatch()
    measure(watched(source.network(), before.see), some, "routing: float")
    measure(watched(file.network, after.see, rounder.hook), some, "routing: quantized")
    return RoutingChange(
        len(some), _changes(before.entropy, after.entropy), _changes(before.zero_logits, after.zero_logits)
    )


def dead_router_notes(uniform: UniformRouting, routing: RoutingChange) -> tuple[str, ...]:
    """Warn of a routing that does nothing, by what its absence changes and by its logits."""
    dead = [change.site for change in routing.zero_logits if change.quantized == 1 and change.in_float < 1]
    notes = [f"every logit is 0 at {site}: it routes nothing in the quantized network" for site in dead]
    return tuple([uniform.note] * bool(uniform.note) + notes)


def artifact_of(file: Loaded) -> Artifact:
    """Give the quantized network of a file that is known to hold one."""
    assert file.artifact is not None
    return file.artifact


def _changes(before: dict[str, Mean], after: dict[str, Mean]) -> tuple[SiteChange, ...]:
    return tuple(
        SiteChange(site, mean.value, after[site].value if site in after else None) for site, mean in before.items()
    )
