"""``qcaps train``: from images to a checkpoint."""

from __future__ import annotations

import csv
import dataclasses
import io
import time
from collections.abc import Mapping
from pathlib import Path

import torch

import qcaps
from qcaps.artifacts.bundled import find_checkpoint
from qcaps.artifacts.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from qcaps.artifacts.container import read_container, write_container
from qcaps.artifacts.journal import content_key
from qcaps.artifacts.writing import atomic_write
from qcaps.config import TrainConfig, configure
from qcaps.config.model_numbers import model_numbers
from qcaps.data.augment import augmentation
from qcaps.data.dataset import dataset
from qcaps.data.load import load_split
from qcaps.data.spec import DataSpec, data_spec
from qcaps.data.statistics import with_preparation
from qcaps.errors import StoppedError, UsageError
from qcaps.models.network import CapsuleNetwork, parameter_count
from qcaps.models.spec import ModelSpec, fitted_spec, initialised, spec_to_dict
from qcaps.progress import OnProgress, silent
from qcaps.training.beginning import backbone_numbers, begin
from qcaps.training.devices import accelerator
from qcaps.training.loop import train as run_training
from qcaps.training.setting import State, Surroundings, Trained, TrainingData
from qcaps.training.state import EpochRecord
from qcaps.verbs.interruption import stoppable
from qcaps.verbs.outcome import Outcome, make_folder

RESUME = "qcaps.resume"
# Options that change where and how fast, never what.
NOT_IN_KEY = {"data_dir", "out", "fresh", "threads", "device", "test_batch_size"}


def train(*, on_progress: OnProgress = silent, **options: object) -> Outcome:
    """Train a network and write ``checkpoint.pt`` and ``history.csv``.

    Parameters
    ----------
    on_progress
        Told after every step.
    options
        The fields of :class:`~qcaps.config.TrainConfig`.

    Returns
    -------
    Outcome
        Its document holds the validation accuracy of the best epoch; the test images stay unseen.

    Raises
    ------
    UsageError
        If an option is wrong, or images are missing.
    StoppedError
        If interrupted; the same call continues.
    """
    config = configure(TrainConfig, options)
    images = dataset(config.dataset)
    data = with_preparation(
        data_spec(
            config.dataset, augmentation=config.augmentation or images.augmentation, split_seed=config.split_seed
        ),
        config.preparation or images.preparation,
        data_dir=config.data_dir,
    )
    start, sha256 = (None, "") if config.init is None else read_checkpoint(find_checkpoint(config.init))
    spec = _spec(config, data, start)
    out = config.out or Path("runs") / f"{config.model}-{config.dataset}-train"
    if config.threads:
        torch.set_num_threads(config.threads)
    network = initialised(spec, config.seed)
    taken = begin(network, start, config.freeze)
    key = content_key(spec_to_dict(spec), dataclasses.asdict(data), _plain_options(config), sha256, torch.__version__)
    trained = _train(network, key, data, config, out, on_progress)
    record = {
        "options": _plain_options(config),
        "history": [dataclasses.asdict(epoch) for epoch in trained.position.history],
        "best_epoch": trained.position.best().epoch,
        "taken_over": {"sha256": sha256, "stages": list(taken)} if taken else None,
        "versions": {"qcaps": qcaps.__version__, "torch": torch.__version__},
    }
    checkpoint = Checkpoint(spec, trained.tensors, data, record)
    path, table = out / "checkpoint.pt", out / "history.csv"
    sha256 = write_checkpoint(path, checkpoint)
    atomic_write(table, _history_csv(trained.position.history))
    (out / "resume.pt").unlink(missing_ok=True)
    return _outcome(checkpoint, config.dataset, trained.position.best(), (path, table), sha256)


def _spec(config: TrainConfig, data: DataSpec, start: Checkpoint | None) -> ModelSpec:
    """Make the spec of the network to train, with the widths of the backbone to start from."""
    numbers = {} if start is None else backbone_numbers(config.model, start.model)
    numbers |= model_numbers(config.model_arg)
    if config.decoder is not None and numbers.get("decoder", config.decoder) != config.decoder:
        raise UsageError("--decoder names another decoder", where="--model-arg", do="leave one of them out")
    spec = fitted_spec(config.model, data.image, data.classes, numbers)
    decoder = spec.usual_decoder if config.decoder is None else config.decoder
    return fitted_spec(config.model, data.image, data.classes, {"decoder": decoder, **numbers})


def _train(
    network: CapsuleNetwork, key: str, data: DataSpec, config: TrainConfig, out: Path, on_progress: OnProgress
) -> Trained:
    """Run the loop, from the resume file if there is one with the same key."""
    resume_file = out / "resume.pt"
    make_folder(out)
    resume = None if config.fresh else _read_resume(resume_file, key)
    images = TrainingData(
        train=load_split(data, "train", data_dir=config.data_dir),
        validation=load_split(data, "validation", data_dir=config.data_dir),
        augment=augmentation(data.augmentation),
    )
    place = accelerator(config.device, config.mixed_precision)

    def save(state: State) -> None:
        header, tensors = state
        if place.is_main_process:
            write_container(resume_file, {"schema": f"{RESUME}/1", "key": key, **header}, tensors)

    with stoppable() as stop:
        surroundings = Surroundings(time.monotonic, on_progress, save, stop)
        try:
            return run_training(network.to(place.device), images, config, place, surroundings, resume=resume)
        except StoppedError as error:
            raise StoppedError(error.what, where=str(out), do="the same command continues") from error


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


def _plain_options(config: TrainConfig) -> dict[str, object]:
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in NOT_IN_KEY}
    return options | {
        "model_arg": list(config.model_arg),
        "freeze": list(config.freeze),
        "init": None if config.init is None else config.init.name,
    }


def _history_csv(history: list[EpochRecord]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in dataclasses.fields(EpochRecord)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(epoch) for epoch in history)
    return text.getvalue().encode()


def _outcome(
    checkpoint: Checkpoint, dataset_name: str, best: EpochRecord, files: tuple[Path, Path], sha256: str
) -> Outcome:
    accuracy = best.validation_correct / best.validation_images
    document: Mapping[str, object] = {
        "schema": "qcaps.train/1",
        "checkpoint": str(files[0]),
        "sha256": sha256,
        "model": checkpoint.model.architecture,
        "dataset": dataset_name,
        "parameters": parameter_count(checkpoint.network()),
        "best_epoch": best.epoch,
        "validation": {
            "correct": best.validation_correct,
            "images": best.validation_images,
            "accuracy": accuracy,
        },
    }
    line = (
        f"{checkpoint.model.architecture} on {dataset_name}: validation accuracy {100 * accuracy:.2f} % "
        f"({best.validation_correct} of {best.validation_images}) in epoch {best.epoch}"
    )
    return Outcome(0, files, document, (line,))
