"""The proof of a quantization: the report split, scored once, from the files as they lie on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import qcaps
from qcaps.artifacts.checkpoint import Checkpoint
from qcaps.data.images import ImageSet
from qcaps.evaluation.measure import Measurement, Predict, measure, predictor
from qcaps.evaluation.outputs import Outputs
from qcaps.evaluation.statistics import compare_paired, wilson_interval
from qcaps.evaluation.tolerance import Verdict
from qcaps.quantization.applying import Saturation
from qcaps.quantization.limits import Limits
from qcaps.quantization.loading import Loaded, load
from qcaps.quantization.search.trial import Trial, summed_verdict
from qcaps.reports.conclusion import conclude, judge_promises, message, warnings
from qcaps.reports.image_facts import image_facts
from qcaps.reports.layers import layer_table
from qcaps.reports.pictures import Draw, Pictures, with_pictures
from qcaps.reports.plans import sensitivities, tried_plans
from qcaps.reports.quantization import (
    ClassChange,
    Layer,
    QuantizationReport,
    QuantizedModel,
    Score,
    SplitResult,
)
from qcaps.reports.search_facts import SearchFacts, SearchRow
from qcaps.reports.searches import search_facts, search_row
from qcaps.reports.sizes import Sizes, float_sizes, reference_count, trial_sizes
from qcaps.verbs.quantize_search import Ran, tried_by_rounding
from qcaps.verbs.routing_proof import artifact_of, dead_router_notes, routing_change, uniform_routing

USUAL_CONFIDENCE = 95.0


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the proof looks at.

    Parameters
    ----------
    source
        The float network.
    ran, others
        The search whose artifacts are proven, and those it is compared with.
    report_images, out
        The report split, and the folder of the artifacts.
    confidence
        In percent, with which the report split has to show the accuracy; None: what was counted decides.
    evaluation_path
        How candidates were evaluated: in ``float`` or with ``integers``.
    prepared
        Whether channels were balanced and biases corrected.
    first_hits
        Report images that the first network of the chain recognised, bool, shape ``(n,)``; None if the source is that.
    draw
        The decoder that shows what capsules still hold; None for none.
    """

    source: Checkpoint
    ran: Ran
    others: tuple[Ran, ...]
    report_images: ImageSet
    out: Path
    confidence: float | None = None
    evaluation_path: str = "float"
    prepared: bool = True
    first_hits: Tensor | None = None
    draw: Draw | None = None

    @property
    def trials(self) -> dict[str, Trial]:
        """Give what was found, by file name."""
        return self.ran.found.by_file()

    @property
    def first(self) -> Trial:
        """Give what is in the first artifact."""
        return next(iter(self.trials.values()))

    @property
    def search_images(self) -> ImageSet:
        """Give the search split."""
        return self.ran.task.bench.images

    def measure(self, predict: Predict, images: ImageSet, phase: str) -> Measurement:
        """Predict every image once."""
        bench = self.ran.task.bench
        return measure(
            predict,
            images,
            batch_size=200,
            phase=phase,
            on_progress=bench.on_progress,
            stop=bench.ends.stop,
        )


def prove(evidence: Evidence, limits: Limits) -> tuple[QuantizationReport, Pictures]:
    """Score the report split with the float network and every artifact, and judge every promise.

    Returns
    -------
    tuple
        The report, complete but for `inputs` and `run`, and pictures of what went wrong.
    """
    e, in_float_outputs = evidence, Outputs()
    own = e.measure(predictor(e.source.network(), in_float_outputs.see), e.report_images, "report split: float")
    final = own if e.first_hits is None else Measurement(torch.where(e.first_hits, own.labels, -1), own.labels)
    files = {name: load(e.out / name) for name in e.trials}
    scored = {name: _score_seeds(e, file) for name, file in files.items()}
    in_float = float_sizes(e.source.model)
    models = tuple(_model(e, limits, file, final, scored[name].by_seed, in_float) for name, file in files.items())
    name, file = next(iter(files.items()))
    uniform = uniform_routing(e.measure, e.source, file, e.report_images, scored[name].by_seed[0], own)
    routing = routing_change(e.measure, e.source, file, e.search_images)
    baseline = e.ran.task.baseline.measured
    scores = {"search": _score(e.search_images, baseline), "report": _score(e.report_images, final)}
    search = _search(e)
    promises = judge_promises(models, limits, e.confidence)
    verdict = conclude(promises, models)
    outputs = {"float": in_float_outputs, **{name: scored[name].outputs for name in reversed(files)}}
    facts = image_facts(e.report_images, outputs, file.network.loss)
    decoders = {} if e.draw is None else dict.fromkeys(outputs, e.draw)
    facts, pictures = with_pictures(facts, e.report_images, outputs, decoders, seed=e.first.subject.seed)
    report = QuantizationReport(
        verdict=verdict,
        message=message(
            verdict, models, limits, scores["report"], confidence=e.confidence, stopped_early=search.stopped_early
        ),
        promises=promises,
        confidence=e.confidence or USUAL_CONFIDENCE,
        baseline=scores,
        result=models,
        layers=_layers(e, scored[name].saturation),
        search=search,
        comparison=_comparison(e, in_float),
        uniform_routing=uniform,
        routing=routing,
        candidates=tried_plans(tried_by_rounding((e.ran, *e.others)), e.first.subject.rounding, e.first.widths),
        sensitivity=sensitivities(e.ran.task, e.ran.found.scores, e.first.widths),
        images=facts,
        warnings=warnings(models, (*dead_router_notes(uniform, routing), *_empty_handed(e))),
        inputs={},
        versions={"qcaps": qcaps.__version__, "torch": torch.__version__},
        run=None,
    )
    return report, pictures


