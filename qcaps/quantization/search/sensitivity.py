"""Sensitivity: the damage that each width of each group does alone, measured where images are lost first."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

from torch import Tensor

from qcaps.artifacts.journal import content_key
from qcaps.data.images import ImageSet
from qcaps.distributed import from_all, from_first, process_count, process_index
from qcaps.evaluation.ends import Halt
from qcaps.progress import Step
from qcaps.quantization.formats import Float32
from qcaps.quantization.plan import BitPlan, plan_to_dict
from qcaps.quantization.search.groups import Group
from qcaps.quantization.search.judging import Baseline, Bench, margins_of
from qcaps.quantization.search.staging import running
from qcaps.quantization.search.subject import Subject

# Images with the smallest margins, on which every width is measured.
IMAGES = 48
# Widths that are measured; those between are interpolated, those above follow the law of the rounding error.
MEASURED = (1, 2, 3, 4, 6, 8)
# Of a group that makes up less than this share of all weights or of all arrays, only these are.
SMALL, MEASURED_OF_SMALL = 0.01, (2, 4, 8)
# The squared error of a rounding falls to a quarter with every bit.
QUARTER = 0.25

# Group name → width → mean squared loss of margin; widths ascend, scores do not.
Scores = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class _Job:
    """One width of one group, the plan in which all else is float, and the key its score is known by."""

    group: Group
    bits: int
    plan: BitPlan
    key: str


def measure_sensitivity(
    bench: Bench, baseline: Baseline, subject: Subject, groups: Sequence[Group], widths: Mapping[str, Sequence[int]]
) -> Scores:
    """Round one group at a time, all others in float, and see how much of the margins is lost.

    Parameters
    ----------
    bench, baseline
        The search split, and the float network on it.
    subject
        The network.
    groups, widths
        What is rounded, and group → the widths it may have.

    Returns
    -------
    Scores
        The mean over images of the squared loss of margin, (score of the label − largest other score); a gain counts
        nothing. Independent errors add up in this measure, and it says how many images are lost; see
        :func:`predicted_losses`.

    Raises
    ------
    Halt
        If the search ends before.

    Notes
    -----
    Measured directly, whereas a gradient would be a first-order estimate, wrong at one or two bits and inside of
    routing. Outputs of the stages in front come out of the memory of the bench.
    """
    near = _nearest(bench, baseline)
    measured = measured_widths(groups, widths)
    jobs = [_job(bench, subject, near, group, bits) for group in groups for bits in measured[group.name]]
    scores: dict[str, dict[int, float]] = {group.name: {} for group in groups}
    exact: Tensor | None = None
    bench.ledger.extra += len(near)  # the network in float
    for start in range(0, len(jobs), process_count()):
        together = jobs[start : start + process_count()]
        reason = from_first(bench.ends.reason(bench.ledger.image_forwards))
        if reason:
            raise Halt(reason)
        found = [_known(bench, job.key) for job in together]
        if any(score is None for score in found):
            exact = _margins(bench, subject, near, subject.common_width(Float32.bits)) if exact is None else exact
            mine = together[min(process_index(), len(together) - 1)]
            change = _margins(bench, subject, near, mine.plan) - exact
            found = list(from_all(float(change.clamp_max(0).square().mean())))  # of float32, as the journal holds it
        for job, score in zip(together, found, strict=False):
            _note(bench, job.key, score or 0.0)
            scores[job.group.name][job.bits] = score or 0.0
        bench.ledger.extra += len(together) * len(near)
        bench.on_progress(Step("sensitivity", start + len(together), len(jobs)))
    return {group.name: _completed(scores[group.name], widths[group.name]) for group in groups}


def measured_widths(groups: Sequence[Group], widths: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Choose the widths of every group that are measured out of those it may have: group → widths."""
    total = {kind: sum(group.values for group in groups if group.is_weight is kind) for kind in (True, False)}
    return {
        group.name: _measured(widths[group.name], small=group.values < SMALL * total[group.is_weight])
        for group in groups
    }


