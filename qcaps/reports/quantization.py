"""The report of a quantization: plain data, from which every page is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from qcaps.evaluation.statistics import PairedComparison
from qcaps.reports.image_facts import ImageFacts
from qcaps.reports.search_facts import SearchFacts, SearchRow, Sensitivity, TriedPlan

SCHEMA = "qcaps.report/1"

Conclusion = Literal["satisfied", "report split fails", "not proven", "not satisfied"]


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
    margin
        Drop that the tolerance accepts, as a share of the images of one seed: rarely whole images.
    comparison
        Statistics of the first seed against that margin.
    """

    score: Score
    lost: int
    gained: int
    allowed: int
    passed: bool
    correct_by_seed: tuple[int, ...]
    margin: float
    comparison: PairedComparison


@dataclass(frozen=True)
class ClassChange:
    """One class of the report split: its images, those the float network recognises, and those lost and gained."""

    name: str
    images: int
    correct: int
    lost: int
    gained: int


@dataclass(frozen=True)
class Layer:
    """One site of a bit plan.

    Parameters
    ----------
    site, group
        Name, and ``weights``, ``activations`` or ``routing``.
    kind, bits
        Number format.
    scales
        Least and largest over the channels, equal for a single scale: integer bits of fixed point, largest exponent of
        logarithmic; None of float32.
    values, bytes
        Per image, or of a weight.
    saturated
        Share of clamped values.
    sensitivity
        Damage that the search predicts of this width here alone; None if it did not measure it.
    """

    site: str
    group: str
    kind: str
    bits: int
    scales: tuple[int, int] | None
    values: int
    bytes: float
    saturated: float
    sensitivity: float | None


@dataclass(frozen=True)
class ReferenceCount:
    """The same plan as Q-CapsNets counts it: without scales, headers and votes; for rows beside published ones only.

    Parameters
    ----------
    weight_bytes, weight_ratio
        Of all parameters, and how much smaller that is than in float32.
    activation_ratio
        How much smaller the output of every layer is, all together.
    label
        Says so, and what makes it impossible to store.
    """

    weight_bytes: float
    weight_ratio: float
    activation_ratio: float
    label: str


@dataclass(frozen=True)
class QuantizedModel:
    """One artifact: what it is called, how large it is, what it scores.

    Parameters
    ----------
    file, sha256
        On disk.
    weight_bits, activation_bits
        Mean over all values of the network, scales included, and over all values of one image.
    file_bytes, payload_bytes, float_bytes, weight_ratio
        The file, its weights, those of the float network, and the ratio of the last two.
    activation_bytes, float_activation_bytes, activation_ratio
        Sum over all arrays of one image, votes included; an array of several iterations at its widest.
    activation_peak_bytes, float_activation_peak_bytes
        Arrays alive together where they take most; see :mod:`qcaps.evaluation.liveness`.
    reference
        What Q-CapsNets would have counted.
    search, report
        Both splits.
    winners_curse
        By how much the accuracy on the search split is likely too high, since it is the best of all plans tried.
    classes
        On the report split, with the artifact's own seed.
    """

    file: str
    sha256: str
    weight_bits: float
    activation_bits: float
    file_bytes: int
    payload_bytes: int
    float_bytes: int
    weight_ratio: float
    activation_bytes: float
    float_activation_bytes: int
    activation_ratio: float
    activation_peak_bytes: float
    float_activation_peak_bytes: int
    reference: ReferenceCount
    search: SplitResult
    report: SplitResult
    winners_curse: float
    classes: tuple[ClassChange, ...]


@dataclass(frozen=True)
class UniformRouting:
    """The ablation: accuracy on the report split with all coupling coefficients equal."""

    quantized_accuracy: float
    float_accuracy: float
    note: str


@dataclass(frozen=True)
class SiteChange:
    """A figure of one site in the float network and in the quantized one; None where that has no such iteration."""

    site: str
    in_float: float
    quantized: float | None


@dataclass(frozen=True)
class RoutingChange:
    """What rounding did to the routing, by site and iteration.

    Parameters
    ----------
    images
        Of the search split that were looked at.
    entropy
        Mean entropy of the coupling coefficients of a capsule: 1 if all are equal.
    zero_logits
        Share of logits that are 0.
    """

    images: int
    entropy: tuple[SiteChange, ...]
    zero_logits: tuple[SiteChange, ...]


@dataclass(frozen=True)
class QuantizationReport:
    """Everything that is known after a quantization; see interface.md for the keys.

    `run` alone holds what differs between identical runs; it is None in a reproducible report.
    """

    verdict: Conclusion
    message: str
    promises: tuple[Promise, ...]
    confidence: float
    baseline: Mapping[str, Score]
    result: tuple[QuantizedModel, ...]
    layers: tuple[Layer, ...]
    search: SearchFacts
    comparison: tuple[SearchRow, ...]
    uniform_routing: UniformRouting
    routing: RoutingChange
    candidates: tuple[TriedPlan, ...]
    sensitivity: tuple[Sensitivity, ...]
    images: ImageFacts
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
