"""Several trainings that differ in their seeds alone, and the mean of what they reach."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from qcaps.artifacts.writing import atomic_write
from qcaps.config import TrainConfig
from qcaps.errors import StoppedError
from qcaps.progress import OnProgress, Step
from qcaps.reports.documents import json_text
from qcaps.training.setting import TrainingData
from qcaps.verbs.outcome import Outcome
from qcaps.verbs.training_run import Finished, finished_before, train_once
from qcaps.verbs.training_subject import Subject, run_key


def train_repeatedly(
    subject: Subject,
    config: TrainConfig,
    out: Path,
    images: Callable[[], TrainingData],
    on_progress: OnProgress,
    outcome: Callable[[Finished], Outcome],
) -> Outcome:
    """Train with the seeds from the given one on, in the folders ``run-1``, ``run-2``, …, and write ``runs.json``.

    Parameters
    ----------
    subject, images, on_progress
        As for :func:`~qcaps.verbs.training_run.train_once`; the images are read once for all.
    config
        Says how many.
    out
        Runs that were finished in here before are not repeated.
    outcome
        Tells how one training ended.

    Raises
    ------
    UsageError, StoppedError, DivergedError
        As for a single training.
    """
    outcomes = []
    for number in range(1, config.runs + 1):
        name = f"run {number}/{config.runs}"

        def listen(told: Step, name: str = name) -> None:
            on_progress(dataclasses.replace(told, phase=f"{name}: {told.phase}"))

        own, folder = dataclasses.replace(config, seed=config.seed + number - 1), out / f"run-{number}"
        before = None if config.fresh else finished_before(folder, run_key(subject, own))
        try:
            outcomes.append(outcome(before or train_once(subject, own, folder, images, listen)))
        except StoppedError as error:
            raise StoppedError(f"{name}: {error.what}", where=str(out), do=error.do) from error
    return _summary(outcomes, config, out)


def _summary(outcomes: list[Outcome], config: TrainConfig, out: Path) -> Outcome:
    """Tell what every run reached, and the mean."""
    scores = [cast("Mapping[str, float]", each.document["validation"])["accuracy"] for each in outcomes]
    mean, deviation = statistics.fmean(scores), statistics.stdev(scores)
    plain = [{key: value for key, value in each.document.items() if key != "run"} for each in outcomes]
    for number, document in enumerate(plain, 1):
        document["checkpoint"] = f"run-{number}/checkpoint.pt"
    last = config.seed + config.runs - 1
    document = {
        "schema": "qcaps.runs/1",
        "seeds": list(range(config.seed, last + 1)),
        "validation": {"mean": mean, "standard_deviation": deviation},
        "runs": plain,
    }
    path = out / "runs.json"
    atomic_write(path, json_text(document).encode())
    told = f"{100 * mean:.2f} ± {100 * deviation:.2f} %"
    lines = [line for each in outcomes for line in each.lines]
    lines.append(f"{config.runs} runs, seeds {config.seed} to {last}: validation accuracy {told} (mean ± deviation)")
    files = (path, *(file for each in outcomes for file in each.files))
    return Outcome(0, files, document, tuple(lines))
