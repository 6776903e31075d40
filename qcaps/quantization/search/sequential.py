"""What the sequential algorithm of Q-CapsNets works on, and what it tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from qcaps.capsules.sites import group_of
from qcaps.quantization.search.groups import Widths

# Site → the widths it may have, ascending; one width: pinned; 32, float32, comes last where it is allowed.
Allowed = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Block:
    """Sites of one top-level stage by their Q-CapsNets group; the sites of a group move together.

    Parameters
    ----------
    weights, activations, routing
        May be empty.
    iterated
        Whether the routing has more than one pass; only then stage 4A moves it.
    """

    weights: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    routing: tuple[str, ...] = ()
    iterated: bool = False


class Evaluator(Protocol):
    """What the search asks; a repeated question may be answered from memory, and always in the same way."""

    def passes(self, widths: Widths, most_losses: int) -> bool:
        """Tell whether lost − gained over the whole search split is at most a number, which may be negative."""

    def net_losses(self, widths: Widths) -> int:
        """Give lost − gained over the whole search split."""

    def weight_bytes(self, weights: Widths) -> int:
        """Give what the budget limits, in bytes; `weights` holds the sites of weights alone."""


@dataclass(frozen=True)
class StageRecord:
    """One stage of the search.

    Parameters
    ----------
    name
        ``1 layer-uniform``, ``2 memory``, ``3A activations``, ``4A routing`` or ``3B weights``.
    widths
        The plan it chose.
    tested
        Every plan it tested, in order, repeats included.
    passed
        Whether the chosen plan met the threshold of the stage; of stage 2, whether it left some of the tolerance.
    """

    name: str
    widths: Widths
    tested: tuple[Widths, ...]
    passed: bool


@dataclass(frozen=True)
class SequentialResult:
    """What the search found, under the names of Q-CapsNets' files.

    Parameters
    ----------
    satisfied
        Meets both promises; None if neither path found such a plan.
    memory, accuracy
        Only where `satisfied` is None: the plan that fills the budget, None without one; and the plan that holds the
        tolerance, or comes nearest to it.
    path
        ``A``: the budget left some of the tolerance, which activations and routing spend. ``B``: it did not.
    stages
        In order.
    """

    satisfied: Widths | None
    memory: Widths | None
    accuracy: Widths | None
    path: Literal["A", "B"]
    stages: tuple[StageRecord, ...]

    @property
    def tests(self) -> int:
        """Count the evaluations of the whole split that the algorithm makes if it remembers nothing."""
        return sum(len(stage.tested) for stage in self.stages)

    @property
    def repeats(self) -> int:
        """Count the tests of a plan that was tested before."""
        return self.tests - len({frozenset(plan.items()) for stage in self.stages for plan in stage.tested})

    @property
    def notes(self) -> tuple[str, ...]:
        """Tell every fallback, in one line each."""
        found = []
        if not self.stages[0].passed:
            found.append("no common width stays below a twentieth of the tolerance; stage 1 takes the widest")
        if not self.stages[-1].passed:
            found.append("not even the widest plan holds the tolerance")
        return tuple(found)


def blocks_of(stages: Iterable[str], sites: Iterable[str]) -> tuple[Block, ...]:
    """Sort sites into blocks, by their names.

    Parameters
    ----------
    stages
        Names of the top-level stages, in order.
    sites
        Full site names, in any order.
    """
    sites = tuple(sites)
    found = []
    for stage in stages:
        own = {site: group_of(site) for site in sites if site.split(".", 1)[0] == stage}
        weights, activations, routing = (
            tuple(site for site, group in own.items() if group == kind)
            for kind in ("weights", "activations", "routing")
        )
        found.append(Block(weights, activations, routing, iterated=any(site.endswith("@2") for site in routing)))
    return tuple(found)
