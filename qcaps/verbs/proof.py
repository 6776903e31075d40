"""The proof of a quantization: the report split, scored once, from the files as they lie on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

import qcaps
from qcaps.artifacts.checkpoint import Checkpoint
from qcaps.data.images import ImageSet
from qcaps.evaluation.measure import Measurement, Predict, measure, predictor
from qcaps.evaluation.statistics import compare_paired, wilson_interval
from qcaps.evaluation.tolerance import Verdict
from qcaps.models.network import encoder_tensors, to_inference
from qcaps.models.spec import filled
from qcaps.quantization.applying import Saturation, round_weights
from qcaps.quantization.artifact import Artifact, Loaded, load
from qcaps.quantization.common_width import Found
from qcaps.quantization.limits import Limits
from qcaps.quantization.trials import Bench, Subject, Trial, summed_verdict
from qcaps.reports.conclusion import conclude, judge_promises, message, warnings
from qcaps.reports.layers import activation_bytes, layer_table
from qcaps.reports.quantization import (
    QuantizationReport,
    QuantizedModel,
    Score,
    SplitResult,
    UniformRouting,
)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the proof looks at: the float network, what the search found and saw, and the report split."""

    source: Checkpoint
    subject: Subject
    found: Found
    bench: Bench
    baseline: Measurement
    report_images: ImageSet
    out: Path


def prove(evidence: Evidence, limits: Limits) -> QuantizationReport:
    """Score the report split with the float network and every artifact, and judge every promise.

    Returns
    -------
    QuantizationReport
        Complete but for `inputs` and `run`.
    """
    e = evidence
    final = _measured(e, predictor(e.source.network()), "report split: float")
    trials = e.found.by_file()
    files = {name: load(e.out / name) for name in trials}
    scored = {name: _score_seeds(e, file) for name, file in files.items()}
    models = tuple(_model(e, limits, files[name], trials[name], final, scored[name].by_seed) for name in trials)
    name, first = next(iter(trials.items()))
    weights = round_weights(e.subject.network, first.plan, e.subject.seed).saturation
    scores = {"search": _score(e.bench.images, e.baseline), "report": _score(e.report_images, final)}
    uniform = _uniform(e, files[name], scored[name].by_seed[0], final)
    promises = judge_promises(models, limits)
    conclusion = conclude(promises, models)
    return QuantizationReport(
        verdict=conclusion,
        message=message(conclusion, models, limits, scores["report"]),
        promises=promises,
        baseline=scores,
        result=models,
        layers=layer_table(first.plan, e.subject.calibration, weights | scored[name].saturation),
        search={
            "strategy": "common-width",
            "rounding": e.subject.rounding,
            "seeds": list(e.subject.seeds),
            "widths_tried": list(e.found.tried),
            "image_forwards": e.bench.image_forwards,
            "batch_norm_folded": e.subject.model != e.source.model.without_decoder(),
        },
        uniform_routing=uniform,
        warnings=warnings(models, uniform.note),
        inputs={},
        versions={"qcaps": qcaps.__version__, "torch": torch.__version__},
        run=None,
    )


@dataclass(frozen=True, eq=False)
class _Scored:
    """One artifact on the report split: a measurement for each seed, and what the first one clamped."""

    by_seed: tuple[Measurement, ...]
    saturation: dict[str, Saturation]


def _score_seeds(e: Evidence, file: Loaded) -> _Scored:
    rounders = [_artifact(file).rounder(seed) for seed in e.subject.seeds]
    phase = f"report split: {file.path.name}"
    by_seed = tuple(_measured(e, rounder.predictor(file.network), phase) for rounder in rounders)
    return _Scored(by_seed, rounders[0].saturation)


def _model(
    e: Evidence,
    limits: Limits,
    file: Loaded,
    trial: Trial,
    final: Measurement,
    measured: tuple[Measurement, ...],
) -> QuantizedModel:
    """Describe one artifact by its file, and by what it scored on both splits."""
    allowed = limits.tolerance.allowed_losses(correct=final.correct, images=final.images, seeds=len(measured))
    verdict = summed_verdict(final, measured, allowed)
    float_bytes = 4 * sum(t.numel() for t in encoder_tensors(e.source.network()).values())
    activations, float_activations = activation_bytes(trial.plan, e.subject.calibration)
    return QuantizedModel(
        file=file.path.name,
        sha256=file.sha256,
        bits=trial.bits,
        file_bytes=file.file_bytes,
        payload_bytes=trial.payload_bytes,
        float_bytes=float_bytes,
        weight_ratio=float_bytes / trial.payload_bytes,
        activation_bytes=activations,
        activation_ratio=float_activations / activations,
        search=_split_result(e.bench.images, e.baseline, trial.measurements, trial.verdict, limits),
        report=_split_result(e.report_images, final, measured, verdict, limits),
    )


def _measured(e: Evidence, predict: Predict, phase: str) -> Measurement:
    return measure(
        predict,
        e.report_images,
        divisor=e.subject.data.divisor,
        batch_size=e.bench.batch_size,
        phase=phase,
        on_progress=e.bench.on_progress,
        stop=e.bench.stop,
    )


def _split_result(
    images: ImageSet,
    baseline: Measurement,
    measured: tuple[Measurement, ...],
    verdict: Verdict,
    limits: Limits,
) -> SplitResult:
    first = measured[0].hits
    allowance = limits.tolerance.allowance(correct=baseline.correct, images=baseline.images)
    return SplitResult(
        score=_score(images, measured[0]),
        lost=verdict.lost,
        gained=verdict.gained,
        allowed=verdict.allowed,
        passed=verdict.passed,
        correct_by_seed=tuple(m.correct for m in measured),
        comparison=compare_paired(
            lost=int((baseline.hits & ~first).sum()),
            gained=int((first & ~baseline.hits).sum()),
            images=len(images),
            margin=float(allowance / len(images)),
        ),
    )


def _score(images: ImageSet, measured: Measurement) -> Score:
    interval = wilson_interval(measured.correct, measured.images)
    return Score(images.split, measured.images, measured.correct, measured.accuracy, interval)


def _uniform(e: Evidence, file: Loaded, quantized: Measurement, in_float: Measurement) -> UniformRouting:
    """Repeat both measurements with all coupling coefficients equal, and say so if no prediction changes."""
    spec = file.model.with_uniform_routing()
    if spec == file.model:  # there is no routing, or it is uniform already
        return UniformRouting(quantized.accuracy, in_float.accuracy, "")
    ablated = to_inference(filled(spec, encoder_tensors(file.network), where=file.path.name))
    found = _measured(e, _artifact(file).rounder().predictor(ablated), "uniform routing: quantized")
    source = e.source.model.with_uniform_routing()
    float_network = to_inference(filled(source, e.source.tensors, where="checkpoint"))
    float_found = _measured(e, predictor(float_network), "uniform routing: float")
    note = ""
    if torch.equal(found.predictions, quantized.predictions):
        off = not torch.equal(float_found.predictions, in_float.predictions)
        note = "is off in the quantized network" if off else "earns nothing on these images, in float either"
        note = f"uniform routing gives the very same predictions: routing {note}"
    return UniformRouting(found.accuracy, float_found.accuracy, note)


def _artifact(file: Loaded) -> Artifact:
    assert file.artifact is not None
    return file.artifact
