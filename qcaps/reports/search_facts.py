"""How a search went, what it tried, and how it compares with others: plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SearchFacts:
    """How the search went.

    Parameters
    ----------
    strategy, rounding, scales, seeds
        Its name, the scheme, scales per ``tensor`` or per ``channel``, and the seeds of a verdict.
    plans_tried
        Verdicts asked for.
    image_forwards, without_rejection, whole
        What it spent; what whole evaluations of the same plans would have cost; and what they would have cost if
        nothing were remembered.
    sequential
        What the sequential algorithm of Q-CapsNets needs at least on the same images; see
        :func:`~qcaps.reports.searches.sequential_image_forwards`.
    stopped_early
        What ended it before it was done, or nothing.
    evaluation_path
        How candidates were evaluated: in ``float`` or with ``integers``.
    batch_norm_folded
        Whether batch norms were folded into the weights.
    prepared
        Whether channels were balanced and biases corrected.
    details
        What else the search says of itself.
    """

    strategy: str
    rounding: str
    scales: str
    seeds: tuple[int, ...]
    plans_tried: int
    image_forwards: int
    without_rejection: int
    whole: int
    sequential: int
    stopped_early: str
    evaluation_path: str
    batch_norm_folded: bool
    prepared: bool
    details: Mapping[str, object]


@dataclass(frozen=True)
class SearchRow:
    """One of several searches under the same promises.

    Sizes are those of :class:`~qcaps.reports.quantization.QuantizedModel`, costs those of :class:`SearchFacts`. Where
    nothing satisfies, the figures are those of the model that keeps the accuracy, else of the one that keeps the
    budgets. How long a search took is a matter of the run: ``run["search_seconds"]``, by key.
    """

    name: str
    rounding: str
    satisfied: bool
    weight_bits: float
    activation_bits: float
    file_bytes: int
    payload_bytes: int
    weight_ratio: float
    activation_bytes: float
    activation_ratio: float
    search_accuracy: float
    net_losses: int
    image_forwards: int
    without_rejection: int
    whole: int

    @property
    def key(self) -> str:
        """Tell this search from the others."""
        return f"{self.name}, {self.rounding}"


@dataclass(frozen=True)
class TriedPlan:
    """One bit plan that was judged on the search split.

    Parameters
    ----------
    rounding, phase
        The scheme, and what the search was doing.
    payload_bytes, activation_bytes
        Of the weights, and of the arrays of one image.
    seen, lost, gained
        Images that it took, the same ones of every seed, and what became of them, summed over the seeds. The nearest
        to a mistake come first: where not all were seen, the rest can hardly gain.
    passed, certain
        The verdict, and whether it is that of all images; a pass may only have steered the search.
    on_front
        Whether it passed for certain and no other that did is smaller.
    chosen
        Whether it is the first artifact.
    """

    rounding: str
    phase: str
    payload_bytes: int
    activation_bytes: float
    seen: int
    lost: int
    gained: int
    passed: bool
    certain: bool
    on_front: bool
    chosen: bool


@dataclass(frozen=True)
class Sensitivity:
    """What every width of one group does alone.

    Parameters
    ----------
    group, kind, values
        See :class:`~qcaps.quantization.search.groups.Group`.
    chosen
        Widths of its sites in the first artifact.
    losses
        Width → images of the search split that are predicted to be lost net.
    measured
        Widths that were measured; those between follow from them.
    """

    group: str
    kind: str
    values: int
    chosen: tuple[int, ...]
    losses: Mapping[int, float]
    measured: tuple[int, ...]
