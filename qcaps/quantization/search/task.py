"""The task of a search: what is quantized, what must be kept, and everything tried so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from qcaps.evaluation.ends import Ends, Halt
from qcaps.quantization.limits import Limits
from qcaps.quantization.search.groups import Group, Widths, fine_groups
from qcaps.quantization.search.judging import Baseline, Bench, Judgement
from qcaps.quantization.search.sensitivity import Scores
from qcaps.quantization.search.subject import Subject
from qcaps.quantization.search.trial import Trial, file_bytes, make_trial, summed_verdict


@dataclass(frozen=True)
class Tried:
    """One candidate that was judged.

    Parameters
    ----------
    phase
        What the search was doing.
    widths
        Of every site.
    payload_bytes, activation_bytes
        Of the weights, and of the arrays of one image.
    score
        Predicted damage; NaN where the search predicts none.
    allowed, judgement
        Net loss it was held against, and the verdict.
    """

    phase: str
    widths: Widths
    payload_bytes: int
    activation_bytes: float
    score: float
    allowed: int
    judgement: Judgement


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Parameters
    ----------
    satisfied
        Keeps every promise; None if nothing that was tried does.
    memory, accuracy
        Only where `satisfied` is None: the most accurate within the budgets, and the smallest within the tolerance.
    tried
        Every candidate judged, in order.
    stopped
        What ended the search early, or nothing.
    scores
        Sensitivity, if it was measured.
    details
        What else a report says of this search: plain data.
    """

    satisfied: Trial | None
    memory: Trial | None
    accuracy: Trial | None
    tried: tuple[Tried, ...]
    stopped: str = ""
    scores: Scores = field(default_factory=dict)
    details: Mapping[str, object] = field(default_factory=dict)

    def by_file(self) -> dict[str, Trial]:
        """Give the artifacts to write, under the file names that Q-CapsNets uses."""
        named = {"satisfied.pt": self.satisfied, "memory.pt": self.memory, "accuracy.pt": self.accuracy}
        return {name: trial for name, trial in named.items() if trial is not None}


