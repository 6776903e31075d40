"""A latency target: layers are timed once, and what was measured is kept for the search to continue with."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from qcaps.artifacts.journal import content_key
from qcaps.artifacts.writing import atomic_write
from qcaps.distributed import from_first, process_index
from qcaps.evaluation.cost_model import CostModel, cost_model
from qcaps.evaluation.latency import measure_latency
from qcaps.models.spec import ModelSpec, image_of, spec_to_dict
from qcaps.pruning.latency_table import LatencyTable, blank_network, latency_table, measured_latency
from qcaps.pruning.strategy import Widths
from qcaps.pruning.targets import Budget, budget, meet
from qcaps.reports.pruning import Timed
from qcaps.verbs.prune_job import Job

# Batches that are not timed at first, and those that are.
WARMUP, TURNS = 2, 7
NUMBERS = ("work", "milliseconds", "full", "factor")


def latency_budget(job: Job, path: Path, device: torch.device) -> Budget:
    """Measure what a latency target limits, or take what was measured before.

    Parameters
    ----------
    job
        Says the target and the batch.
    path
        Where measurements lie. Times differ from run to run: without them a continued search would draw other
        candidates.
    device
        That is meant.

    Raises
    ------
    InfeasibleError
        If the narrowest network takes too long.
    """
    config, spec = job.config, job.source.model
    target, model = next(one for one in job.targets if one.kind == "latency"), cost_model(spec)
    clock, images = clock_on(device), torch.zeros(config.latency_batch, *image_of(spec), device=device)
    key = content_key(
        spec_to_dict(spec),
        config.latency,
        config.latency_batch,
        str(device),
        torch.get_num_threads(),
        torch.__version__,
    )
    table = None if config.fresh else _read(path, key, model)
    if table is None and process_index() == 0:
        table = latency_table(spec, model, images, clock=clock)
        # Layers in a row do not take the sum of their times; a network of about the right size tells the difference.
        widths = meet([budget(target, model, table)], job.rules, np.ones(len(model.units)))
        narrow = spec.with_widths(job.rules.named(widths))
        table = table.corrected(table.check(job.rules.named(widths), measured_latency(narrow, images, clock=clock)))
        _write(path, key, table)
    table = from_first(table)
    assert table is not None
    return budget(target, model, table)


def clock_on(device: torch.device) -> Callable[[], float]:
    """Make a clock that waits for the device to finish."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def timed(spec: ModelSpec, widths: Widths, batch_size: int, device: torch.device) -> Timed:
    """Measure the milliseconds that one batch takes before and after a cut, in turns: both meet the same machine.

    What the images show makes no difference, nor do the weights.
    """
    images, clock = torch.zeros(batch_size, *image_of(spec), device=device), clock_on(device)
    networks = [blank_network(one, images) for one in (spec, spec.with_widths(widths))]
    found: list[list[float]] = [[], []]
    with torch.inference_mode():
        for turn in range(WARMUP + TURNS):
            for network, times in zip(networks, found, strict=True):
                forward = functools.partial(network, images)
                took = measure_latency(forward, batch_size=batch_size, clock=clock, warmup=0, repeats=1).median_ms
                times.extend([took] if turn >= WARMUP else [])
    (before, before_range), (after, after_range) = ((median(times), (min(times), max(times))) for times in found)
    return Timed(batch_size, before, after, before_range, after_range, str(device), torch.get_num_threads())


def _read(path: Path, key: str, model: CostModel) -> LatencyTable | None:
    """Read a table of the same network and surroundings, if there is one."""
    try:
        told = json.loads(path.read_bytes())
        if told["key"] != key:
            return None
        work, milliseconds = (np.array(told[name], np.float64) for name in NUMBERS[:2])
        shape = len(model.macs.names) + 1
        if work.ndim != 2 or work.shape != milliseconds.shape or len(work) != shape:
            return None
        return LatencyTable(model, work, milliseconds, float(told["full"]), float(told["factor"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, key: str, table: LatencyTable) -> None:
    numbers = (table.work.tolist(), table.milliseconds.tolist(), table.full, table.factor)
    atomic_write(path, json.dumps({"key": key, **dict(zip(NUMBERS, numbers, strict=True))}).encode())
