"""Search ``qcapsnets``: the sequential algorithm of Q-CapsNets, first uniform, then block by block.

Its character is kept: widths of a loop never grow with depth, weights follow fixed decreasing offsets, and a budget is
filled rather than minimised. Where the published code fails or decides by accident, this one decides on purpose.

Reference: Marchisio et al., "Q-CapsNets: A Specialized Framework for Quantizing Capsule Networks", 2020, and the code
``bbussolino/Q-CapsNets``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from qcaps.config.sizes import format_size
from qcaps.errors import InfeasibleError
from qcaps.quantization.formats import Float32
from qcaps.quantization.search.groups import Widths
from qcaps.quantization.search.sequential import Allowed, Block, Evaluator, SequentialResult, StageRecord

# Widths of the paper count N fraction bits and start at 32; with the sign that is n = N + 1 bits in all.
LARGEST_N = 32
# Depths of the decreasing offsets of stage 2, tried in this order.
DEPTHS = (5, 4, 3, 2, 1)
# Shares of the tolerance: what stage 1 must stay below, and what stage 3A may spend of what stage 2 leaves.
UNIFORM_SHARE = Fraction(1, 20)
ACTIVATION_SHARE = Fraction(11, 20)


def search_qcapsnets(
    blocks: Sequence[Block],
    allowed: Allowed,
    evaluator: Evaluator,
    *,
    allowance: Fraction,
    budget_bytes: int | None = None,
) -> SequentialResult:
    """Search bit widths as Q-CapsNets does.

    Parameters
    ----------
    blocks
        First to last.
    allowed
        Of every site; plans have the same keys.
    evaluator
        Answers for the plans.
    allowance
        T, the net losses that are tolerated, in images; 0 or more, rarely whole.
    budget_bytes
        None for no budget: the weights then become as small as the tolerance lets them.

    Raises
    ------
    InfeasibleError
        If no weights are within the budget; nothing was tested.

    Notes
    -----
    An accuracy above a threshold of t lost images is a net loss of at most ⌈t⌉ − 1, one not below it of at most ⌊t⌋.
    """
    task = _Task(blocks, allowed, evaluator, allowance)
    if budget_bytes is None:
        uniform = _layer_uniform(task)
        accurate = _smaller_weights(task, uniform)
        satisfied, nearest = (accurate.widths, None) if accurate.passed else (None, accurate.widths)
        return SequentialResult(satisfied, None, nearest, "B", (uniform, accurate))
    weights = stage2_widths(blocks, allowed, evaluator.weight_bytes, budget_bytes)
    uniform = _layer_uniform(task)
    plan = {**uniform.widths, **weights}
    losses = evaluator.net_losses(plan)
    memory = StageRecord("2 memory", plan, (plan,), passed=losses < allowance)
    if memory.passed:
        activations = _smaller_activations(task, memory, losses)
        routing = _smaller_routing(task, activations)
        return SequentialResult(routing.widths, None, None, "A", (uniform, memory, activations, routing))
    accurate = _smaller_weights(task, uniform)
    stages = (uniform, memory, accurate)
    if accurate.passed and evaluator.weight_bytes({site: accurate.widths[site] for site in weights}) <= budget_bytes:
        return SequentialResult(accurate.widths, None, None, "B", stages)
    if losses <= allowance:  # it spends the whole tolerance, and no more
        return SequentialResult(memory.widths, None, None, "B", stages)
    return SequentialResult(None, memory.widths, accurate.widths, "B", stages)


def stage2_widths(
    blocks: Sequence[Block], allowed: Allowed, weight_bytes: Callable[[Widths], int], budget_bytes: int
) -> Widths:
    """Fill the budget with weights whose widths fall by fixed offsets from block to block.

    Parameters
    ----------
    blocks, allowed
        As for :func:`search_qcapsnets`.
    weight_bytes
        What the budget limits.
    budget_bytes
        The budget.

    Returns
    -------
    Widths
        Of all weights. They fall by one bit from block to block, four times at most; less often where the last width
        would otherwise be below the smallest.

    Raises
    ------
    InfeasibleError
        If even the smallest widths are too large.
    """
    moves = [block.weights for block in blocks if block.weights]
    smallest = min((allowed[site][0] for sites in moves for site in sites), default=1)
    for depth in DEPTHS:
        deepest = min(depth, len(moves)) - 1
        for bits in range(LARGEST_N + 1, smallest + deepest - 1, -1):
            plan = {
                site: width_at(allowed[site], bits - min(place, deepest))
                for place, sites in enumerate(moves)
                for site in sites
            }
            if weight_bytes(plan) <= budget_bytes:
                return plan
    least = weight_bytes({site: allowed[site][0] for sites in moves for site in sites})
    raise InfeasibleError(
        f"memory budget {format_size(budget_bytes)} is below the minimum of {format_size(least)}",
        where="--memory-budget",
        do="raise it, allow smaller widths, or prune first",
    )


def width_at(allowed: Sequence[int], bits: int) -> int:
    """Give the width that a site takes where the algorithm says `bits`.

    Above all widths it can pack that is float32, if allowed; else the largest allowed one that is not wider, or the
    smallest there is.
    """
    packed = [width for width in allowed if width < Float32.bits]
    if not packed or bits > packed[-1]:
        return allowed[-1]
    return max((width for width in packed if width <= bits), default=packed[0])


@dataclass(frozen=True)
class _Task:
    """What is searched; see :func:`search_qcapsnets`."""

    blocks: Sequence[Block]
    allowed: Allowed
    evaluator: Evaluator
    allowance: Fraction


def _layer_uniform(task: _Task) -> StageRecord:
    """Stage 1: halve the step from test to test; the last plan that passed counts, or the widest if none did."""
    most_losses = math.ceil(UNIFORM_SHARE * task.allowance) - 1
    tested: list[Widths] = []
    passing: Widths | None = None
    n = LARGEST_N
    for step in (16, 8, 4, 2, 1, 0):
        plan = {site: width_at(widths, n + 1) for site, widths in task.allowed.items()}
        tested.append(plan)
        passed = task.evaluator.passes(plan, most_losses)
        if passed:
            passing = plan
        n += -step if passed or n == LARGEST_N else step
    return StageRecord("1 layer-uniform", passing or tested[0], tuple(tested), passed=passing is not None)


def _smaller_activations(task: _Task, memory: StageRecord, losses: int) -> StageRecord:
    """Stage 3A: activations, and with them the routing of their block; `losses` are those of stage 2."""
    moves = [block.activations + block.routing for block in task.blocks]
    most_losses = math.floor(losses + ACTIVATION_SHARE * (task.allowance - losses))
    return _lowered(task, "3A activations", memory.widths, moves, most_losses)


def _smaller_routing(task: _Task, activations: StageRecord) -> StageRecord:
    """Stage 4A: the routing of more than one pass."""
    moves = [block.routing for block in task.blocks if block.iterated]
    return _lowered(task, "4A routing", activations.widths, moves, math.floor(task.allowance))


def _smaller_weights(task: _Task, uniform: StageRecord) -> StageRecord:
    """Stage 3B: weights."""
    moves = [block.weights for block in task.blocks]
    return _lowered(task, "3B weights", uniform.widths, moves, math.floor(task.allowance))


def _lowered(task: _Task, name: str, start: Widths, moves: Sequence[Sequence[str]], most_losses: int) -> StageRecord:
    """Lower all of a suffix of `moves` to the next width while that passes, for ever shorter suffixes."""
    tested: list[Widths] = []

    def passes(plan: Widths) -> bool:
        tested.append(plan)
        return task.evaluator.passes(plan, most_losses)

    kept = start
    free = [sites for sites in moves if any(len(task.allowed[site]) > 1 for site in sites)]
    for place in range(len(free)):
        suffix = {site for sites in free[place:] for site in sites}
        plan = kept
        while passes(plan):
            kept = plan
            plan = {s: _below(task.allowed[s], bits) if s in suffix else bits for s, bits in kept.items()}
            if plan == kept:
                break
    passed = passes(kept)
    return StageRecord(name, kept, tuple(tested), passed)


def _below(allowed: Sequence[int], bits: int) -> int:
    """Give the next smaller width, or the same one if there is none."""
    return max((width for width in allowed if width < bits), default=bits)
