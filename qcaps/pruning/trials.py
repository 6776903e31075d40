"""Trials: every strategy is scored once, by as many processes as there are, and remembered by the journal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from qcaps.artifacts.journal import Journal, content_key
from qcaps.distributed import from_all, from_first, process_count, process_index
from qcaps.evaluation.content import tensors_sha256
from qcaps.evaluation.cost_model import CostModel
from qcaps.evaluation.ends import Ends, Halt
from qcaps.models.spec import spec_to_dict
from qcaps.progress import OnProgress, Step
from qcaps.pruning.candidates import Candidate, Proposal, Source, kept_shares, scored
from qcaps.pruning.ranking import kept_units
from qcaps.pruning.scoring import Criterion, Score, class_scores
from qcaps.pruning.strategy import Widths
from qcaps.pruning.targets import Budget

# Part of every journal key: raise it when the same candidate may get another score.
NUMERICS_VERSION = 1
# The journal holds numbers of 16 bits.
CODES = 2**16


class Trials:
    """Where candidates are scored.

    Parameters
    ----------
    source
        What is pruned, and the images.
    budgets, costs
        Of which candidates keep shares.
    criterion
        Of the score.
    journal
        Asked before a candidate is scored and told after it; None in every process but the first.
    on_progress, ends
        Told after, and asked before, every candidate.

    Attributes
    ----------
    candidates
        In the order in which their scores became known.
    scored_now
        Candidates that the journal did not know.
    """

    def __init__(
        self,
        source: Source,
        budgets: Sequence[Budget],
        costs: CostModel,
        *,
        criterion: Criterion,
        journal: Journal | None,
        on_progress: OnProgress,
        ends: Ends,
    ) -> None:
        self.candidates: list[Candidate] = []
        self.scored_now = 0
        self._source, self._budgets, self._costs = source, budgets, costs
        self._criterion, self._journal, self._on_progress, self._ends = criterion, journal, on_progress, ends

    @property
    def image_forwards(self) -> int:
        """Count distinct pairs of candidate and scoring image."""
        return len(self.candidates) * len(self._source.scoring)

    def best(self) -> list[Candidate]:
        """List all candidates so far, best first; of equals the one with the lower number."""
        return sorted(self.candidates, key=lambda one: (one.score.mean, one.number))

    def run(self, proposals: Sequence[Proposal], before: Step) -> None:
        """Score the proposals whose strategy has no score yet.

        Parameters
        ----------
        proposals
            The same in every process. One process scores one at a time.
        before
            Where the phase stands.

        Raises
        ------
        Halt
            If the search ends before; what is known by then is among the candidates.
        """
        new = self._unknown(proposals)
        keys = [self._key(one.widths) for one in new]
        noted = from_first([self._journal.get(key) if self._journal else None for key in keys])
        waiting = []
        for proposal, key, numbers in zip(new, keys, noted, strict=True):
            if numbers is None:
                waiting.append((proposal, key))
            else:
                self._take(proposal, numbers)
        done = before.done + len(proposals) - len(waiting)
        self.tell(dataclasses.replace(before, done=done))
        for start in range(0, len(waiting), process_count()):
            reason = from_first(self._ends.reason(self.image_forwards))
            if reason:
                raise Halt(reason)
            together = waiting[start : start + process_count()]
            mine, _key = together[min(process_index(), len(together) - 1)]
            for (proposal, key), score in zip(together, from_all(self._score(mine.widths)), strict=False):
                if self._journal is not None:
                    self._journal.append(key, 0, score)
                self._take(proposal, score)
            self.scored_now += len(together)
            done += len(together)
            self.tell(dataclasses.replace(before, done=done))

    def tell(self, step: Step) -> None:
        """Report progress, with the best score."""
        best = self.best()
        note = f"best {best[0].score.mean:.4f}" if best else ""
        self._on_progress(dataclasses.replace(step, note=note))

    def _unknown(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """Drop the proposals that are known, or that say the same as one before."""
        new = {tuple(self._costs.vector(one.widths).tolist()): one for one in reversed(proposals)}
        for candidate in self.candidates:
            new.pop(tuple(self._costs.vector(candidate.widths).tolist()), None)
        return sorted(new.values(), key=lambda one: one.number)

    def _take(self, proposal: Proposal, numbers: Sequence[int]) -> None:
        shares = kept_shares(proposal.widths, self._budgets, self._costs)
        self.candidates.append(Candidate(proposal.number, proposal.origin, proposal.widths, shares, _score_of(numbers)))

    def _score(self, widths: Widths) -> list[int]:
        return _numbers_of(scored(self._source, widths, self._criterion, self._unpruned))

    @cached_property
    def _unpruned(self) -> Tensor | None:
        """Score the network before it is cut, if the criterion looks at that."""
        if self._criterion != "kl":
            return None
        return class_scores(self._source.network, self._source.scoring)

    def _key(self, widths: Widths) -> str:
        return content_key("pruned", self._content, kept_units(self._source.scores, widths))

    @cached_property
    def _content(self) -> tuple[object, ...]:
        """Name everything that a score depends on beside the units that are kept."""
        source = self._source
        return (
            NUMERICS_VERSION,
            torch.__version__,
            next(source.network.parameters()).device.type,
            spec_to_dict(source.spec),
            tensors_sha256(source.tensors),
            source.recalibration.method,
            source.calibration.sha256(),
            source.scoring.sha256(),
            self._criterion,
        )


def _numbers_of(score: Score) -> list[int]:
    """Write a score in numbers of 16 bits: two for the images recognised, and two for the float32 of every image."""
    bits = score.per_image.numpy().astype("<f4").view("<u2")
    return [*divmod(score.correct, CODES), *bits.tolist()]


def _score_of(numbers: Sequence[int]) -> Score:
    """Read a score as it was written."""
    high, low, *bits = numbers
    per_image = np.array(bits, "<u2").view("<f4").astype(np.float32)
    return Score(torch.from_numpy(per_image), high * CODES + low)
