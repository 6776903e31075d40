"""Calibration: the range of every site of the float network, on training images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qcaps.capsules.sites import hooked
from qcaps.data.images import ImageSet
from qcaps.errors import QcapsError
from qcaps.evaluation.measure import measure, predictor
from qcaps.models.network import CapsuleNetwork, weight_sites
from qcaps.progress import OnProgress, silent
from qcaps.quantization.bias_correction import watching_inputs
from qcaps.quantization.choosing import choose_channel_formats, choose_format
from qcaps.quantization.draws import uniforms
from qcaps.quantization.formats import NumberFormat, Rounding
from qcaps.quantization.plan import BitPlan

# Values kept of every array site to compare scales by; the largest magnitude is always exact.
SAMPLE = 1 << 16


@dataclass(frozen=True, eq=False)
class SiteRange:
    """What calibration saw at one site.

    Parameters
    ----------
    largest
        Exact largest magnitude.
    sample
        Values to compare scales by: all of a weight, a keyed draw of an array.
    values
        Values per image of an array; all values of a weight.
    channels
        How many may have a scale each: the first axis of a weight of two or more, 1 for a bias or an array.
    """

    largest: float
    sample: Tensor
    values: int
    channels: int = 1


@dataclass(frozen=True)
class Calibration:
    """Ranges of all weight sites and all array sites, in execution order.

    Parameters
    ----------
    weights, arrays
        By site.
    inputs
        Weight site → its mean input, for :mod:`~qcaps.quantization.bias_correction`; empty for biases as they are.
    """

    weights: Mapping[str, SiteRange]
    arrays: Mapping[str, SiteRange]
    inputs: Mapping[str, Tensor] = field(default_factory=dict)


def calibrate(
    network: CapsuleNetwork,
    images: ImageSet,
    *,
    batch_size: int,
    seed: int,
    with_inputs: bool = False,
    on_progress: OnProgress = silent,
    stop: Callable[[], bool] = lambda: False,
) -> Calibration:
    """Run the float network over training images and note the range of every site.

    Parameters
    ----------
    network
        In inference form, norms folded; left as it is.
    images
        Training images; never those a decision is judged on.
    batch_size
        As for :func:`~qcaps.evaluation.measure.measure`.
    seed
        Of the sample.
    with_inputs
        Whether the mean inputs of weights are noted too.
    on_progress, stop
        As for :func:`~qcaps.evaluation.measure.measure`.

    Raises
    ------
    QcapsError
        If a site holds NaN or infinity.
    StoppedError
        If `stop` said so.
    """
    per_image = max(1, SAMPLE // len(images))
    largest: dict[str, float] = {}
    samples: dict[str, list[Tensor]] = {}
    values: dict[str, int] = {}
    seen: dict[str, int] = {}
    sums: dict[str, Tensor] = {}

    def note(site: str, array: Tensor) -> Tensor:
        flat = array.reshape(len(array), -1)  # (batch, values)
        magnitude = _largest_magnitude(site, flat)
        start = seen.get(site, 0)
        seen[site] = start + len(array)
        picked = uniforms(seed, f"calibration/{site}", images.indices[start : seen[site]], per_image)
        positions = (picked * flat.shape[1]).long().clamp_max(flat.shape[1] - 1)
        largest[site] = max(largest.get(site, 0.0), magnitude)
        samples.setdefault(site, []).append(flat if flat.shape[1] <= per_image else flat.gather(1, positions))
        values[site] = flat.shape[1]
        return array

    with ExitStack() as watches:
        watches.enter_context(hooked(network, note))
        if with_inputs:
            watches.enter_context(watching_inputs(network, sums))
        measure(
            predictor(network),
            images,
            batch_size=batch_size,
            phase="calibrate",
            on_progress=on_progress,
            stop=stop,
        )
    arrays = {s: SiteRange(largest[s], torch.cat([x.flatten() for x in samples[s]]), values[s]) for s in samples}
    return Calibration(weight_ranges(network), arrays, {site: total / len(images) for site, total in sums.items()})


def weight_ranges(network: CapsuleNetwork) -> dict[str, SiteRange]:
    """Give the range of every weight of a network."""
    parameters = dict(network.named_parameters())
    found = {}
    for site, name in weight_sites(network).items():
        tensor = parameters[name].detach()
        channels = len(tensor) if site.endswith(".weight") and tensor.dim() > 1 else 1
        found[site] = SiteRange(_largest_magnitude(site, tensor), tensor, tensor.numel(), channels)
    return found


def _largest_magnitude(site: str, values: Tensor) -> float:
    low, high = (float(end) for end in torch.aminmax(values))
    magnitude = max(-low, high)
    if not magnitude < float("inf"):
        raise QcapsError("a site holds NaN or infinity", where=site, do="train again with a lower --lr")
    return magnitude


def weight_format(found: SiteRange, bits: int, rounding: Rounding, *, per_channel: bool = False) -> NumberFormat:
    """Choose the scale of a weight, or one for each of its channels; as for `array_format`."""
    if per_channel and found.channels > 1:
        return choose_channel_formats(found.sample, bits, rounding)
    return array_format(found, bits, rounding)


def array_format(found: SiteRange, bits: int, rounding: Rounding) -> NumberFormat:
    """Choose the scale of a site; see :func:`~qcaps.quantization.choosing.choose_format`."""
    return choose_format(found.sample, found.largest, bits, rounding)


def plan_of_width(calibration: Calibration, bits: int, rounding: Rounding, *, per_channel: bool = False) -> BitPlan:
    """Give every site the same width, and each the scale that suits it best.

    Parameters
    ----------
    calibration
        Ranges of the float network.
    bits
        Total width; above what `rounding` can pack the plan is float32 throughout.
    rounding
        The scheme.
    per_channel
        Whether every output channel of a weight has a scale of its own.
    """
    weights = {s: weight_format(r, bits, rounding, per_channel=per_channel) for s, r in calibration.weights.items()}
    arrays = {s: array_format(r, bits, rounding) for s, r in calibration.arrays.items()}
    return BitPlan(rounding, weights, arrays)
