"""Random strategies in EagleEye's ranges, each drawn from the seed and its own number alone.

Reference: Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", 2020, and its code
``anonymous47823493/EagleEye``, which draws until a strategy happens to meet the target: 28 to 346 times for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qcaps.errors import InfeasibleError
from qcaps.pruning.strategy import Rules, Widths
from qcaps.pruning.targets import Budget, check_reachable, meet

# How a draw is brought to the target: by its scale, or by drawing again, as EagleEye does.
Sampler = Literal["bisection", "rejection"]
# How far a share that EagleEye accepts may lie from the target.
ACCEPTED = 0.005
MOST_DRAWS = 1_000_000
# Share of the MACs to keep → largest share of the units of a group that EagleEye lets go.
EAGLEEYE_RANGES = {0.0: 1.0, 0.25: 0.8, 0.5: 0.7, 0.75: 0.4}


@dataclass(frozen=True)
class Draw:
    """A strategy that meets its targets.

    Parameters
    ----------
    number
        Of the candidate.
    widths
        Of all units.
    draws
        How many were drawn until one met the targets.
    """

    number: int
    widths: Widths
    draws: int


def usual_cap(kept: float) -> float:
    """Give the largest share of a group of units that may go; between EagleEye's own numbers, in proportion."""
    return float(np.interp(kept, list(EAGLEEYE_RANGES), list(EAGLEEYE_RANGES.values())))


def draw(number: int, *, seed: int, budgets: Sequence[Budget], rules: Rules, sampler: Sampler = "bisection") -> Draw:
    """Draw the strategy of one candidate.

    Parameters
    ----------
    number
        Of the candidate; no other number changes it, so that candidates can be drawn in any order and anywhere.
    seed
        Of the search.
    budgets, rules
        What has to hold; see :func:`~qcaps.pruning.targets.meet`.
    sampler
        ``bisection`` scales one direction, which ties the ratios of a draw together; ``rejection`` draws every ratio
        evenly from 0 to its cap until the shares lie within 0.005 of all targets.

    Raises
    ------
    InfeasibleError
        If no strategy meets the targets, or none of a million draws does.
    """
    generator = np.random.Generator(np.random.PCG64([seed, number]))
    if sampler == "bisection":
        direction = 1 - generator.random(len(rules.counts))  # never 0
        return Draw(number, rules.named(meet(budgets, rules, direction)), draws=1)
    check_reachable(budgets, rules)
    caps = np.array(list(rules.caps.values()))
    for draws in range(1, MOST_DRAWS + 1):
        widths = rules.widths(caps * generator.random(len(caps)))
        if all(abs(one.share(widths) - one.target.kept) <= ACCEPTED for one in budgets):
            return Draw(number, rules.named(widths), draws)
    raise InfeasibleError(
        f"none of {MOST_DRAWS:,} draws lies within {ACCEPTED} of the target", do="let the sampler be bisection"
    )
