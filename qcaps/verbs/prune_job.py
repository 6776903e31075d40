"""What ``qcaps prune`` is asked for: targets, and how far units may be cut; refused at once if hopeless."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from qcaps.artifacts.checkpoint import Checkpoint, read_checkpoint
from qcaps.config import PruneConfig
from qcaps.data.spec import DataSpec
from qcaps.errors import UsageError
from qcaps.evaluation.cost_model import CostModel, cost_model
from qcaps.pruning.drawing import usual_cap
from qcaps.pruning.finetuning import recipe_of
from qcaps.pruning.strategy import WidthRules, Widths, checked_widths, width_rules
from qcaps.pruning.targets import Budget, Target, TargetKind, budget, check_reachable, cut_names
from qcaps.verbs.chain import First, first_of
from qcaps.verbs.chosen_data import chosen_data

LARGEST_STRATEGY_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class Job:
    """What is asked of which network.

    Parameters
    ----------
    source, file, sha256
        The network, and the name and the hash of its checkpoint.
    first
        Checkpoint that its chain began with; None if it is that itself.
    data
        The images to prune and to report on.
    config
        What is asked.
    costs, rules
        Of the network before it is cut, and how far its units may be.
    targets
        What is to be kept.
    budgets
        What has to hold for that; a latency, which has to be measured first, is not among them.
    given
        Strategies that were written down; without a target nothing else is tried.
    """

    source: Checkpoint
    file: str
    sha256: str
    first: First | None
    data: DataSpec
    config: PruneConfig
    costs: CostModel
    rules: WidthRules
    targets: tuple[Target, ...]
    budgets: tuple[Budget, ...]
    given: tuple[Widths, ...]

    @property
    def kept_shares(self) -> dict[str, float]:
        """List the targets by their kinds."""
        return {target.kind: target.kept for target in self.targets}


def make_job(path: Path, config: PruneConfig) -> Job:
    """Understand what is asked, and refuse what cannot be.

    Raises
    ------
    UsageError
        If nothing says how small, a pattern matches no unit, or the images do not fit.
    ArtifactError
        If the checkpoint is unreadable.
    InfeasibleError
        If a target is below what the narrowest network costs.
    """
    source, sha256 = read_checkpoint(path)
    first = first_of(source.record, where=str(path))
    recipe_of(source.record)  # refuses a record that makes no sense
    data = chosen_data(source, config.dataset, data_dir=config.data_dir, where=str(path))
    costs = cost_model(source.model, config.counting)
    given = () if config.strategy is None else (read_strategy(config.strategy, costs),)
    targets, budgets, rules = planned(config, costs)
    if not targets and not given:
        raise UsageError("nothing says how small the network should be", do="name a target, --flops 0.5 for example")
    check_reachable(budgets, rules)
    return Job(source, path.name, sha256, first, data, config, costs, rules, targets, budgets, given)


def planned(config: PruneConfig, costs: CostModel) -> tuple[tuple[Target, ...], tuple[Budget, ...], WidthRules]:
    """Give what is to be kept, what has to hold for that but for a latency, and how far units may be cut."""
    asked: dict[TargetKind, float | None] = {
        "flops": config.flops,
        "params": config.params,
        "latency": config.latency,
        "capsules": config.capsules,
    }
    targets = tuple(Target(kind, kept) for kind, kept in asked.items() if kept is not None)
    budgets = tuple(budget(target, costs) for target in targets if target.kind != "latency")
    names = cut_names(budgets, costs) if config.latency is None else tuple(costs.units)
    return targets, budgets, _rules(config, costs, names, usual_cap(min((t.kept for t in targets), default=1.0)))


def read_strategy(path: Path, costs: CostModel) -> Widths:
    """Read a strategy that was written down: a width for every unit by name, or a list of all in their order.

    Raises
    ------
    UsageError
        If the file is unreadable or says something else.
    """
    where = str(path)
    try:
        with path.open("rb") as stream:
            told = json.loads(stream.read(LARGEST_STRATEGY_BYTES))
    except OSError as error:
        raise UsageError(f"the strategy cannot be read: {error.strerror}", where=where) from error
    except (ValueError, RecursionError) as error:
        raise UsageError("the strategy is no JSON", where=where) from error
    if isinstance(told, list) and len(told) == len(costs.units):
        told = dict(zip(costs.units, told, strict=True))
    if not isinstance(told, dict):
        raise UsageError(
            "the strategy is neither a mapping of units nor a list of all their widths",
            where=where,
            do=f"the network has {len(costs.units)} kinds of unit; `qcaps inspect --units` lists them",
        )
    try:
        return checked_widths(told, costs.units)
    except UsageError as error:
        raise UsageError(error.what, where=where, do=error.do) from error


def _rules(config: PruneConfig, costs: CostModel, names: Sequence[str], usual: float) -> WidthRules:
    """Say how far the units that change a cost may be cut; the others stay whole."""
    patterns = (*config.only, *config.skip, *(pattern for pattern, _ in config.cap))
    width_rules(costs.units, caps=dict.fromkeys(patterns, 0.0))  # refuses patterns that match nothing
    wanted = [name for name in names if not config.only or _matches(name, config.only)]
    caps = {
        name: next((share for pattern, share in reversed(config.cap) if fnmatchcase(name, pattern)), usual)
        for name in wanted
        if not _matches(name, config.skip)
    }
    return width_rules(costs.units, caps=caps, least=dict(config.at_least), round_to=config.round_to)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
