"""Trials: one plan of one network, judged on the search split, and no measurement made twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qcaps.artifacts.journal import Journal, content_key
from qcaps.data.images import ImageSet
from qcaps.data.spec import DataSpec
from qcaps.evaluation.measure import Measurement, Predict, measure, predictor
from qcaps.evaluation.tolerance import Tolerance, Verdict, judge, search_allowance
from qcaps.models.network import CapsuleNetwork
from qcaps.models.spec import ModelSpec, spec_to_dict
from qcaps.progress import OnProgress
from qcaps.quantization.applying import ArrayRounder, round_weights, weights_replaced
from qcaps.quantization.artifact import Artifact, artifact_bytes, payload_bytes, predictions_sha256
from qcaps.quantization.calibration import Calibration, plan_of_width
from qcaps.quantization.formats import Float32, Rounding
from qcaps.quantization.plan import BitPlan, plan_to_dict

# Part of every journal key: raise it when the same plan may give other numbers.
NUMERICS_VERSION = 1
# A random scheme is judged on this many seeds together.
STOCHASTIC_SEEDS = 3


@dataclass(frozen=True, eq=False)
class Subject:
    """The network being quantized.

    Parameters
    ----------
    model, network
        The folded float network, in inference form.
    data, calibration
        The images it was trained on, and its ranges on some of them.
    rounding, seed
        The scheme, and the seed of all draws.
    """

    model: ModelSpec
    network: CapsuleNetwork
    data: DataSpec
    calibration: Calibration
    rounding: Rounding
    seed: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """Give the seeds that a verdict is summed over."""
        count = STOCHASTIC_SEEDS if self.rounding == "stochastic_rounding" else 1
        return tuple(range(self.seed, self.seed + count))


@dataclass(frozen=True, eq=False)
class Trial:
    """One width, judged on the search split.

    Parameters
    ----------
    bits, plan
        The common width, and the plan it gives.
    measurements
        One for each seed.
    verdict
        Summed over the seeds.
    payload_bytes
        Of its weights.
    file
        The artifact it would be.
    """

    bits: int
    plan: BitPlan
    measurements: tuple[Measurement, ...]
    verdict: Verdict
    payload_bytes: int
    file: bytes


class Bench:
    """Where candidates are measured: one set of images, a journal, and a count of what was spent.

    Parameters
    ----------
    images, divisor, batch_size
        As for :func:`~qcaps.evaluation.measure.measure`.
    journal
        Asked before every measurement, and told after it.
    on_progress, stop
        As for :func:`~qcaps.evaluation.measure.measure`.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        divisor: int,
        batch_size: int,
        journal: Journal,
        on_progress: OnProgress,
        stop: Callable[[], bool],
    ) -> None:
        self.images, self.divisor, self.batch_size = images, divisor, batch_size
        self.journal, self.on_progress, self.stop = journal, on_progress, stop
        self.image_forwards = 0
        self.image_forwards_now = 0
        self._images_sha256 = images.sha256()

    def measure(self, predict: Predict, content: tuple[object, ...], phase: str) -> Measurement:
        """Measure a candidate, unless its content was measured before.

        Raises
        ------
        StoppedError
            If `stop` said so; finished measurements are in the journal.
        """
        key = content_key(*content, self._images_sha256, self.divisor, NUMERICS_VERSION, torch.__version__, "cpu")
        self.image_forwards += len(self.images)
        known = self.journal.get(key)
        if known is not None and len(known) == len(self.images):
            return Measurement(torch.tensor(known), self.images.labels)
        measured = measure(
            predict,
            self.images,
            divisor=self.divisor,
            batch_size=self.batch_size,
            phase=phase,
            on_progress=self.on_progress,
            stop=self.stop,
        )
        self.journal.append(key, 0, measured.predictions.tolist())
        self.image_forwards_now += len(self.images)
        return measured


def measure_float(bench: Bench, model: ModelSpec, network: CapsuleNetwork) -> Measurement:
    """Measure a float network as it stands; `model` is its spec."""
    return bench.measure(predictor(network), ("float", *_content(model, network)), "float network")


def try_width(
    bench: Bench, subject: Subject, bits: int, *, baseline: Measurement, tolerance: Tolerance, margin_pct: int
) -> Trial:
    """Judge one common width against the float network.

    Parameters
    ----------
    bench
        Measures.
    subject
        What is quantized.
    bits
        Width of all sites; above what the rounding packs, float32.
    baseline
        The float network as it was trained, on the images of the bench.
    tolerance, margin_pct
        What may be lost, and the percentage of it kept in reserve for the report split.

    Raises
    ------
    StoppedError
        If the bench was asked to stop.
    """
    plan = plan_of_width(subject.calibration, bits, subject.rounding)
    phase = "try float32" if bits == Float32.bits else f"try {bits} bits"
    with weights_replaced(subject.network, round_weights(subject.network, plan, subject.seed).tensors):
        content = ("plan", *_content(subject.model, subject.network), plan_to_dict(plan))
        measurements = tuple(
            bench.measure(ArrayRounder(plan, s).predictor(subject.network), (*content, s), phase) for s in subject.seeds
        )
        first = measurements[0]
        record = _record(bench, baseline, first.correct, predictions_sha256(first.predictions))
        file = _file(subject, plan, record)
    allowed = search_allowance(
        tolerance,
        correct=baseline.correct,
        images=baseline.images,
        margin_pct=margin_pct,
        seeds=len(measurements),
    )
    verdict = summed_verdict(baseline, measurements, allowed)
    return Trial(bits, plan, measurements, verdict, payload_bytes(subject.network, plan), file)


def size_of_width(bench: Bench, subject: Subject, bits: int, *, baseline: Measurement) -> tuple[int, int]:
    """Give the bytes of the file of one width, measured or not, and of its payload; the file is never larger."""
    plan = plan_of_width(subject.calibration, bits, subject.rounding)
    with weights_replaced(subject.network, round_weights(subject.network, plan, subject.seed).tensors):
        # The longest record there can be: the number of images recognised has the most digits.
        file = _file(subject, plan, _record(bench, baseline, len(bench.images), "0" * 64))
    return len(file), payload_bytes(subject.network, plan)


def summed_verdict(baseline: Measurement, measurements: tuple[Measurement, ...], allowed: int) -> Verdict:
    """Judge the measurements of several seeds together."""
    single = [judge(baseline.hits, m.hits, allowed) for m in measurements]
    lost, gained = sum(v.lost for v in single), sum(v.gained for v in single)
    return Verdict(lost, gained, allowed, sum(v.images for v in single), passed=lost - gained <= allowed)


def _record(bench: Bench, baseline: Measurement, correct: int, predictions: str) -> dict[str, object]:
    """Say in an artifact what the search saw."""
    return {
        "split": bench.images.split,
        "images": len(bench.images),
        "baseline_correct": baseline.correct,
        "correct": correct,
        "predictions_sha256": predictions,
    }


def _file(subject: Subject, plan: BitPlan, record: dict[str, object]) -> bytes:
    """Serialise the artifact of a plan whose weights the network has at the moment."""
    return artifact_bytes(
        Artifact(subject.model, subject.data, plan, subject.seed, subject.network, {"search": record})
    )


def _content(model: ModelSpec, network: CapsuleNetwork) -> tuple[dict[str, object], str]:
    """Identify a network by its spec and its numbers, names included."""
    digest = hashlib.sha256()
    state: Mapping[str, Tensor] = network.state_dict()
    for name in sorted(state):
        digest.update(f"{name}{tuple(state[name].shape)}".encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return spec_to_dict(model), digest.hexdigest()
