"""One training of ``qcaps train``: it can be interrupted, and what it came to is written beside the checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

import qcaps
from qcaps.artifacts.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from qcaps.artifacts.container import read_container, write_container
from qcaps.artifacts.writing import atomic_write
from qcaps.config import TrainConfig
from qcaps.errors import ArtifactError, DivergedError, StoppedError, UsageError
from qcaps.evaluation.cost import stage_costs
from qcaps.models.network import CapsuleNetwork, parameter_count
from qcaps.models.spec import image_of
from qcaps.progress import OnProgress
from qcaps.reports.history import history_csv, history_json
from qcaps.reports.html.training import TrainingFacts, training_page
from qcaps.reports.panel import panel_png
from qcaps.training.devices import accelerator
from qcaps.training.loop import train as run_training
from qcaps.training.optimizers import optimizer
from qcaps.training.setting import EpochEnd, State, Surroundings, Trained, TrainingData
from qcaps.training.state import unpack_state
from qcaps.training.timing import Timing, total
from qcaps.verbs.interruption import stoppable
from qcaps.verbs.outcome import make_folder
from qcaps.verbs.tracking import tracked
from qcaps.verbs.training_subject import Subject, first_network, plain_options, run_key

RESUME = "qcaps.resume"
FILES = ("checkpoint.pt", "history.csv", "history.json", "report.html")


@dataclass(frozen=True, eq=False)
class Finished:
    """A training that is over, now or before.

    Parameters
    ----------
    checkpoint, sha256, files
        What was written, the checkpoint first.
    timing
        Of all epochs together; None if it was finished before.
    """

    checkpoint: Checkpoint
    sha256: str
    files: tuple[Path, ...]
    timing: Timing | None


def train_once(
    subject: Subject, config: TrainConfig, out: Path, images: Callable[[], TrainingData], on_progress: OnProgress
) -> Finished:
    """Train, from the resume file if there is one with the same options.

    Parameters
    ----------
    subject, config
        What is trained, and how.
    out
        Gets checkpoint, history and pictures.
    images
        Reads them, once however often it is called.
    on_progress
        Told after every step.

    Raises
    ------
    UsageError
        If an option is wrong, images are missing, or a run with other options lies in the folder.
    StoppedError
        If interrupted.
    DivergedError
        If the loss is no longer a number; the checkpoint of the best epoch before is written, the state stays.
    """
    network, taken = first_network(subject, config)
    key = run_key(subject, config)
    make_folder(out)
    if config.fresh:
        (out / "resume.pt").unlink(missing_ok=True)
    resume = _read_resume(out / "resume.pt", key)

    def finish(trained: Trained) -> Finished:
        return _write(_checkpoint(subject, config, key, taken, trained, images()), trained, config, out)

    try:
        finished = finish(_train(network, key, images(), config, out, on_progress, resume))
    except DivergedError as error:
        saved = _read_resume(out / "resume.pt", key)
        if saved is None or not any(name.startswith("best.") for name in saved[1]):
            raise
        position, best = unpack_state(*saved, network, optimizer(config, network), where=str(out))
        finish(Trained(best, position))
        do = f"{error.do}; epoch {position.best().epoch}, the best so far, is in {out / 'checkpoint.pt'}"
        raise DivergedError(error.what, where=error.where, do=do) from error
    (out / "resume.pt").unlink(missing_ok=True)
    return finished


def finished_before(out: Path, key: str) -> Finished | None:
    """Give the training of the same options that was finished in this folder."""
    path = out / "checkpoint.pt"
    if not path.exists() or (out / "resume.pt").exists():
        return None
    try:
        checkpoint, sha256 = read_checkpoint(path)
    except ArtifactError:
        return None
    files = tuple(out / name for name in FILES)
    return Finished(checkpoint, sha256, files, None) if checkpoint.record.get("key") == key else None


def _train(
    network: CapsuleNetwork,
    key: str,
    images: TrainingData,
    config: TrainConfig,
    out: Path,
    on_progress: OnProgress,
    resume: State | None,
) -> Trained:
    """Run the loop."""
    place = accelerator(config.device, config.mixed_precision)

    def save(state: State) -> None:
        header, tensors = state
        if place.is_main_process:
            write_container(out / "resume.pt", {"schema": f"{RESUME}/1", "key": key, **header}, tensors)

    def draw(end: EpochEnd) -> None:
        if end.panel is not None and place.is_main_process:
            picture = panel_png(end.panel.images, end.panel.reconstructions)
            atomic_write(out / f"reconstructions-{end.record.epoch:04d}.png", picture)

    done = 0 if resume is None else _epochs_done(resume)
    tracker = config.tracker if place.is_main_process else "none"
    with stoppable() as stop, tracked(tracker, out, key=key, done=done, options=plain_options(config)) as track:

        def on_epoch(end: EpochEnd) -> None:
            draw(end)
            track(end)

        surroundings = Surroundings(time.monotonic, on_progress, save, stop, on_epoch)
        try:
            return run_training(network.to(place.device), images, config, place, surroundings, resume=resume)
        except StoppedError as error:
            raise StoppedError(error.what, where=str(out), do="the same command continues") from error


def _epochs_done(resume: State) -> int:
    """Count the finished epochs of a saved state, which the loop checks in full."""
    position = resume[0].get("position")
    done = position.get("epoch") if isinstance(position, Mapping) else 0
    return done if isinstance(done, int) else 0


def _read_resume(path: Path, key: str) -> State | None:
    """Read the state of an interrupted run with the same options."""
    if not path.exists():
        return None
    container = read_container(path, schema=RESUME)
    if container.header.get("key") != key:
        raise UsageError(
            "an interrupted run with other options lies in the output folder",
            where=str(path),
            do="repeat its options to continue it, choose another --out, or discard it with --fresh",
        )
    return dict(container.header), dict(container.tensors)


def _checkpoint(
    subject: Subject, config: TrainConfig, key: str, taken: tuple[str, ...], trained: Trained, images: TrainingData
) -> Checkpoint:
    """Make the checkpoint of the best epoch."""
    record = {
        "key": key,
        "options": plain_options(config),
        "history": [epoch.row() for epoch in trained.position.history],
        "best_epoch": trained.position.best().epoch,
        "images": {"train": len(images.train), "validation": len(images.validation), "note": images.train.note},
        "taken_over": {"sha256": subject.start_sha256, "stages": list(taken)} if taken else None,
        "versions": {"qcaps": qcaps.__version__, "torch": torch.__version__},
    }
    return Checkpoint(subject.spec, trained.tensors, subject.data, record)


def _write(checkpoint: Checkpoint, trained: Trained, config: TrainConfig, out: Path) -> Finished:
    """Write checkpoint, history and page."""
    path, table, document, page = (out / name for name in FILES)
    history, timings = trained.position.history, trained.position.timings[: len(trained.position.history)]
    sha256 = write_checkpoint(path, checkpoint)
    atomic_write(table, history_csv(history))
    atomic_write(document, history_json(history, None if config.reproducible else timings))
    atomic_write(page, training_page(_facts(checkpoint, trained, path)).encode())
    return Finished(checkpoint, sha256, (path, table, document, page), total(timings))


def _facts(checkpoint: Checkpoint, trained: Trained, path: Path) -> TrainingFacts:
    """Put together what the page of a training tells."""
    network = checkpoint.network()
    return TrainingFacts(
        file=path.name,
        model=checkpoint.model.architecture,
        dataset=checkpoint.data.dataset if checkpoint.data else "other images",
        parameters=parameter_count(network),
        stages=stage_costs(network, image_of(checkpoint.model)),
        history=tuple(trained.position.history),
        best_epoch=trained.position.best().epoch,
        options=cast("Mapping[str, object]", checkpoint.record["options"]),
        versions=cast("Mapping[str, str]", checkpoint.record["versions"]),
    )
