"""A trial: one candidate, measured on the whole search split and serialised as the file it would be."""

from __future__ import annotations

from dataclasses import dataclass

from qcaps.evaluation.measure import Measurement
from qcaps.evaluation.tolerance import Verdict, judge
from qcaps.quantization.applying import weights_replaced
from qcaps.quantization.artifact import Artifact, artifact_bytes, artifact_size, payload_bytes, predictions_sha256
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.search.groups import Widths
from qcaps.quantization.search.judging import Baseline, Bench
from qcaps.quantization.search.subject import Subject


@dataclass(frozen=True, eq=False)
class Trial:
    """One candidate with everything the search knows of it.

    Parameters
    ----------
    subject, widths, plan
        The network, the width of every site, and the formats.
    measurements
        One for each seed, on the whole search split.
    verdict
        Summed over the seeds.
    file
        The artifact it would be.
    """

    subject: Subject
    widths: Widths
    plan: BitPlan
    measurements: tuple[Measurement, ...]
    verdict: Verdict
    file: bytes

    @property
    def payload_bytes(self) -> int:
        """Count the bytes of its weights in the file."""
        return payload_bytes(self.subject.network, self.plan)

    @property
    def activation_bytes(self) -> float:
        """Sum the bytes of its arrays for one image."""
        return self.subject.activation_bytes({site: fmt.bits for site, fmt in self.plan.arrays.items()})


def make_trial(
    bench: Bench,
    subject: Subject,
    widths: Widths,
    *,
    baseline: Baseline,
    allowed: int,
    plan: BitPlan | None = None,
    notes: dict[str, object] | None = None,
) -> Trial:
    """Measure a candidate to the end, and serialise it.

    Parameters
    ----------
    bench, baseline
        Where it is measured, and the float network there.
    subject, widths, plan
        The candidate; by default the plan that calibration gives for the widths.
    allowed
        Largest net loss that passes, summed over the seeds.
    notes
        For the record in the file, beside what the search split said.

    Raises
    ------
    Halt
        If the search ends before.
    """
    plan = subject.plan(widths) if plan is None else plan
    measurements = bench.measure(subject, plan, "measure what was found")
    first = measurements[0]
    record = _record(bench, baseline.measured.correct, first.correct, predictions_sha256(first.predictions))
    verdict = summed_verdict(baseline.measured, measurements, allowed)
    with weights_replaced(subject.network, subject.round_weights(plan).tensors):
        file = artifact_bytes(_artifact(subject, plan, record | (notes or {})))
    return Trial(subject, widths, plan, measurements, verdict, file)


def file_bytes(bench: Bench, subject: Subject, plan: BitPlan) -> int:
    """Count the bytes of the file that a plan gives, before it is measured; it never has more."""
    # The longest record there can be: the number of images recognised has the most digits.
    longest = len(bench.images)
    return artifact_size(_artifact(subject, plan, _record(bench, longest, longest, "0" * 64)))


def _artifact(subject: Subject, plan: BitPlan, record: dict[str, object]) -> Artifact:
    return Artifact(subject.model, subject.data, plan, subject.seed, subject.network, {"search": record})


def _record(bench: Bench, baseline_correct: int, correct: int, predictions: str) -> dict[str, object]:
    """Say in an artifact what the search saw."""
    return {
        "split": bench.images.split,
        "images": len(bench.images),
        "baseline_correct": baseline_correct,
        "correct": correct,
        "predictions_sha256": predictions,
    }


def summed_verdict(baseline: Measurement, measurements: tuple[Measurement, ...], allowed: int) -> Verdict:
    """Judge the measurements of several seeds together."""
    single = [judge(baseline.hits, m.hits, allowed) for m in measurements]
    lost, gained = sum(v.lost for v in single), sum(v.gained for v in single)
    return Verdict(lost, gained, allowed, sum(v.images for v in single), passed=lost - gained <= allowed)
