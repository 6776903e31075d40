"""What a network takes, in float and under a bit plan: by an honest count, and as Q-CapsNets counts."""

from __future__ import annotations

from dataclasses import dataclass

from qcaps.evaluation.cost import network_cost
from qcaps.evaluation.liveness import array_lives, peak
from qcaps.models.network import array_sites, encoder_tensors, parameter_count
from qcaps.models.spec import ModelSpec, build, image_of
from qcaps.quantization.formats import Float32
from qcaps.quantization.search.reference_accounting import (
    LABEL,
    reference_activation_reduction,
    reference_sizes,
    reference_weight_bits,
    values_outside,
)
from qcaps.quantization.search.trial import Trial
from qcaps.reports.layers import array_bytes
from qcaps.reports.quantization import ReferenceCount

FLOAT_BYTES = Float32.bits // 8


@dataclass(frozen=True)
class Sizes:
    """Sizes in bytes, and of how many values.

    Parameters
    ----------
    weights, weight_values
        Of the encoder, everything that inference needs.
    arrays, array_values
        Sum over the arrays of one image, an array of several iterations once.
    peak
        Of the arrays alive together where they take most.
    """

    weights: int
    weight_values: int
    arrays: float
    array_values: int
    peak: float

    @property
    def weight_bits(self) -> float:
        """Give the mean bits of a weight, scales included."""
        return 8 * self.weights / self.weight_values

    @property
    def array_bits(self) -> float:
        """Give the mean bits of a value of an image."""
        return 8 * self.arrays / self.array_values


def float_sizes(spec: ModelSpec) -> Sizes:
    """Give the sizes of a network in float32."""
    network = build(spec).eval()
    weights = sum(tensor.numel() for tensor in encoder_tensors(network).values())
    arrays = {site.split("@", 1)[0]: values for site, values in array_sites(network, image_of(spec)).items()}
    total, highest = sum(arrays.values()), peak(array_lives(network, image_of(spec)), arrays)
    return Sizes(FLOAT_BYTES * weights, weights, FLOAT_BYTES * total, total, FLOAT_BYTES * highest)


def trial_sizes(trial: Trial) -> Sizes:
    """Give the sizes of a candidate."""
    spec, calibration = trial.subject.model, trial.subject.calibration
    network, arrays = build(spec).eval(), array_bytes(trial.plan, calibration)
    return Sizes(
        weights=trial.payload_bytes,
        weight_values=sum(tensor.numel() for tensor in encoder_tensors(network).values()),
        arrays=sum(arrays.values()),
        array_values=sum(
            {site.split("@", 1)[0]: calibration.arrays[site].values for site in trial.plan.arrays}.values()
        ),
        peak=peak(array_lives(network, image_of(spec)), arrays),
    )


def reference_count(trial: Trial, source: ModelSpec) -> ReferenceCount:
    """Count a candidate as Q-CapsNets does.

    Parameters
    ----------
    trial
        Its widths are read as total bits, the sign included.
    source
        The network as it was trained.
    """
    subject, widths = trial.subject, trial.widths
    cost = network_cost(build(subject.model).eval(), image_of(subject.model))
    weights = {site: found.values for site, found in subject.calibration.weights.items()}
    weight_bytes = reference_weight_bits(cost.stages, weights, widths) / 8
    reduction = reference_activation_reduction(reference_sizes(cost.arrays), image_of(subject.model), widths)
    return ReferenceCount(
        weight_bytes=weight_bytes,
        weight_ratio=FLOAT_BYTES * parameter_count(build(source)) / weight_bytes,
        activation_ratio=float(reduction),
        label=values_outside(subject.calibration, widths).label if subject.reference else LABEL,
    )
