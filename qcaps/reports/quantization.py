"""The report of a quantization: plain data, from which every page is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from qcaps.evaluation.statistics import PairedComparison

SCHEMA = "qcaps.report/1"

Conclusion = Literal["satisfied", "report split fails", "not satisfied"]


@dataclass(frozen=True)
class Promise:
    """One thing the user asked for: the limit, what was found, both in `unit`, and whether it holds."""

    name: str
    limit: float
    found: float
    unit: str
    kept: bool


@dataclass(frozen=True)
class Score:
    """Images recognised in one split, and the 95 % interval of the accuracy."""

    split: str
    images: int
    correct: int
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class SplitResult:
    """A quantized network against the float one on one split.

    Parameters
    ----------
    score
        With the artifact's own seed.
    lost, gained, allowed, passed
        Images, summed over all seeds, and whether lost − gained is within what is allowed.
    correct_by_seed
        One entry per seed; more than one for stochastic rounding only.
    comparison
        Statistics of the first seed.
    """

    score: Score
    lost: int
    gained: int
    allowed: int
    passed: bool
    correct_by_seed: tuple[int, ...]
    comparison: PairedComparison


@dataclass(frozen=True)
class Layer:
    """One site of a bit plan.

    Parameters
    ----------
    site, group
        Name, and ``weights``, ``activations`` or ``routing``.
    kind, bits, scale
        Number format: integer bits of fixed point, largest exponent of logarithmic, None of float32.
    values, bytes
        Per image, or of a weight.
    saturated
        Share of clamped values.
    """

    site: str
    group: str
    kind: str
    bits: int
    scale: int | None
    values: int
    bytes: float
    saturated: float


@dataclass(frozen=True)
class QuantizedModel:
    """One artifact: what it is called, how large it is, what it scores."""

    file: str
    sha256: str
    bits: int
    file_bytes: int
    payload_bytes: int
    float_bytes: int
    weight_ratio: float
    activation_bytes: float
    activation_ratio: float
    search: SplitResult
    report: SplitResult


@dataclass(frozen=True)
class UniformRouting:
    """The ablation: accuracy on the report split with all coupling coefficients equal."""

    quantized_accuracy: float
    float_accuracy: float
    note: str


@dataclass(frozen=True)
class QuantizationReport:
    """Everything that is known after a quantization; see interface.md for the keys.

    `run` alone holds what differs between identical runs; it is None in a reproducible report.
    """

    verdict: Conclusion
    message: str
    promises: tuple[Promise, ...]
    baseline: Mapping[str, Score]
    result: tuple[QuantizedModel, ...]
    layers: tuple[Layer, ...]
    search: Mapping[str, object]
    uniform_routing: UniformRouting
    warnings: tuple[str, ...]
    inputs: Mapping[str, str]
    versions: Mapping[str, str]
    run: Mapping[str, object] | None


def to_document(report: QuantizationReport) -> dict[str, object]:
    """Turn a report into plain data for JSON."""
    document = {"schema": SCHEMA, **dataclasses.asdict(report)}
    if report.run is None:
        del document["run"]
    return document