@dataclass(eq=False)
class Task:
    """A search under way.

    Parameters
    ----------
    bench, baseline
        Where candidates are judged, and the float network there.
    subject
        What is quantized.
    limits
        The tolerance and the budgets.
    allowed
        Largest net loss that passes, summed over the seeds.
    widths
        Site → the widths it may have, ascending.
    overhead_bytes
        Upper bound of what a file holds beside its payload.
    allowance
        The same before it is rounded down.
    activation_weight
        Bytes of weights that one byte of activations counts as.
    per_iteration
        Whether routing iterations may have different widths.
    tried
        Every candidate judged, in order.
    best, smallest
        Of those that passed for certain the one with the smallest objective: within the budgets, and of whatever size.
    promising
        Those that seemed to pass while the search sought its way.
    """

    bench: Bench
    baseline: Baseline
    subject: Subject
    limits: Limits
    allowed: int
    widths: Mapping[str, Sequence[int]]
    overhead_bytes: int
    allowance: Fraction = Fraction(0)
    activation_weight: float = 1.0
    per_iteration: bool = False
    tried: list[Tried] = field(default_factory=list)
    best: Widths | None = None
    smallest: Widths | None = None
    promising: list[Widths] = field(default_factory=list)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Give every weight, and every array, its own group."""
        values = self.subject.calibration
        return fine_groups(
            {site: found.values for site, found in values.weights.items()},
            {site: found.values for site, found in values.arrays.items()},
            {site: tuple(widths) for site, widths in self.widths.items()},
            per_iteration=self.per_iteration,
        )

    def objective(self, widths: Widths) -> float:
        """Give the bytes that the search makes small: of the weights, and of the arrays by their weight."""
        subject = self.subject
        return subject.payload_bytes(widths) + self.activation_weight * subject.activation_bytes(widths)

    def fits(self, widths: Widths) -> bool:
        """Tell whether a plan is within the budgets; where the bound of its file leaves doubt, the file itself does."""
        payload, activations = self.subject.payload_bytes(widths), self.subject.activation_bytes(widths)
        if self.limits.fits(payload + self.overhead_bytes, payload, activations):
            return True
        if not self.limits.fits(payload, payload, activations):
            return False
        return self.limits.fits(file_bytes(self.bench, self.subject, self.subject.plan(widths)), payload, activations)

    def judge(
        self,
        widths: Widths,
        phase: str,
        *,
        allowed: int | None = None,
        score: float = math.nan,
        steering: bool = False,
    ) -> bool:
        """Judge a candidate, and keep it if it is the best so far.

        Parameters
        ----------
        widths
            Of every site.
        phase, score
            For the record.
        allowed
            Net loss to hold it against, by default that of the task.
        steering
            Whether a pass need not be certain; the candidate is then only promising.

        Raises
        ------
        Halt
            If the search has to end.
        """
        held = self.allowed if allowed is None else allowed
        plan, name = self.subject.plan(widths), f"{phase}, plan {len(self.tried) + 1}"
        judgement = self.bench.judge(self.subject, plan, held, name, steering=steering)
        self._record(phase, widths, score, held, judgement)
        return judgement.passed

    def net_losses(self, widths: Widths, phase: str) -> int:
        """Measure a candidate on all images; give lost − gained, summed over the seeds.

        Raises
        ------
        Halt
            If the search has to end.
        """
        plan, name = self.subject.plan(widths), f"{phase}, plan {len(self.tried) + 1}"
        verdict = summed_verdict(self.baseline.measured, self.bench.measure(self.subject, plan, name), self.allowed)
        judgement = Judgement(verdict.passed, verdict.lost, verdict.gained, len(self.bench.images))
        self._record(phase, widths, math.nan, self.allowed, judgement)
        return verdict.lost - verdict.gained

    def _record(self, phase: str, widths: Widths, score: float, held: int, judgement: Judgement) -> None:
        payload, activations = self.subject.payload_bytes(widths), self.subject.activation_bytes(widths)
        self.tried.append(Tried(phase, widths, payload, activations, score, held, judgement))
        if judgement.passed and not judgement.certain:
            self.promising.append(widths)
        elif judgement.passed and held <= self.allowed:
            self.smallest = self._smaller(widths, self.smallest)
            self.best = self._smaller(widths, self.best) if self.fits(widths) else self.best

    def make_certain(self, *, within_budgets: bool = False) -> None:
        """Judge the promising candidates for certain, the smallest first, until one passes.

        Raises
        ------
        Halt
            If the search has to end.
        """
        waiting = [widths for widths in self.promising if not within_budgets or self.fits(widths)]
        self.promising = [widths for widths in self.promising if widths not in waiting]
        for widths in sorted(waiting, key=self.objective):
            if self.judge(widths, "make certain"):
                break

    def _smaller(self, widths: Widths, other: Widths | None) -> Widths:
        return widths if other is None or self.objective(widths) < self.objective(other) else other

    def trial(self, widths: Widths) -> Trial:
        """Measure a candidate to the end and serialise it; what was judged before is not run again."""
        return make_trial(self.bench, self.subject, widths, baseline=self.baseline, allowed=self.allowed)


Search = Callable[[Task], Found]


def conclude(
    task: Task,
    *,
    memory: Widths | None = None,
    accuracy: Widths | None = None,
    scores: Scores | None = None,
    details: Mapping[str, object] | None = None,
) -> Found:
    """Turn what was tried into what was found.

    Parameters
    ----------
    task
        Its best candidate, if it has one, satisfies everything.
    memory, accuracy
        The nearest models, for the case that it has none.
    scores, details
        As for :class:`Found`.
    """
    satisfied = None if task.best is None else task.trial(task.best)
    small = None if satisfied or memory is None else task.trial(memory)
    accurate = None if satisfied or accuracy is None else task.trial(accuracy)
    return Found(satisfied, small, accurate, tuple(task.tried), "", scores or {}, details or {})


def run_search(search: Search, task: Task) -> Found:
    """Search, and come back with the best so far if the search has to end before it is done.

    Where only promising candidates are known by then, they are measured to the end.
    """
    try:
        return search(task)
    except Halt as halt:
        ends, task.bench.ends = task.bench.ends, Ends()
        try:
            if task.best is None:
                task.make_certain(within_budgets=True)
            return dataclasses.replace(conclude(task, accuracy=task.smallest), stopped=halt.reason)
        finally:
            task.bench.ends = ends
