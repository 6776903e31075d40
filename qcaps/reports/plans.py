"""The bit plans that a search tried, and what it expects of every width of every group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from qcaps.quantization.search.groups import Widths
from qcaps.quantization.search.sensitivity import Scores, measured_widths, predicted_losses
from qcaps.quantization.search.task import Task, Tried
from qcaps.reports.search_facts import Sensitivity, TriedPlan

# Payload and activation bytes of plans that passed for certain and that no other one beats.
Front = frozenset[tuple[int, float]]


def front_of(tried: Mapping[str, Sequence[Tried]]) -> Front:
    """Find the front of all candidates: of those that passed for certain, the smallest in both respects.

    Parameters
    ----------
    tried
        Rounding → candidates.
    """
    passed = [one for candidates in tried.values() for one in candidates if _holds(one)]
    found: set[tuple[int, float]] = set()
    least = math.inf
    for sizes in sorted({(one.payload_bytes, one.activation_bytes) for one in passed}):
        if sizes[1] < least:
            found.add(sizes)
            least = sizes[1]
    return frozenset(found)


def is_on(front: Front, one: Tried) -> bool:
    """Tell whether a candidate is on the front."""
    return _holds(one) and (one.payload_bytes, one.activation_bytes) in front


def tried_plans(tried: Mapping[str, Sequence[Tried]], rounding: str, chosen: Widths) -> tuple[TriedPlan, ...]:
    """List every candidate in the order of trying.

    Parameters
    ----------
    tried
        Rounding → candidates.
    rounding, chosen
        Of the first artifact.
    """
    front = front_of(tried)
    return tuple(
        TriedPlan(
            rounding=scheme,
            phase=one.phase,
            payload_bytes=one.payload_bytes,
            activation_bytes=one.activation_bytes,
            seen=one.judgement.seen,
            lost=one.judgement.lost,
            gained=one.judgement.gained,
            passed=one.judgement.passed,
            certain=one.judgement.certain,
            on_front=is_on(front, one),
            chosen=scheme == rounding and dict(one.widths) == dict(chosen),
        )
        for scheme, candidates in tried.items()
        for one in candidates
    )


def sensitivities(task: Task, scores: Scores, chosen: Widths) -> tuple[Sensitivity, ...]:
    """Say what every width of every group costs alone, in images; nothing if it was not measured.

    Parameters
    ----------
    task, scores
        Whose groups were measured, and what was found.
    chosen
        Of the first artifact; it may lack sites of iterations that were dropped.
    """
    groups = [group for group in task.groups if scores.get(group.name)]
    measured = measured_widths(groups, {group.name: tuple(scores[group.name]) for group in groups})
    return tuple(
        Sensitivity(
            group=group.name,
            kind=group.kind,
            values=group.values,
            chosen=tuple(sorted({chosen[site] for site in group.sites if site in chosen})),
            losses={bits: predicted_losses(task.baseline, score) for bits, score in scores[group.name].items()},
            measured=tuple(measured[group.name]),
        )
        for group in groups
    )


def _holds(one: Tried) -> bool:
    return one.judgement.passed and one.judgement.certain
