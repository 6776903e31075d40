"""Predict the time of a pruned network: every layer timed at a few widths, and corrected once with a real network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcaps.evaluation.cost_model import CostModel
from qcaps.evaluation.formula import Vector
from qcaps.evaluation.latency import measure_latency
from qcaps.evaluation.layer_latency import BETWEEN, layer_latencies
from qcaps.models.network import CapsuleNetwork, to_inference
from qcaps.models.spec import ModelSpec, initialised
from qcaps.pruning.strategy import width_rules

# Shares of all units that stay where layers are timed.
TIMED_SHARES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1)

Table = NDArray[np.float64]


@dataclass(frozen=True)
class LatencyCheck:
    """Milliseconds of one batch of a pruned network, predicted and measured."""

    predicted: float
    measured: float


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of one batch as a function of the widths.

    Parameters
    ----------
    model
        Of the network before it is cut.
    work, milliseconds
        What every layer did where it was timed, and how long it took, both ascending, shape ``(layers + 1, shares)``;
        the last row is what runs between the layers.
    full
        Measured time of the network before it is cut.
    factor
        Measured over predicted time, where that was found out last.

    Notes
    -----
    The time of a layer is a step function of its widths, and rarely a clean one. Kept is its monotone envelope over
    the work, multiply-accumulates and values of arrays: less work is never predicted to take longer. Between two
    entries of the table it is interpolated, below the first it stays as it is there.
    """

    model: CostModel
    work: Table
    milliseconds: Table
    full: float
    factor: float = 1.0

    def __call__(self, widths: Vector) -> float:
        """Predict the time of some widths."""
        work = work_of(self.model, widths)
        rows, inner = np.arange(len(work)), self.work[:, 1:-1]
        left = (work[:, None] >= inner).sum(1)
        (begin, end), (least, most) = (
            (table[rows, left], table[rows, left + 1]) for table in (self.work, self.milliseconds)
        )
        way = np.where(end > begin, (work - begin) / np.maximum(end - begin, 1), 1.0)
        return float((least + np.clip(way, 0, 1) * (most - least)).sum()) * self.factor

    def check(self, widths: Mapping[str, int], measured: float) -> LatencyCheck:
        """Set the measured time of a network of some widths beside the prediction."""
        return LatencyCheck(self(self.model.vector(widths)), measured)

    def corrected(self, found: LatencyCheck) -> LatencyTable:
        """Give the same table, right where it was checked."""
        return dataclasses.replace(self, factor=self.factor * found.measured / found.predicted)


def latency_table(spec: ModelSpec, model: CostModel, images: Tensor, *, clock: Callable[[], float]) -> LatencyTable:
    """Time all layers of a network at a few widths.

    Parameters
    ----------
    spec, model
        Of the network before it is cut.
    images
        One batch, on the device that is meant; what it shows makes no difference.
    clock
        Gives seconds and never goes back; on an accelerator it has to synchronise first.
    """
    rules = width_rules(model.units, caps={"*": 1.0})
    vectors = [rules.widths(np.full(len(model.units), 1 - share)) for share in sorted(TIMED_SHARES)]
    layers = model.macs.names
    timed = []
    for widths in vectors:
        network = blank_network(spec.with_widths(rules.named(widths)), images)
        found = layer_latencies(network, images, layers, clock=clock)
        timed.append([found[layer] for layer in (*layers, BETWEEN)])
    work = np.stack([work_of(model, widths) for widths in vectors], 1)
    full = measured_latency(spec, images, clock=clock)
    table = LatencyTable(model, work, np.maximum.accumulate(np.array(timed).T, 1), full)
    return table.corrected(table.check({}, full))


def measured_latency(spec: ModelSpec, images: Tensor, *, clock: Callable[[], float]) -> float:
    """Measure the milliseconds that one batch takes in a network of this spec, its numbers drawn at random."""
    network = blank_network(spec, images)
    with torch.inference_mode():
        return measure_latency(lambda: network(images), batch_size=len(images), clock=clock).median_ms


def blank_network(spec: ModelSpec, images: Tensor) -> CapsuleNetwork:
    """Build an untrained network where the images are, in inference form."""
    return to_inference(initialised(spec, seed=0).to(images.device))


def work_of(model: CostModel, widths: Vector) -> Table:
    """Give multiply-accumulates plus values of arrays: of every layer, and of all together."""
    work = (model.macs.values(widths) + model.activations.values(widths)).astype(np.float64)
    return np.append(work, work.sum())
