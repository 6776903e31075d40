"""The tables of a search for other programs, as CSV: every candidate tried, and every sensitivity."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence

from qcaps.quantization.search.groups import Group, Widths
from qcaps.quantization.search.sensitivity import Scores
from qcaps.quantization.search.task import Tried
from qcaps.reports.plans import front_of, is_on

CANDIDATE_COLUMNS = (
    "rounding",
    "phase",
    "payload_bytes",
    "activation_bytes",
    "predicted_damage",
    "images_seen",
    "lost",
    "gained",
    "allowed",
    "passed",
    "certain",
    "on_front",
)


def candidates_csv(groups: Sequence[Group], tried: Mapping[str, Sequence[Tried]]) -> str:
    """List every candidate in the order of trying, with the width of every group: ``pareto.csv``.

    Parameters
    ----------
    groups
        The columns of widths.
    tried
        Rounding → candidates.

    Notes
    -----
    `certain`: the verdict is that of all images; a pass may only have steered the search. `on_front`: passed for
    certain, and no other that did takes as little of both weights and arrays, and less of one.
    """
    front = front_of(tried)
    rows = (
        (
            rounding,
            one.phase,
            one.payload_bytes,
            _number(one.activation_bytes),
            _number(one.score),
            one.judgement.seen,
            one.judgement.lost,
            one.judgement.gained,
            one.allowed,
            int(one.judgement.passed),
            int(one.judgement.certain),
            int(is_on(front, one)),
            *(_width(group, one.widths) for group in groups),
        )
        for rounding, candidates in tried.items()
        for one in candidates
    )
    return _csv((*CANDIDATE_COLUMNS, *(group.name for group in groups)), rows)


def sensitivity_csv(groups: Sequence[Group], scores: Scores) -> str:
    """List the predicted damage of every width of every group: ``sensitivity.csv``."""
    widths = sorted({bits for of_group in scores.values() for bits in of_group})
    rows = (
        (group.name, group.kind, group.values, *(_number(scores.get(group.name, {}).get(bits)) for bits in widths))
        for group in groups
    )
    return _csv(("group", "kind", "values", *(f"{bits} bits" for bits in widths)), rows)


def _width(group: Group, widths: Widths) -> str:
    """Write the width of a group, or all of them if its sites differ, or nothing if the candidate has none of them."""
    return "/".join(map(str, sorted({widths[site] for site in group.sites if site in widths})))


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
