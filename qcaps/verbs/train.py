"""``qcaps train``: from images to a checkpoint, or to several."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch

from qcaps.artifacts.bundled import find_checkpoint
from qcaps.artifacts.checkpoint import read_checkpoint
from qcaps.config import TrainConfig, configure
from qcaps.config.model_numbers import model_numbers
from qcaps.data.augment import augmentation
from qcaps.data.load import known, limited, load_split, load_training_splits
from qcaps.data.spec import DataSpec, data_spec
from qcaps.data.statistics import with_preparation
from qcaps.errors import UsageError
from qcaps.models.network import parameter_count
from qcaps.models.spec import ModelSpec, fitted_spec
from qcaps.progress import OnProgress, silent
from qcaps.reports.history import speed_facts
from qcaps.training.beginning import backbone_numbers
from qcaps.training.setting import TrainingData
from qcaps.verbs.chosen_data import check_images
from qcaps.verbs.outcome import Outcome
from qcaps.verbs.train_repeatedly import train_repeatedly
from qcaps.verbs.training_run import Finished, train_once
from qcaps.verbs.training_subject import Subject


def train(*, on_progress: OnProgress = silent, **options: object) -> Outcome:
    """Train a network and write ``checkpoint.pt``, ``history.csv`` and ``history.json``.

    Parameters
    ----------
    on_progress
        Told after every step.
    options
        The fields of :class:`~qcaps.config.TrainConfig`.

    Returns
    -------
    Outcome
        Its document holds the validation accuracy of the best epoch, or of several runs; the test images stay unseen.

    Raises
    ------
    UsageError
        If an option is wrong, or images are missing.
    StoppedError
        If interrupted; the same call continues.
    DivergedError
        If the loss is no longer a number; the best epoch before is written.
    """
    config = configure(TrainConfig, options)
    subject = _subject(config, on_progress)
    out = config.out or Path("runs") / f"{config.model}-{config.dataset}-train"
    if config.threads:
        torch.set_num_threads(config.threads)
    images = functools.cache(lambda: _images(subject, config, on_progress))
    if config.runs == 1:
        return _outcome(train_once(subject, config, out, images, on_progress))
    return train_repeatedly(subject, config, out, images, on_progress, _outcome)


def _subject(config: TrainConfig, on_progress: OnProgress) -> Subject:
    """Gather what is trained."""
    data = training_data(config, on_progress)
    start, sha256 = (None, "") if config.init is None else read_checkpoint(find_checkpoint(config.init))
    spec = training_spec(config, data, None if start is None else start.model)
    also = []
    for name in config.also_evaluate:
        other = data_spec(name, preparation=data.preparation, split_seed=config.split_seed)
        check_images(spec, other, where="--also-evaluate")
        also.append(other)
    return Subject(spec, data, tuple(also), start, sha256)


def training_data(config: TrainConfig, on_progress: OnProgress = silent) -> DataSpec:
    """Describe the images to train on; where their size and classes depend on the files, with a look at these."""
    images = known(
        config.dataset,
        data_dir=config.data_dir,
        size=config.image_size,
        channels=config.image_channels,
        on_progress=on_progress,
    )
    spec = data_spec(
        config.dataset,
        augmentation=config.augmentation or images.augmentation,
        split_seed=config.split_seed,
        validation_per_class=images.validation_per_class,
        content=images.content,
    )
    return with_preparation(spec, config.preparation or images.preparation, data_dir=config.data_dir)


def training_spec(config: TrainConfig, data: DataSpec, start: ModelSpec | None) -> ModelSpec:
    """Make the spec of the network to train, with the widths of the backbone to start from."""
    numbers = {} if start is None else backbone_numbers(config.model, start)
    numbers |= model_numbers(config.model_arg)
    if config.decoder is not None and numbers.get("decoder", config.decoder) != config.decoder:
        raise UsageError("--decoder names another decoder", where="--model-arg", do="leave one of them out")
    spec = fitted_spec(config.model, data.image, data.classes, numbers)
    decoder = spec.usual_decoder if config.decoder is None else config.decoder
    return fitted_spec(config.model, data.image, data.classes, {"decoder": decoder, **numbers})


def _images(subject: Subject, config: TrainConfig, on_progress: OnProgress) -> TrainingData:
    """Read the images to train and to validate on, as many as asked for; the test images stay unseen."""
    data = subject.data
    training, validation = load_training_splits(data, data_dir=config.data_dir, on_progress=on_progress)
    return TrainingData(
        train=limited(training, config.limit_train, data.split_seed),
        validation=limited(validation, config.limit_validation, data.split_seed),
        augment=augmentation(data.augmentation),
        also={other.dataset: load_split(other, "validation", data_dir=config.data_dir) for other in subject.also},
    )


def _outcome(finished: Finished) -> Outcome:
    """Tell how one training ended."""
    checkpoint = finished.checkpoint
    record, model = checkpoint.record, checkpoint.model.architecture
    history = cast("list[Mapping[str, int | float]]", record["history"])
    best = history[cast("int", record["best_epoch"]) - 1]
    scores = {name.removesuffix("_correct"): _score(best, name) for name in best if name.endswith("_correct")}
    own = scores.pop("validation")
    dataset_name = checkpoint.data.dataset if checkpoint.data else ""
    note = cast("Mapping[str, str]", record["images"])["note"]
    document: dict[str, object] = {
        "schema": "qcaps.train/1",
        "checkpoint": str(finished.files[0]),
        "sha256": finished.sha256,
        "model": model,
        "dataset": dataset_name,
        "note": note,
        "parameters": parameter_count(checkpoint.network()),
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "validation": own,
        "also": scores,
    }
    line = f"{model} on {dataset_name}: validation accuracy {_told(own)} in epoch {best['epoch']}"
    line += f"; {note}" if note else ""
    if finished.timing is not None:
        document["run"] = facts = speed_facts(finished.timing)
        waiting = f"{100 * facts['waiting']:.1f} % of the time waiting for them"
        line += f"; {facts['images_per_second']:,.0f} images/s, {waiting}"
    others = (f"  {name}: validation accuracy {_told(score)}" for name, score in scores.items())
    return Outcome(0, finished.files, document, (line, *others))


def _score(row: Mapping[str, int | float], column: str) -> dict[str, int | float]:
    correct, images = row[column], row[column.replace("_correct", "_images")]
    return {"correct": correct, "images": images, "accuracy": correct / images}


def _told(score: Mapping[str, int | float]) -> str:
    return f"{100 * score['accuracy']:.2f} % ({score['correct']} of {score['images']})"
