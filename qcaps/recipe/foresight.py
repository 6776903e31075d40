"""What can be known of a recipe before any computing: names that match nothing, hopeless budgets, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qcaps.artifacts.bundled import find_checkpoint
from qcaps.artifacts.checkpoint import Checkpoint, read_checkpoint
from qcaps.config import EvaluateConfig, PruneConfig, QuantizeConfig, RunConfig, TrainConfig, configure
from qcaps.data.spec import DataSpec
from qcaps.errors import Problem, RecipeError, UsageError
from qcaps.evaluation.cost_model import cost_model
from qcaps.models.network import array_sites, weight_sites
from qcaps.models.spec import ModelSpec, build, image_of, initialised
from qcaps.pruning.strategy import width_rules
from qcaps.pruning.targets import check_reachable
from qcaps.quantization.search.groups import allowed_widths
from qcaps.recipe.costs import Images, count_images, image_forwards, seconds_per_image
from qcaps.recipe.schema import VERBS, Recipe, StepConfig, StepPlan
from qcaps.training.beginning import stages_to_freeze
from qcaps.verbs.chosen_data import chosen_data
from qcaps.verbs.prune_job import planned
from qcaps.verbs.quantize_job import make_job
from qcaps.verbs.train import training_data, training_spec

COUNTER = "num_batches_tracked"


@dataclass(frozen=True, eq=False)
class Standing:
    """A step, and what is known of the network it works on.

    Parameters
    ----------
    step, config
        What it is.
    spec, data
        The network that it trains, prunes, quantizes or scores, and its images.
    known
        The checkpoint itself, where no step before changes it.
    cut
        Whether a step before prunes it to widths that nobody knows yet.
    """

    step: StepPlan
    config: StepConfig
    spec: ModelSpec
    data: DataSpec
    known: Checkpoint | None
    cut: bool


@dataclass(frozen=True)
class Cost:
    """What a step is predicted to cost; None where its images are missing or it has no network yet.

    Parameters
    ----------
    step
        Its name, behind that of its variant.
    image_forwards
        At most, see :func:`~qcaps.recipe.costs.image_forwards`.
    seconds
        Those times what one image takes in one timed batch of the float network.
    """

    step: str
    image_forwards: int | None
    seconds: float | None


def check_names(recipes: Iterable[Recipe], *, source: str, data_dir: Path | None) -> None:
    """Refuse names and patterns that match no stage, no site or no unit of the network they are meant for.

    Raises
    ------
    RecipeError
        With all of them.
    UsageError, ArtifactError
        If the checkpoint is missing or unreadable.
    """
    problems: list[Problem] = []
    for recipe in recipes:
        problems += _walk_problems(recipe, data_dir)
    if problems:
        raise RecipeError(dict.fromkeys(problems), source=source)


def check_promises(recipe: Recipe, data_dir: Path | None) -> None:
    """Refuse targets and budgets that arithmetic alone rules out.

    Raises
    ------
    InfeasibleError
        The first of them.
    """
    for standing in _standings(recipe, data_dir):
        config = standing.config
        if isinstance(config, PruneConfig) and not standing.cut and config.strategy is None:
            _, budgets, rules = planned(config, cost_model(standing.spec, config.counting))
            check_reachable(budgets, rules)
        limited = isinstance(config, QuantizeConfig) and (config.memory_budget or config.activation_budget)
        if isinstance(config, QuantizeConfig) and limited and not standing.cut:
            make_job(standing.known or _untrained(standing), standing.data, config)


def predicted_costs(recipes: Mapping[str, Recipe], config: RunConfig) -> list[Cost]:
    """Predict what every step costs; steps that several variants begin with are named once."""
    images: dict[DataSpec, Images | None] = {}
    speeds: dict[ModelSpec, float] = {}
    found: dict[str, Cost] = {}
    plans: dict[str, StepPlan] = {}
    for variant, recipe in recipes.items():
        for standing in _standings(recipe, config.data_dir):
            name = standing.step.name
            if plans.setdefault(name, standing.step) != standing.step:
                name = f"{variant}/{name}"
            if name in found:
                continue
            if standing.data not in images:
                images[standing.data] = count_images(standing.data, config.data_dir)
            if standing.spec not in speeds:
                speeds[standing.spec] = seconds_per_image(standing.spec)
            known = images[standing.data]
            forwards = None if known is None else image_forwards(standing.config, known, sites=_site_count(standing))
            seconds = None if forwards is None else forwards * speeds[standing.spec]
            found[name] = Cost(name, forwards, seconds)
    return list(found.values())


def cost_lines(costs: Iterable[Cost]) -> list[str]:
    """Tell people what a recipe will cost."""
    return [
        f"{cost.step}: "
        + (
            "its images are missing, so that its cost is not known"
            if cost.image_forwards is None or cost.seconds is None
            else f"at most {cost.image_forwards:,} image-forwards, some {cost.seconds:,.0f} s by one timed batch"
        )
        for cost in costs
    ]


def _standings(recipe: Recipe, data_dir: Path | None) -> Iterator[Standing]:
    """Follow the network from step to step; a recipe that only scores what there is has nothing to foresee."""
    if all(step.verb == "eval" for step in recipe.steps):
        return
    known = None
    if recipe.checkpoint or recipe.steps[0].verb != "train":
        known, _ = read_checkpoint(find_checkpoint(Path(recipe.checkpoint) if recipe.checkpoint else None))
    spec, data, cut = (None, None, False) if known is None else (known.model, known.data, False)
    for step in recipe.steps:
        config = configure(VERBS[step.verb], step.options)
        if isinstance(config, TrainConfig):
            start = spec if config.init is None else read_checkpoint(find_checkpoint(config.init))[0].model
            data = training_data(config)
            spec, known, cut = training_spec(config, data, start), None, cut and config.init is None
        elif known is not None and not isinstance(config, EvaluateConfig):
            data = chosen_data(known, config.dataset, data_dir=data_dir, where=recipe.checkpoint or "")
        if spec is None or data is None:
            return
        yield Standing(step, config, spec, data, known, cut)
        if isinstance(config, PruneConfig):
            known, cut = None, True


def _walk_problems(recipe: Recipe, data_dir: Path | None) -> Iterator[Problem]:
    """Find names that match nothing; what is wrong with a step itself ends the walk there."""
    walk = _standings(recipe, data_dir)
    for step in recipe.steps:
        try:
            standing = next(walk, None)
        except UsageError as error:
            if step.verb != "train":
                raise
            option = "model-arg" if error.where == "--model-arg" else ""
            yield step.problem(option, f"{error.what}{'; ' + error.do if error.do else ''}")
            return
        if standing is not None:
            yield from _name_problems(standing)


def _name_problems(standing: Standing) -> Iterator[Problem]:
    config, spec = standing.config, standing.spec
    checks: list[tuple[str, Callable[[], object]]] = []
    network = build(spec)
    if isinstance(config, TrainConfig):
        checks = [("freeze", partial(stages_to_freeze, network, [name])) for name in config.freeze]
    elif isinstance(config, PruneConfig):
        counts = {unit.name: unit.count for unit in network.units}
        named = [("only", p) for p in config.only] + [("skip", p) for p in config.skip]
        named += [("cap", p) for p, _ in config.cap] + [("at-least", p) for p, _ in config.at_least]
        checks = [(option, partial(width_rules, counts, caps={pattern: 0.0})) for option, pattern in named]
    elif isinstance(config, QuantizeConfig):
        sites = _sites(spec)
        checks = [("pin", partial(allowed_widths, sites, (8,), only=(), pins=[pin])) for pin in config.pin]
    for option, check in checks:
        try:
            check()
        except UsageError as error:
            yield standing.step.problem(option, f"{error.what}; {error.do}")


def _sites(spec: ModelSpec) -> tuple[str, ...]:
    blank = build(spec.folded())
    return (*weight_sites(blank), *array_sites(blank, image_of(spec)))


def _site_count(standing: Standing) -> int:
    return len(_sites(standing.spec)) if isinstance(standing.config, QuantizeConfig) else 0


def _untrained(standing: Standing) -> Checkpoint:
    """Make a checkpoint of the same size as that which is yet to be trained."""
    tensors = initialised(standing.spec, 0).state_dict()
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}
    return Checkpoint(standing.spec, kept, standing.data, {})
