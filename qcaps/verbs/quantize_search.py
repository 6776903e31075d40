"""The searches of one ``qcaps quantize``: every scheme, what follows a search, and the baseline beside it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from qcaps.config import QuantizeConfig
from qcaps.data.augment import augmentation
from qcaps.data.dataset import dataset
from qcaps.data.images import ImageSet
from qcaps.errors import InfeasibleError
from qcaps.evaluation.ends import INTERRUPT, Ends, Halt
from qcaps.quantization.calibration import Calibration
from qcaps.quantization.finetuning import finetune
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.search.judging import Baseline, Bench
from qcaps.quantization.search.refinements import drop_iterations, win_back
from qcaps.quantization.search.spending import Ledger
from qcaps.quantization.search.subject import Subject
from qcaps.quantization.search.task import Found, Search, Task, Tried, conclude, run_search
from qcaps.registry import SEARCHES
from qcaps.verbs.quantize_job import Job, make_task

FINETUNE_BATCH = 128


@dataclass(frozen=True, eq=False)
class Ran:
    """One search that was run: under which task, what it found, and what it spent."""

    name: str
    task: Task
    found: Found
    ledger: Ledger
    seconds: float


@dataclass(frozen=True, eq=False)
class Material:
    """What searches work on: the bench with the float network on it, training images, and their ranges."""

    bench: Bench
    baseline: Baseline
    training: ImageSet
    calibration: Calibration


def tried_by_rounding(ran: Sequence[Ran]) -> dict[str, tuple[Tried, ...]]:
    """Give every candidate that the best search tried under any scheme; the best is the first."""
    return {str(one.task.subject.rounding): one.found.tried for one in ran if one.name == ran[0].name}


def run_searches(job: Job, material: Material) -> tuple[Ran, ...]:
    """Run all that is asked for: the best first, then the searches it is compared with.

    Raises
    ------
    InfeasibleError
        If a budget turns out to be below the smallest plan of every scheme.
    """
    config = job.config
    ran, refusals = [], []
    for rounding in job.roundings:
        try:
            task = make_task(job, rounding, material.calibration, material.bench, material.baseline)
        except InfeasibleError as error:
            refusals.append(error)
            continue
        ran.append(_run(config.search, task, config, material.training))
        for name in dict.fromkeys((config.fallback, config.compare_baseline)):
            if name is not None and ran[-1].found.stopped != INTERRUPT:
                fresh = dataclasses.replace(task, tried=[], best=None, smallest=None, promising=[])
                ran.append(_run(name, fresh, config, material.training))
        if ran[-1].found.stopped == INTERRUPT:
            break
    if not ran:
        raise refusals[0]
    eligible = [one for one in ran if one.name in (config.search, config.fallback)]
    best = min(eligible, key=_preference)
    return (best, *(one for one in ran if one is not best))


def _run(name: str, task: Task, config: QuantizeConfig, training: ImageSet) -> Ran:
    """Run one search with a ledger and a clock of its own; the float pass belongs to its cost."""
    started = time.perf_counter()
    bench = task.bench
    bench.ledger = Ledger(extra=len(bench.images), whole=len(bench.images))
    bench.ends = Ends(
        bench.ends.stop,
        seconds=config.time_budget or float("inf"),
        image_forwards=config.max_image_forwards or float("inf"),
        start=started,
    )
    found = run_search(cast("Search", SEARCHES.load(name, where="--search")), task)
    if not found.stopped:
        task, found = _refined(task, found, config, training)
    return Ran(name, task, found, bench.ledger, time.perf_counter() - started)


def _refined(task: Task, found: Found, config: QuantizeConfig, training: ImageSet) -> tuple[Task, Found]:
    """Do what may follow a search; a step that ends early leaves what stood before it."""
    steps: list[Callable[[Task], Task]] = []
    if config.finetune_steps:
        steps.append(lambda task: win_back(task, found, _trainer(task, config, training)))
    if config.drop_iterations:
        steps.append(drop_iterations)
    stopped, before = "", task
    for step in steps:
        try:
            task = step(task)
        except Halt as halt:
            stopped = halt.reason
            break
    if task is before:
        return task, dataclasses.replace(found, tried=tuple(task.tried), stopped=stopped)
    refined = conclude(task, scores=found.scores, details=found.details)
    return task, dataclasses.replace(refined, stopped=stopped)


def _trainer(task: Task, config: QuantizeConfig, training: ImageSet) -> Callable[[Subject, BitPlan], dict[str, Tensor]]:
    bench, teacher = task.bench, task.subject.network
    augment = augmentation(config.augmentation or dataset(task.subject.data.dataset).augmentation)

    def train(subject: Subject, plan: BitPlan) -> dict[str, Tensor]:
        return finetune(
            subject.network,
            plan,
            training,
            teacher=teacher,
            augment=augment,
            steps=config.finetune_steps,
            batch_size=FINETUNE_BATCH,
            lr=config.finetune_lr,
            seed=config.seed,
            on_progress=bench.on_progress,
            stop=bench.ends.stop,
        )

    return train


def _preference(ran: Ran) -> tuple[bool, float]:
    """Order results: those that satisfy first, then by what the search makes small."""
    best = ran.found.satisfied or ran.found.accuracy
    return ran.found.satisfied is None, float("inf") if best is None else ran.task.objective(best.widths)
