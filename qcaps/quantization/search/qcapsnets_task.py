"""The sequential search of Q-CapsNets on a task: its questions answered by the bench."""

from __future__ import annotations

from dataclasses import dataclass

from qcaps.quantization.search.groups import Widths
from qcaps.quantization.search.qcapsnets import search_qcapsnets
from qcaps.quantization.search.sequential import blocks_of
from qcaps.quantization.search.task import Found, Task, conclude


@dataclass(frozen=True, eq=False)
class _Answers:
    """What the algorithm asks of a task."""

    task: Task

    def passes(self, widths: Widths, most_losses: int) -> bool:
        return self.task.judge(widths, "sequential", allowed=most_losses)

    def net_losses(self, widths: Widths) -> int:
        return self.task.net_losses(widths, "sequential")

    def weight_bytes(self, weights: Widths) -> int:
        payload = self.task.subject.payload_bytes(weights)
        return self.task.limits.counted(payload + self.task.overhead_bytes, payload)


def search_sequentially(task: Task) -> Found:
    """Search as Q-CapsNets does; see :func:`~qcaps.quantization.search.qcapsnets.search_qcapsnets`.

    The algorithm knows no activation budget: what exceeds one is not satisfied.

    Raises
    ------
    Halt
        If the search has to end; the best plan so far stands in the task.
    """
    allowed = {site: tuple(widths) for site, widths in task.widths.items()}
    result = search_qcapsnets(
        blocks_of(task.subject.network.stages, task.subject.sites),
        allowed,
        _Answers(task),
        allowance=task.allowance,
        budget_bytes=task.limits.budget_bytes,
    )
    chosen = result.satisfied
    task.best = chosen if chosen is not None and task.fits(chosen) else None
    details = {
        "path": result.path,
        "stages": {stage.name: len(stage.tested) for stage in result.stages},
        "tests of the algorithm": result.tests,
        "repeated tests": result.repeats,
        "notes": list(result.notes),
    }
    return conclude(task, memory=result.memory, accuracy=result.accuracy or chosen, details=details)
