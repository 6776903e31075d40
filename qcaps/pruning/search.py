"""The search for the best strategy that meets its targets: random ones first, then what lies near the best of them.

Reference: Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", 2020, which draws alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcaps.artifacts.journal import Journal
from qcaps.errors import UsageError
from qcaps.evaluation.cost_model import CostModel
from qcaps.evaluation.ends import Ends, Halt
from qcaps.progress import OnProgress, Step, silent
from qcaps.pruning.candidates import Candidate, Proposal, Source
from qcaps.pruning.drawing import Sampler, draw
from qcaps.pruning.improving import neighbours
from qcaps.pruning.scoring import Criterion, tied_with_best
from qcaps.pruning.strategy import Rules, Widths
from qcaps.pruning.targets import COST_NAMES, Budget
from qcaps.pruning.trials import Trials

# Moves that are decided together by what is known before them, so that no result depends on how many processes share
# them.
ROUND = 8


@dataclass(frozen=True, eq=False)
class Searched:
    """What a search found.

    Parameters
    ----------
    candidates
        By number, each strategy once; none if the search was stopped before the first.
    ranked
        Their places, best first; of equals the earlier one.
    finalists
        The k best and all others that are not clearly worse than the last of these: places, best first.
    stopped
        Why it ended early, or nothing.
    image_forwards
        Distinct pairs of candidate and scoring image; those of recalibration are not counted.
    scored_now
        Candidates that this run scored itself; the journal knew the others.
    """

    candidates: tuple[Candidate, ...]
    ranked: tuple[int, ...]
    finalists: tuple[int, ...]
    stopped: str
    image_forwards: int
    scored_now: int


def search(
    source: Source,
    budgets: Sequence[Budget],
    rules: Rules,
    costs: CostModel,
    *,
    candidates: int,
    improve: int,
    top_k: int,
    seed: int,
    sampler: Sampler = "bisection",
    criterion: Criterion = "loss",
    given: Sequence[Widths] = (),
    journal: Journal | None = None,
    on_progress: OnProgress = silent,
    ends: Ends | None = None,
) -> Searched:
    """Score random and given strategies, then improve the best of them.

    Parameters
    ----------
    source
        What is pruned, and the images. It is left as it is.
    budgets, rules, costs
        Targets, how widths follow from ratios, and the cost model that the budgets were made with.
    candidates
        Strategies to draw; those that come up twice are scored once.
    improve
        Strategies to try beyond these, each a move away from one of the best.
    top_k
        Finalists.
    seed, sampler
        Of the draws and moves.
    criterion
        Of the scores.
    given
        Widths of all units of strategies to score as well.
    journal
        Asked before every candidate and told after it; None in every process but the first.
    on_progress, ends
        Told after, and asked before, every candidate.

    Returns
    -------
    Searched
        The same whatever the number of processes, and whether the search was interrupted before and continued with its
        journal.

    Raises
    ------
    UsageError
        If a given strategy exceeds a budget.
    InfeasibleError
        If no strategy meets the targets.
    """
    for widths in given:
        _check_given(widths, budgets, costs)
    proposals = [
        *(
            Proposal(number, "drawn", draw(number, seed=seed, budgets=budgets, rules=rules, sampler=sampler).widths)
            for number in range(candidates)
        ),
        *(Proposal(number, "given", widths) for number, widths in enumerate(given, candidates)),
    ]
    trials = Trials(
        source, budgets, costs, criterion=criterion, journal=journal, on_progress=on_progress, ends=ends or Ends()
    )
    stopped = ""
    try:
        trials.run(proposals, Step("candidates", 0, len(proposals)))
        numbers = range(len(proposals), len(proposals) + improve)
        _improve(trials, numbers, seed=seed, budgets=budgets, rules=rules)
    except Halt as halt:
        stopped = halt.reason
    return _concluded(trials, top_k, stopped)


def _check_given(widths: Widths, budgets: Sequence[Budget], costs: CostModel) -> None:
    """Refuse a given strategy that would win by what it costs."""
    for one in budgets:
        if not one.holds(costs.vector(widths)):
            kept, cost = one.share(costs.vector(widths)), COST_NAMES[one.target.kind]
            raise UsageError(
                f"the given strategy keeps {kept:.4g} of the {cost}, more than the target",
                where=f"--{one.target.kind}",
                do="leave the target out, or give a narrower strategy",
            )


def _improve(trials: Trials, numbers: Sequence[int], *, seed: int, budgets: Sequence[Budget], rules: Rules) -> None:
    """Try a move for every number, until there is none left, from the best strategies as they become known.

    Raises
    ------
    Halt
        If the search ends before.
    """
    for start in range(0, len(numbers), ROUND):
        together = numbers[start : start + ROUND]
        proposals = neighbours(trials.best(), together, seed=seed, budgets=budgets, rules=rules)
        if not proposals:
            trials.tell(Step("improve", len(numbers), len(numbers)))
            return
        trials.run(proposals, Step("improve", start, len(numbers)))


def _concluded(trials: Trials, top_k: int, stopped: str) -> Searched:
    """Rank what was found."""
    found = tuple(sorted(trials.candidates, key=lambda one: one.number))
    scores = [one.score for one in found]
    return Searched(
        candidates=found,
        ranked=tuple(sorted(range(len(found)), key=lambda place: scores[place].mean)),
        finalists=tuple(tied_with_best(scores, top_k)) if scores else (),
        stopped=stopped,
        image_forwards=trials.image_forwards,
        scored_now=trials.scored_now,
    )