def _search(e: Evidence) -> SearchFacts:
    ran, folded = e.ran, e.source.model.folded() != e.source.model
    return search_facts(
        ran.name,
        ran.task,
        ran.found,
        ran.ledger,
        folded=folded,
        prepared=e.prepared,
        evaluation_path=e.evaluation_path,
    )


def _comparison(e: Evidence, in_float: Sizes) -> tuple[SearchRow, ...]:
    """Describe every search, if there was more than one."""
    runs = (e.ran, *e.others) if e.others else ()
    rows = (search_row(run.name, run.task, run.found, run.ledger, in_float) for run in runs)
    return tuple(row for row in rows if row is not None)


def _empty_handed(e: Evidence) -> list[str]:
    """Name the searches that the comparison has to do without."""
    runs = [run for run in e.others if not run.found.by_file()]
    return [f"search {run.name} with {run.task.subject.rounding} found nothing: {run.found.stopped}" for run in runs]


@dataclass(frozen=True, eq=False)
class _Scored:
    """One artifact on the report split: a measurement for each seed, and what the first one clamped and said."""

    by_seed: tuple[Measurement, ...]
    saturation: dict[str, Saturation]
    outputs: Outputs


def _score_seeds(e: Evidence, file: Loaded) -> _Scored:
    rounders = [artifact_of(file).rounder(seed) for seed in e.first.subject.seeds]
    phase, outputs = f"report split: {file.path.name}", [Outputs() for _ in rounders]
    by_seed = tuple(
        e.measure(rounder.predictor(file.network, noted.see), e.report_images, phase)
        for rounder, noted in zip(rounders, outputs, strict=True)
    )
    return _Scored(by_seed, rounders[0].saturation, outputs[0])


def _layers(e: Evidence, arrays: dict[str, Saturation]) -> tuple[Layer, ...]:
    """List the sites of the first artifact, with what was clamped and what the search predicted."""
    first, scores = e.first, e.ran.found.scores
    weights = first.subject.round_weights(first.plan).saturation
    damages = {site: scores.get(group.name, {}) for group in e.ran.task.groups for site in group.sites}
    return layer_table(first.plan, first.subject.calibration, weights | arrays, damages)


def _model(
    e: Evidence, limits: Limits, file: Loaded, final: Measurement, measured: tuple[Measurement, ...], in_float: Sizes
) -> QuantizedModel:
    """Describe one artifact by its file, and by what it scored on both splits."""
    trial = e.trials[file.path.name]
    allowed = limits.tolerance.allowed_losses(correct=final.correct, images=final.images, seeds=len(measured))
    verdict = summed_verdict(final, measured, allowed)
    sizes = trial_sizes(trial)
    baseline = e.ran.task.baseline.measured
    search = _split_result(e, e.search_images, baseline, trial.measurements, trial.verdict, limits)
    return QuantizedModel(
        file=file.path.name,
        sha256=file.sha256,
        weight_bits=sizes.weight_bits,
        activation_bits=sizes.array_bits,
        file_bytes=file.file_bytes,
        payload_bytes=sizes.weights,
        float_bytes=in_float.weights,
        weight_ratio=in_float.weights / sizes.weights,
        activation_bytes=sizes.arrays,
        float_activation_bytes=round(in_float.arrays),
        activation_ratio=in_float.arrays / sizes.arrays,
        activation_peak_bytes=sizes.peak,
        float_activation_peak_bytes=round(in_float.peak),
        reference=reference_count(trial, e.source.model),
        search=search,
        report=_split_result(e, e.report_images, final, measured, verdict, limits),
        winners_curse=winners_curse(search.comparison.standard_error, len(e.ran.found.tried)),
        classes=_classes(e.report_images, final, measured[0]),
    )


def winners_curse(standard_error: float, plans: int) -> float:
    """Say by how much the accuracy of the best of several plans is likely too high on the images that chose it.

    References
    ----------
    The expected maximum of n normal errors is at most σ · √(2 ln n).
    """
    return standard_error * math.sqrt(2 * math.log(max(plans, 1)))


def _split_result(
    e: Evidence,
    images: ImageSet,
    baseline: Measurement,
    measured: tuple[Measurement, ...],
    verdict: Verdict,
    limits: Limits,
) -> SplitResult:
    first = measured[0].hits
    margin = float(limits.tolerance.allowance(correct=baseline.correct, images=baseline.images) / len(images))
    return SplitResult(
        score=_score(images, measured[0]),
        lost=verdict.lost,
        gained=verdict.gained,
        allowed=verdict.allowed,
        passed=verdict.passed,
        correct_by_seed=tuple(m.correct for m in measured),
        margin=margin,
        comparison=compare_paired(
            lost=int((baseline.hits & ~first).sum()),
            gained=int((first & ~baseline.hits).sum()),
            images=len(images),
            margin=margin,
            confidence=(e.confidence or USUAL_CONFIDENCE) / 100,
        ),
    )


def _score(images: ImageSet, measured: Measurement) -> Score:
    interval = wilson_interval(measured.correct, measured.images)
    return Score(images.split, measured.images, measured.correct, measured.accuracy, interval)


def _classes(images: ImageSet, in_float: Measurement, quantized: Measurement) -> tuple[ClassChange, ...]:
    """Count images, hits, losses and gains of every class."""

    def by_class(chosen: torch.Tensor) -> list[int]:
        return images.labels[chosen].bincount(minlength=len(images.class_names)).tolist()

    before, after = in_float.hits, quantized.hits
    counts = map(by_class, (torch.ones_like(before), before, before & ~after, after & ~before))
    return tuple(ClassChange(*row) for row in zip(images.class_names, *counts, strict=True))
