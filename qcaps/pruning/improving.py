"""Local improvement: a good strategy gives up units of some kinds and gets others for them, at the same cost."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

import numpy as np

from qcaps.pruning.candidates import Candidate, Proposal
from qcaps.pruning.strategy import Rules, Widths
from qcaps.pruning.targets import Budget, meet

# The best strategies, from which moves start in turn.
PARENTS = 2
# Largest share of a kind of unit that is taken, or given, in one move; and of all kinds, those that give up some. Among
# dozens of kinds an exchange between two of them would be too small a step.
LARGEST_STEP = 0.5
MOST_KINDS = 0.25
# Moves that lead to strategies known already, before there is taken to be none left.
TRIES = 30
# Tells the random numbers of moves from those of draws.
MOVES = 1


def neighbours(
    best: Sequence[Candidate], numbers: Iterable[int], *, seed: int, budgets: Sequence[Budget], rules: Rules
) -> list[Proposal]:
    """Propose one strategy for every number, near to one of the best.

    Parameters
    ----------
    best
        All candidates that are known, best first. The first of them take turns; one around which every strategy is
        known gives way to the next.
    numbers, seed, budgets, rules
        See :func:`moved`.

    Returns
    -------
    list
        Fewer, or none, if no strategies are left.
    """
    parents, known = list(best), [one.widths for one in best]
    proposals: list[Proposal] = []
    for number in numbers:
        while parents:
            parent = parents[number % min(PARENTS, len(parents))]
            widths = moved(parent.widths, number, seed=seed, budgets=budgets, rules=rules, known=known)
            if widths is not None:
                known.append(widths)
                proposals.append(Proposal(number, f"improved from {parent.number}", widths))
                break
            parents.remove(parent)
    return proposals


def moved(
    widths: Widths, number: int, *, seed: int, budgets: Sequence[Budget], rules: Rules, known: Container[Widths]
) -> Widths | None:
    """Move units of a strategy from some kinds to others.

    Parameters
    ----------
    widths
        Of the strategy.
    number
        Of the candidate that is sought; it decides the move, together with the seed of the search.
    seed
        Of the search.
    budgets, rules
        What has to hold; see :func:`~qcaps.pruning.targets.meet`.
    known
        Strategies that are not sought.

    Returns
    -------
    dict
        None if no move leads to a new strategy.

    Notes
    -----
    Every kind that gives up units has a partner that gets back as large a share. That hardly ever costs the same: what
    is missing or left over is shared among all kinds in proportion to what they have lost, so that the budgets are met
    and used up.
    """
    generator = np.random.Generator(np.random.PCG64([seed, number, MOVES]))
    caps = np.array(list(rules.caps.values()))
    movable = np.flatnonzero(caps > 0)
    if len(movable) < 2:
        return None
    ratios = rules.ratios(np.array([widths[name] for name in rules.counts], np.int64))
    whole = rules.ratios(np.array(list(rules.counts.values()), np.int64))  # more than 0, as directions have to be
    for _ in range(TRIES):
        pairs = generator.integers(1, max(1, int(MOST_KINDS * len(movable))), endpoint=True)
        narrower, wider = generator.choice(movable, (2, pairs), replace=False)
        steps = LARGEST_STEP * (1 - generator.random(pairs))
        direction = ratios.copy()
        direction[narrower] = np.minimum(direction[narrower] + steps, caps[narrower])
        direction[wider] = np.maximum(direction[wider] - steps, whole[wider])
        found = rules.named(meet(budgets, rules, direction))
        if found not in known:
            return found
    return None
