"""``qcaps eval``: accuracy, size, cost and latency of checkpoints and artifacts."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from qcaps.artifacts.bundled import find_checkpoint
from qcaps.artifacts.writing import atomic_write
from qcaps.config import EvaluateConfig, configure
from qcaps.data.images import ImageSet
from qcaps.data.load import load_split
from qcaps.data.spec import DataSpec
from qcaps.errors import StoppedError, UsageError
from qcaps.evaluation.cost import stage_costs
from qcaps.evaluation.fast import fast_predictor
from qcaps.evaluation.latency import Latency, measure_latency
from qcaps.evaluation.measure import Measurement, Predict, See, measure, unseen
from qcaps.evaluation.outputs import Outputs
from qcaps.evaluation.statistics import wilson_interval
from qcaps.models.network import encoder_tensors, parameter_count
from qcaps.models.spec import filled
from qcaps.progress import OnProgress, silent
from qcaps.quantization.artifact import payload_bytes, predictions_sha256
from qcaps.quantization.folding import fold_batch_norms
from qcaps.quantization.loading import Loaded, load
from qcaps.reports.evaluation import ClassScore, Evaluation, accuracy_promises, evaluation_lines
from qcaps.reports.html.evaluation import evaluation_page
from qcaps.reports.image_facts import image_facts
from qcaps.reports.pictures import Pictures, with_pictures
from qcaps.reports.promises import broken_lines
from qcaps.verbs.chosen_data import chosen_data
from qcaps.verbs.decoding import decoder_for
from qcaps.verbs.ensemble import EnsembleScore, check_ensemble, ensemble_line, score_together
from qcaps.verbs.interruption import stoppable
from qcaps.verbs.outcome import Outcome, make_folder
from qcaps.verbs.predictions import Predicted, write_predictions

# Chooses the images that are reconstructed: the same ones of every network.
PANEL_SEED = 42


def evaluate(*files: Path | str, on_progress: OnProgress = silent, **options: object) -> Outcome:
    """Score checkpoints and artifacts on one split of their images.

    Parameters
    ----------
    files
        Files or names of shipped ones; none means the shipped default.
    on_progress
        Told after every batch.
    options
        The fields of :class:`~qcaps.config.EvaluateConfig`.

    Returns
    -------
    Outcome
        Its document has one entry per file: accuracy with its 95 % interval, per class, parameters, MACs, bytes
        and latency. Exit code 1 if a file recognises less than was asked for.

    Raises
    ------
    UsageError
        If an option is wrong or images are missing.
    ArtifactError
        If a file is unreadable.
    """
    config = configure(EvaluateConfig, options)
    if config.threads:
        torch.set_num_threads(config.threads)
    paths = [find_checkpoint(Path(file)) for file in files] or [find_checkpoint(None)]
    loaded = [load(path) for path in paths]
    packed = next((file.path for file in loaded if file.artifact is not None), None)
    if config.fast and packed is not None:
        raise UsageError("an artifact has no fast form", where=str(packed), do="leave --fast out")
    if config.ensemble:
        check_ensemble(loaded)
    data = [chosen_data(file, config.dataset, data_dir=config.data_dir, where=str(file.path)) for file in loaded]
    if config.out is not None:
        make_folder(config.out)
    with stoppable() as stop:
        predicted: list[Predicted] = []
        seen = [_evaluation(*pair, config, on_progress, stop, predicted) for pair in zip(loaded, data, strict=True)]
        together = _together(loaded, data, config, on_progress, stop) if config.ensemble else None
    entries, pictures = zip(*seen, strict=True)
    written = [] if config.predictions is None else [config.predictions]
    for path in written:
        write_predictions(path, predicted)
    promises = accuracy_promises(entries, config.min_accuracy)
    timed = [_latencies(file, config) if config.latency else () for file in loaded]
    document = {
        "schema": "qcaps.eval/1",
        "files": [dataclasses.asdict(entry) for entry in entries],
        "ensemble": None if together is None else dataclasses.asdict(together),
        "promises": [dataclasses.asdict(promise) for promise in promises],
        "run": {"latency": [[dataclasses.asdict(one) for one in each] for each in timed]},
    }
    if config.out is not None:
        written.append(config.out / "report.html")
        atomic_write(written[-1], evaluation_page(entries, pictures, timed, promises).encode())
    lines = [line for pair in zip(entries, timed, strict=True) for line in evaluation_lines(*pair)]
    lines += [] if together is None else [ensemble_line(together)]
    kept = all(promise.kept for promise in promises)
    return Outcome(0 if kept else 1, tuple(written), document, (*lines, *broken_lines(promises)))


def _evaluation(
    file: Loaded,
    spec: DataSpec,
    config: EvaluateConfig,
    on_progress: OnProgress,
    stop: Callable[[], bool],
    predicted: list[Predicted],
) -> tuple[Evaluation, Pictures]:
    """Evaluate one file on the images that were chosen for it; what it predicted is added to the list."""
    images = load_split(spec, config.split, data_dir=config.data_dir, on_progress=on_progress)
    model, noted = file.model, Outputs()
    draw = decoder_for(file.network, model, config.decoder_from)
    try:
        measured = measure(
            _candidate(file, config, noted.see),
            images,
            batch_size=config.test_batch_size,
            phase=f"evaluate {file.path.name}",
            on_progress=on_progress,
            stop=stop,
        )
    except StoppedError as error:
        raise StoppedError(error.what, where=str(file.path), do="nothing was written") from error
    predicted.append(Predicted(str(file.path), images, measured, noted.scores))
    weight_bytes = 4 * sum(tensor.numel() for tensor in encoder_tensors(file.network).values())
    if file.artifact is not None:
        weight_bytes = payload_bytes(file.network, file.artifact.plan)
    stages = stage_costs(file.network, (model.channels, model.height, model.width))
    outputs = {file.path.name: noted}
    facts, pictures = with_pictures(
        image_facts(images, outputs, file.network.loss),
        images,
        outputs,
        {} if draw is None else {file.path.name: draw},
        seed=PANEL_SEED,
    )
    found = Evaluation(
        file=str(file.path),
        sha256=file.sha256,
        kind="checkpoint" if file.artifact is None else "artifact",
        model=model.architecture,
        dataset=spec.dataset,
        split=config.split,
        note=images.note,
        images=measured.images,
        correct=measured.correct,
        accuracy=measured.accuracy,
        interval=wilson_interval(measured.correct, measured.images),
        per_class=_per_class(measured, images),
        predictions_sha256=predictions_sha256(measured.predictions),
        parameters=parameter_count(file.network),
        macs=sum(stage.macs for stage in stages),
        stages=stages,
        weight_bytes=weight_bytes,
        file_bytes=file.file_bytes,
        facts=facts,
    )
    return found, pictures


def _together(
    loaded: Sequence[Loaded],
    data: Sequence[DataSpec],
    config: EvaluateConfig,
    on_progress: OnProgress,
    stop: Callable[[], bool],
) -> EnsembleScore:
    """Evaluate all files as one."""
    images = [load_split(spec, config.split, data_dir=config.data_dir) for spec in data]
    size, seed = config.test_batch_size, config.seed
    return score_together(loaded, images, batch_size=size, seed=seed, on_progress=on_progress, stop=stop)


def _candidate(file: Loaded, config: EvaluateConfig, see: See = unseen) -> Predict:
    """Make what is scored: the network as it lies in the file, or its fast form."""
    if not config.fast:
        return file.predictor(seed=config.seed, see=see)
    spec, tensors = fold_batch_norms(file.model, encoder_tensors(file.network))
    return fast_predictor(filled(spec, tensors, where=str(file.path)), see)


def _per_class(measured: Measurement, images: ImageSet) -> tuple[ClassScore, ...]:
    rows = []
    for label, name in enumerate(images.class_names):
        mine = measured.labels == label
        rows.append(ClassScore(name, int(mine.sum()), int(measured.hits[mine].sum())))
    return tuple(rows)


def _latencies(file: Loaded, config: EvaluateConfig) -> tuple[Latency, ...]:
    """Time one image, and one batch; what they show makes no difference."""
    predict, model = _candidate(file, config), file.model
    found = []
    for size in sorted({1, config.test_batch_size}):
        pixels = torch.zeros(size, model.channels, model.height, model.width)
        forward = functools.partial(predict, pixels, torch.arange(size))
        with torch.inference_mode():
            found.append(measure_latency(forward, batch_size=size, clock=time.perf_counter))
    return tuple(found)
