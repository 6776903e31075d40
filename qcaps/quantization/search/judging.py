"""Judging: does a candidate keep the accuracy? With exact early rejection, and no measurement made twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qcaps.artifacts.journal import Journal, content_key
from qcaps.data.images import ImageSet
from qcaps.distributed import from_all, from_first, process_index
from qcaps.evaluation.content import network_content
from qcaps.evaluation.ends import Ends, Halt
from qcaps.evaluation.measure import Measurement
from qcaps.models.network import CapsuleNetwork
from qcaps.models.spec import ModelSpec
from qcaps.progress import OnProgress, Step
from qcaps.quantization.integer import integer_units
from qcaps.quantization.plan import BitPlan, plan_to_dict
from qcaps.quantization.search.spending import Ledger
from qcaps.quantization.search.staging import Run, StageMemory, running
from qcaps.quantization.search.subject import Subject

# When a judgement may end: as soon as the verdict is likely enough to steer by, as soon as it is certain, or never.
Until = Literal["steering", "certain", "complete"]
# Part of every journal key: raise it when the same plan may give other numbers.
NUMERICS_VERSION = 2
# Images run and judged together. Always cut at the same places, so that no result depends on where a run was stopped,
# nor on how many processes share it.
BATCH = 64
# Images between two lines of the journal.
LINE = 512
# A search that only seeks its way takes a candidate to pass when so many images in a row were not lost: they come in
# the order of their margins, so that hardly one of the rest will be.
QUIET = 256


@dataclass(frozen=True)
class Judgement:
    """What is known of a candidate when its verdict is certain.

    Parameters
    ----------
    passed
        Whether lost − gained over the whole split, summed over the seeds, is at most what is allowed.
    lost, gained
        Among the images seen.
    seen
        Images that it took, the same ones of every seed.
    certain
        Whether it is the verdict of a complete evaluation; a pass that only steers a search is not.
    """

    passed: bool
    lost: int
    gained: int
    seen: int
    certain: bool = True


@dataclass(frozen=True, eq=False)
class Baseline:
    """The float network as it was trained, on the search split in its natural order.

    Parameters
    ----------
    measured
        Its predictions.
    margins
        Score of the label less the largest other score, shape ``(n,)``.
    """

    measured: Measurement
    margins: Tensor

    def order(self) -> Tensor:
        """Give the order of judging: wrong images first, then those nearest to becoming wrong, shape ``(n,)``."""
        near = torch.sort(self.margins, stable=True).indices
        wrong_first = torch.sort(self.measured.hits[near].to(torch.uint8), stable=True).indices
        return near[wrong_first]


def margins_of(scores: Tensor, labels: Tensor) -> Tensor:
    """Subtract the largest other score from that of the label: ``(n, classes)`` and ``(n,)`` → ``(n,)``."""
    label = labels[:, None]
    return scores.gather(1, label).squeeze(1) - scores.scatter(1, label, -math.inf).amax(1)


class Bench:
    """Where candidates are judged: the search split, a journal, and a ledger of what is spent.

    Parameters
    ----------
    images
        The search split.
    journal
        Asked before every measurement and told after it; None in every process but the first.
    on_progress, ends
        Told, and asked, after every batch.
    memory_bytes
        For outputs of stages that candidates share.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        journal: Journal | None,
        on_progress: OnProgress,
        ends: Ends,
        memory_bytes: int = 0,
    ) -> None:
        self.images, self.journal = images, journal
        self.on_progress, self.ends = on_progress, ends
        self.ledger = Ledger()
        self.image_forwards_now = 0
        self._memory_bytes = memory_bytes
        self._judge_in(torch.arange(len(images)), torch.zeros(len(images), dtype=torch.bool))

    def _judge_in(self, order: Tensor, hits: Tensor) -> None:
        """Take the images in another order from now on; `hits` of the float network, in their natural order."""
        self._order, self._hits = order, hits[order]
        self._ordered = self.images.subset(order)
        self._content = self._ordered.sha256()
        self.memory = StageMemory(self._memory_bytes, len(order))  # it knows images by their place in the order

    def measure_float(self, model: ModelSpec, network: CapsuleNetwork) -> Baseline:
        """Measure the float network as it was trained, and order all further work by it.

        Raises
        ------
        Halt
            If the search ends before.
        """
        labels = self.images.labels
        self._judge_in(torch.arange(len(labels)), torch.zeros(len(labels), dtype=torch.bool))

        def run(_number: int, images: ImageSet) -> Tensor:
            scores = network(images.prepared()).scores.float()
            # Half precision orders well enough, and fits where predictions do.
            half = margins_of(scores, images.labels).half().view(torch.int16).long() & 0xFFFF
            return torch.stack([scores.argmax(1), half])

        key = content_key("float", *network_content(model, network), *self.surroundings())
        with torch.inference_mode(), self._rows([f"{key}.predictions", f"{key}.margins"]) as rows:
            for number in range(self._batches):
                self._extend(rows, number, run, "float network", passes=1)
            found, bits = (torch.tensor(row.known) for row in rows)
        self.ledger.extra += len(labels)
        baseline = Baseline(Measurement(found, labels), bits.to(torch.int16).view(torch.float16).float())
        self._judge_in(baseline.order(), baseline.measured.hits)
        return baseline

    def judge_against(self, hits: Tensor, baseline: Baseline) -> Baseline:
        """Count losses against the hits of another float network from now on, the first one of a chain.

        Parameters
        ----------
        hits
            Of that network, in the natural order of the images.
        baseline
            What was measured of the one that is quantized: its margins order the images.

        Returns
        -------
        Baseline
            With these hits; where that network was wrong, its prediction is no class.
        """
        labels = self.images.labels
        known = Baseline(Measurement(torch.where(hits, labels, -1), labels), baseline.margins)
        self._judge_in(known.order(), hits)
        return known

    def judge(
        self, subject: Subject, plan: BitPlan, allowed: int, phase: str = "try", *, steering: bool = False
    ) -> Judgement:
        """Judge a candidate on as few images as make its verdict certain.

        Parameters
        ----------
        subject, plan
            The candidate.
        allowed
            Largest lost − gained that passes, summed over the seeds of the subject.
        phase
            For the progress.
        steering
            Whether a pass may be taken for granted before it is certain; a rejection is certain always.

        Notes
        -----
        An image that the float network has right can add one to the loss, or nothing; one that it has wrong can take
        one away, or nothing. So the final loss lies between what was seen less the wrong images unseen, and what was
        seen plus the right ones unseen: outside of what is allowed the verdict is certain, and it is the verdict of a
        complete evaluation.
        """
        return self._judge(subject, plan, allowed, phase, "steering" if steering else "certain")[0]

    def measure(self, subject: Subject, plan: BitPlan, phase: str = "measure") -> tuple[Measurement, ...]:
        """Measure a candidate on all images, in their natural order: one measurement for each seed."""
        _, rows = self._judge(subject, plan, 0, phase, "complete")
        natural = torch.empty_like(self._order)
        natural[self._order] = torch.arange(len(self._order))
        return tuple(Measurement(torch.tensor(row.known)[natural], self.images.labels) for row in rows)

    def _judge(
        self, subject: Subject, plan: BitPlan, allowed: int, phase: str, until: Until
    ) -> tuple[Judgement, list[_Row]]:
        seeds = subject.seeds
        keys = [content_key(*self._candidate(subject, plan), seed) for seed in seeds]
        hits = self._hits
        wrong_unseen, right_unseen = len(seeds) * int((~hits).sum()), len(seeds) * int(hits.sum())
        lost = gained = seen = quiet = 0
        rejected = accepted = False
        with ExitStack() as stack, self._rows(keys) as rows:
            runs: list[Run] = []

            def run(number: int, images: ImageSet) -> Tensor:
                if not runs:  # all that is asked may be in the journal
                    runs.append(stack.enter_context(running(subject, plan, self.memory)))
                pixels = images.prepared()
                return torch.stack([runs[0](number, pixels, images.indices, seed).argmax(1) for seed in seeds])

            for number in range(self._batches):
                self._extend(rows, number, run, phase, passes=len(seeds))
                place = slice(seen, min(seen + BATCH, len(hits)))
                found = torch.tensor([row.known[place] for row in rows]) == self._ordered.labels[place]
                lost_here = int((hits[place] & ~found).sum())
                quiet = quiet + BATCH if lost_here == 0 and wrong_unseen == 0 else 0
                lost += lost_here
                gained += int((found & ~hits[place]).sum())
                seen = place.stop
                wrong_unseen -= len(seeds) * int((~hits[place]).sum())
                right_unseen -= len(seeds) * int(hits[place].sum())
                rejected = lost - gained - wrong_unseen > allowed
                accepted = lost - gained + right_unseen <= allowed
                for key in keys:
                    self.ledger.count(key, seen)
                hopeful = until == "steering" and quiet >= QUIET and lost - gained <= allowed
                if until != "complete" and (rejected or accepted or hopeful):
                    break
        self.ledger.tests += 1
        self.ledger.whole += len(seeds) * len(hits)
        return Judgement(not rejected, lost, gained, seen, certain=rejected or accepted), rows

    def _candidate(self, subject: Subject, plan: BitPlan) -> tuple[object, ...]:
        return ("plan", *subject.content, subject.seed, plan_to_dict(plan), *self.surroundings())

    def surroundings(self) -> tuple[object, ...]:
        """Give what a measurement depends on beside the candidate."""
        units = "integers" if integer_units() else "float"
        return self._content, NUMERICS_VERSION, torch.__version__, units

    @property
    def _batches(self) -> int:
        return math.ceil(len(self.images) / BATCH)

    @contextmanager
    def _rows(self, keys: list[str]) -> Iterator[list[_Row]]:
        """Open what is known under some keys, and save what became known.

        A block that is interrupted saves whole lines only, so that the journal of a continued search is that of an
        uninterrupted one.
        """
        known = from_first([list(self.journal.get(key) or ()) if self.journal else [] for key in keys])
        rows = [_Row(key, numbers, len(numbers)) for key, numbers in zip(keys, known, strict=True)]
        yield rows
        self._save(rows)

    def _save(self, rows: list[_Row]) -> None:
        for row in rows:
            if self.journal is not None and len(row.known) > row.saved:
                self.journal.append(row.key, row.saved, row.known[row.saved :])
            row.saved = len(row.known)

    def _extend(
        self, rows: list[_Row], number: int, run: Callable[[int, ImageSet], Tensor], phase: str, *, passes: int
    ) -> None:
        """See to it that one batch is known, in so many passes; several processes work ahead, a batch each."""
        reason = from_first(self.ends.reason(self.ledger.image_forwards))
        if reason:
            raise Halt(reason)
        if all(len(row.known) >= min((number + 1) * BATCH, len(self._ordered)) for row in rows):
            return
        mine = number + process_index()
        found = torch.empty(len(rows), 0, dtype=torch.int64)
        if mine < self._batches:
            places = torch.arange(mine * BATCH, min((mine + 1) * BATCH, len(self._ordered)))
            found = run(mine, self._ordered.subset(places))
        for part in from_all(found):
            for row, numbers in zip(rows, part.tolist(), strict=True):
                if len(row.known) < number * BATCH + len(numbers):
                    row.known[number * BATCH :] = numbers
            self.image_forwards_now += passes * part.shape[1]
            number += 1
        name, _, note = phase.partition(", ")  # one bar for all plans of a phase
        self.on_progress(Step(name, min(number * BATCH, len(self._ordered)), len(self._ordered), note))
        if len(rows[0].known) - rows[0].saved >= LINE:
            self._save(rows)


@dataclass
class _Row:
    """Numbers of one key, in the order of judging, and how many of them the journal holds."""

    key: str
    known: list[int]
    saved: int
