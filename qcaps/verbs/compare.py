"""``qcaps compare``: checkpoints and artifacts side by side; only flips need data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from qcaps.artifacts.bundled import find_checkpoint
from qcaps.config import CompareConfig, configure
from qcaps.data.images import ImageSet
from qcaps.data.load import load_split
from qcaps.errors import StoppedError, UsageError
from qcaps.evaluation.measure import Measurement, measure
from qcaps.progress import OnProgress, silent
from qcaps.quantization.loading import Loaded, load
from qcaps.reports.comparison import ComparedFile, Flips, RecordedScore, comparison_lines
from qcaps.reports.inspection import Inspection, Site
from qcaps.reports.quantization import Promise
from qcaps.verbs.chosen_data import chosen_data
from qcaps.verbs.inspect import described
from qcaps.verbs.interruption import stoppable
from qcaps.verbs.outcome import Outcome

FLOAT_BITS = 32


def compare(*files: Path | str, on_progress: OnProgress = silent, **options: object) -> Outcome:
    """Put two files or more side by side, the first one being what the others are held against.

    Parameters
    ----------
    files
        Checkpoints or artifacts, files or names of shipped ones.
    on_progress
        Told after every batch, if images are scored.
    options
        The fields of :class:`~qcaps.config.CompareConfig`.

    Returns
    -------
    Outcome
        Exit code 1 if a file loses more images or is larger than was asked for.

    Raises
    ------
    UsageError
        If there are fewer than two files, an option is wrong, or images are missing or not the same.
    ArtifactError
        If a file is unreadable.
    StoppedError
        If interrupted while images ran.
    """
    config = configure(CompareConfig, options)
    if len(files) < 2:
        raise UsageError("a comparison takes two files or more", do="name them, the one to compare with first")
    if config.threads:
        torch.set_num_threads(config.threads)
    loaded = [load(find_checkpoint(Path(file))) for file in files]
    scored = config.flips or config.max_lost is not None or config.dataset is not None
    flips: Sequence[Flips | None] = _flips(loaded, config, on_progress) if scored else [None] * len(loaded)
    first = loaded[0].file_bytes
    found = [
        _compared(described(file), file, file.file_bytes / first - 1, flip)
        for file, flip in zip(loaded, flips, strict=True)
    ]
    promises = _promises(found, config)
    document = {
        "schema": "qcaps.compare/1",
        "files": [dataclasses.asdict(one) for one in found],
        "promises": [dataclasses.asdict(promise) for promise in promises],
    }
    lines = comparison_lines(found, promises, config.format)
    return Outcome(0 if all(promise.kept for promise in promises) else 1, (), document, tuple(lines))


def _promises(found: Sequence[ComparedFile], config: CompareConfig) -> list[Promise]:
    """Judge every file but the first by what was asked for."""
    promises = []
    for one in found[1:]:
        name = Path(one.file).name
        if config.max_lost is not None and one.flips is not None:
            lost = one.flips.lost - one.flips.gained
            promises.append(
                Promise(f"images lost by {name}", config.max_lost, lost, "images lost", lost <= config.max_lost)
            )
        if config.max_growth is not None:
            kept = 100 * one.file_bytes <= (100 + config.max_growth) * found[0].file_bytes
            promises.append(Promise(f"growth of {name}", config.max_growth, 100 * one.growth, "%", kept))
    return promises


def _compared(found: Inspection, file: Loaded, growth: float, flips: Flips | None) -> ComparedFile:
    quantized = None if found.file is None else found.file.quantized
    weight_bytes = found.float_bytes if quantized is None else quantized.payload_bytes
    return ComparedFile(
        file=found.name,
        sha256=file.sha256,
        kind=found.kind,
        model=file.model.architecture,
        rounding="" if quantized is None else quantized.rounding,
        weight_bits=FLOAT_BITS * weight_bytes / found.float_bytes,
        activation_bits=_activation_bits(found.sites),
        parameters=found.parameters,
        macs=found.macs,
        weight_bytes=weight_bytes,
        file_bytes=file.file_bytes,
        growth=growth,
        recorded=_recorded(file.record),
        flips=flips,
        bits={site.site: _bits(site) for site in found.sites},
        units={unit.name: unit.count for unit in found.units},
    )


def _bits(site: Site) -> int:
    bits = FLOAT_BITS if site.format is None else site.format.get("bits", FLOAT_BITS)
    return bits if isinstance(bits, int) else FLOAT_BITS


def _activation_bits(sites: Sequence[Site]) -> float:
    """Give the mean bits of a value of an image; an array of several iterations counts once, at its widest."""
    widest: dict[str, tuple[int, int]] = {}
    for site in sites:
        if site.group != "weights":
            array = site.site.split("@", 1)[0]
            widest[array] = max(widest.get(array, (0, 0)), (_bits(site), site.values))
    values = sum(count for _, count in widest.values())
    return sum(bits * count for bits, count in widest.values()) / values if values else float(FLOAT_BITS)


def _recorded(record: Mapping[str, object]) -> RecordedScore | None:
    """Read what a file says of its accuracy, which may be anything."""
    search, history, best = record.get("search"), record.get("history"), record.get("best_epoch")
    told, prefix = search, ""
    if not isinstance(search, dict) and isinstance(history, list) and type(best) is int and 1 <= best <= len(history):
        told, prefix = history[best - 1], "validation_"
    if not isinstance(told, dict):
        return None
    images, correct = told.get(f"{prefix}images"), told.get(f"{prefix}correct")
    if type(images) is not int or type(correct) is not int or not 0 <= correct <= images or not images:
        return None
    return RecordedScore(str(told.get("split", "validation")), images, correct)


def _flips(loaded: Sequence[Loaded], config: CompareConfig, on_progress: OnProgress) -> list[Flips]:
    """Score every file, and hold it against the first, image by image."""
    sets = [
        load_split(
            chosen_data(file, config.dataset, data_dir=config.data_dir, where=str(file.path)),
            config.split,
            data_dir=config.data_dir,
        )
        for file in loaded
    ]
    for file, images in zip(loaded, sets, strict=True):
        if not _same_images(images, sets[0]):
            raise UsageError(
                f"its {config.split} images are not those of the first file",
                where=str(file.path),
                do="name a data set for all of them with --dataset, or another --split",
            )
    with stoppable() as stop:
        measured = [_measured(*pair, config, on_progress, stop) for pair in zip(loaded, sets, strict=True)]
    before = measured[0].hits
    return [
        Flips(config.split, m.images, m.correct, int((before & ~m.hits).sum()), int((m.hits & ~before).sum()))
        for m in measured
    ]


def _same_images(one: ImageSet, other: ImageSet) -> bool:
    """Tell whether two sets are the same images in the same order, however they are prepared."""
    return one.dataset == other.dataset and torch.equal(one.indices, other.indices)


def _measured(
    file: Loaded, images: ImageSet, config: CompareConfig, on_progress: OnProgress, stop: Callable[[], bool]
) -> Measurement:
    try:
        return measure(
            file.predictor(),
            images,
            batch_size=config.test_batch_size,
            phase=f"score {file.path.name}",
            on_progress=on_progress,
            stop=stop,
        )
    except StoppedError as error:
        raise StoppedError(error.what, where=str(file.path), do="nothing was written") from error
