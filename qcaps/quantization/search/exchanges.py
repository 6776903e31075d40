"""Local exchanges: from the best plan on, steps off one or two groups, or off one and onto another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from qcaps.quantization.search.groups import Group, Widths
from qcaps.quantization.search.pricing import Prices
from qcaps.quantization.search.task import Task

# A step down has to take this share off its resource, weights or activations, since each one accepted costs a whole
# evaluation.
LEAST_SHARE = 0.02
# A step up is worth a test where it takes back this share of the damage of the step down.
LEAST_RELIEF = 0.5
# The search ends after so many rejections in a row.
PATIENCE = 30
# A guess at how often a plan passes whose damage is r times that of one that did: EVEN · r^-STEEPNESS.
EVEN, STEEPNESS = 0.5, 4
# Share of the split that a rejection takes.
REJECTION = 0.02


@dataclass(frozen=True)
class _Move:
    """Other widths for one or two groups: the bytes of the objective gained, and the damage added."""

    changes: tuple[tuple[str, int], ...]
    gain: float
    damage: float


def exchange(
    task: Task, prices: Prices, start: Widths, *, most_damage: float = math.inf, within_budgets: bool = False
) -> None:
    """Improve a plan move by move; what seems to pass is promising to the task.

    Parameters
    ----------
    task, prices
        Where plans are judged, and what they cost.
    start
        A plan that passed, or is promising.
    most_damage
        Plans that are predicted to do more are left out.
    within_budgets
        Whether moves that exceed a budget are left out.

    Raises
    ------
    Halt
        If the search has to end; the best plan so far stands in the task.
    """
    refused: set[tuple[tuple[str, int], ...]] = set()
    in_a_row = 0
    choice = {group.name: start[group.sites[0]] for group in prices.groups}
    while True:
        score = _score(prices, choice)
        moves = sorted(_moves(task, prices, choice), key=lambda move: (-_worth(move, score), move.changes))
        for move in moves:
            tried = {**choice, **dict(move.changes)}
            key = tuple(sorted(tried.items()))
            too_large = within_budgets and not task.fits(prices.spread(tried))
            if key in refused or too_large or _score(prices, tried) > most_damage:
                continue
            if task.judge(prices.spread(tried), "exchange", score=_score(prices, tried), steering=True):
                choice, in_a_row = tried, 0
                break
            refused.add(key)
            in_a_row += 1
            if in_a_row == PATIENCE:
                return
        else:
            return


def _worth(move: _Move, score: float) -> float:
    """Give the bytes that a test of a move can be expected to gain for every image it takes."""
    ratio = max(1.0, (score + move.damage) / score) if score > 0 else 1.0
    passes = EVEN * ratio**-STEEPNESS
    return move.gain * passes / (passes + REJECTION * (1 - passes))


def _score(prices: Prices, choice: Mapping[str, int]) -> float:
    return sum(prices.scores[name][bits] for name, bits in choice.items())


def _moves(task: Task, prices: Prices, choice: Mapping[str, int]) -> Iterator[_Move]:
    """List a step off every group and off every pair, and every step off one with a step onto another."""
    widths = prices.spread(choice)
    total = {True: task.subject.payload_bytes(widths), False: task.subject.activation_bytes(widths)}
    least = {group.name: LEAST_SHARE * _weight(task, group) * total[group.is_weight] for group in prices.groups}
    down = [m for m in _steps(task, prices, choice, -1) if m.gain > 0 and m.gain >= least[m.changes[0][0]]]
    up = list(_steps(task, prices, choice, +1))
    yield from down
    for first, second in combinations(down, 2):
        yield _joined(first, second)
    for first in down:
        for second in up:
            joined = _joined(first, second)
            helps = -second.damage >= LEAST_RELIEF * first.damage
            if helps and joined.gain >= first.gain / 2 and first.changes[0][0] != second.changes[0][0]:
                yield joined


def _weight(task: Task, group: Group) -> float:
    return 1.0 if group.is_weight else task.activation_weight


def _joined(first: _Move, second: _Move) -> _Move:
    return _Move(first.changes + second.changes, first.gain + second.gain, first.damage + second.damage)


def _steps(task: Task, prices: Prices, choice: Mapping[str, int], direction: int) -> Iterator[_Move]:
    """Move every group to its neighbouring width, if it has one."""
    for group in prices.groups:
        widths: Sequence[int] = prices.widths[group.name]
        place = widths.index(choice[group.name]) + direction
        if not 0 <= place < len(widths):
            continue
        before, after = widths[place - direction], widths[place]
        gain = _weight(task, group) * (prices.price(group, before) - prices.price(group, after))
        scores = prices.scores[group.name]
        yield _Move(((group.name, after),), gain, scores[after] - scores[before])