def predicted_losses(baseline: Baseline, score: float) -> float:
    """Predict the net loss of a plan whose scores add up to `score`, were the changes of margins normal."""
    if score <= 0:
        return 0.0
    normal, spread = NormalDist(), score**0.5
    hits, margins = baseline.measured.hits, baseline.margins
    lost = sum(normal.cdf(-m / spread) for m in margins[hits].tolist() if m < 4 * spread)
    gained = sum(normal.cdf(m / spread) for m in margins[~hits].tolist() if -m < 4 * spread)
    return lost - gained


def _nearest(bench: Bench, baseline: Baseline) -> ImageSet:
    """Pick the images that the float network has right by the smallest margins."""
    order = baseline.order()
    right = order[baseline.measured.hits[order]]
    return bench.images.subset((right if len(right) else order)[:IMAGES])


def _job(bench: Bench, subject: Subject, near: ImageSet, group: Group, bits: int) -> _Job:
    plan = subject.plan(dict.fromkeys(subject.sites, Float32.bits) | dict.fromkeys(group.sites, bits))
    candidate = (*subject.content, subject.seed, plan_to_dict(plan))
    return _Job(group, bits, plan, content_key("sensitivity/1", *candidate, near.sha256(), *bench.surroundings()))


def _margins(bench: Bench, subject: Subject, images: ImageSet, plan: BitPlan) -> Tensor:
    """Give the margins of some images under a plan."""
    with running(subject, plan, bench.memory) as run:
        scores = run(-1, images.prepared(), images.indices, subject.seed)
    bench.image_forwards_now += process_count() * len(images)
    return margins_of(scores.float(), images.labels)


def _measured(widths: Sequence[int], *, small: bool) -> list[int]:
    """Choose the widths to measure out of those a group may have; one alone needs no score."""
    packed = [bits for bits in widths if bits < Float32.bits]
    if len(widths) == 1:
        return []
    return [bits for bits in packed if bits in (MEASURED_OF_SMALL if small else MEASURED)] or packed[:1]


def _completed(measured: Mapping[int, float], widths: Sequence[int]) -> dict[int, float]:
    """Give every width a score: measured, interpolated on the logarithmic scale, or extrapolated."""
    known = sorted(measured)
    found: dict[int, float] = {}
    for bits in widths:
        if bits == Float32.bits:
            found[bits] = 0.0
        elif bits in measured:
            found[bits] = measured[bits]
        elif known and bits > known[-1]:
            found[bits] = measured[known[-1]] * QUARTER ** (bits - known[-1])
        else:
            found[bits] = _between(measured, bits)
    for narrow, wide in pairwise(found):
        found[wide] = min(found[wide], found[narrow])
    return found


def _between(measured: Mapping[int, float], bits: int) -> float:
    """Interpolate between the nearest measured widths; without a narrower or wider one follow the law."""
    below = max((b for b in measured if b < bits), default=None)
    above = min((b for b in measured if b > bits), default=None)
    if below is None or above is None:
        nearest = below if above is None else above
        return 0.0 if nearest is None else measured[nearest] * QUARTER ** (bits - nearest)
    share = (bits - below) / (above - below)
    return float(measured[below] ** (1 - share) * measured[above] ** share)


def _known(bench: Bench, key: str) -> float | None:
    """Ask the journal for a score: the bits of a float32 in two numbers."""
    numbers = from_first(bench.journal.get(key) if bench.journal else None)
    return None if numbers is None else float(struct.unpack("<f", struct.pack("<2H", *numbers))[0])


def _note(bench: Bench, key: str, score: float) -> None:
    if bench.journal is not None and bench.journal.get(key) is None:
        bench.journal.append(key, 0, struct.unpack("<2H", struct.pack("<f", score)))
