"""What a recipe may say: checked against the config classes, all problems at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qcaps.config import EvaluateConfig, PruneConfig, QuantizeConfig, TrainConfig, configure, shell_name
from qcaps.errors import Problem, RecipeError, UsageError, quoted
from qcaps.recipe.yaml_reader import Node, plain
from qcaps.registry import near_matches

SCHEMA = "qcaps.recipe/1"
StepConfig = TrainConfig | PruneConfig | QuantizeConfig | EvaluateConfig
VERBS: Mapping[str, type[StepConfig]] = {
    "train": TrainConfig,
    "prune": PruneConfig,
    "quantize": QuantizeConfig,
    "eval": EvaluateConfig,
}
KEYS = ("schema", "description", "imports", "seed", "model", "steps", "promises", "matrix")
# Set by the runner for the whole recipe, never in a step; and each step takes the one checkpoint of the step before.
NOT_IN_STEPS = {"out", "fresh", "threads", "data_dir", "reproducible", "runs"}
PROMISES = ("accuracy-tolerance", "tolerance-kind", "memory-budget", "budget-on")


@dataclass(frozen=True)
class StepPlan:
    """One step: the verb, a name of its own, the options given, as typed, and where they stand.

    Parameters
    ----------
    places
        Option → its node; beside them the step itself, under nothing.
    path
        Where the step is in the recipe.
    """

    verb: str
    name: str
    options: Mapping[str, object]
    places: Mapping[str, Node] = field(default_factory=dict, compare=False)
    path: str = field(default="", compare=False)

    def problem(self, option: str, message: str) -> Problem:
        """Say what is wrong with an option, at its line."""
        node = self.places.get(option) or self.places[""]
        return Problem(node.line, f"{self.path}.{option}" if option else self.path, message, node.source)


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Parameters
    ----------
    description
        What it is for.
    checkpoint
        Where the steps start from, a file or the name of a shipped one; None if the first step trains.
    steps
        In order, each with distinct name; seed and promises are already among their options.
    """

    description: str
    checkpoint: str | None
    steps: tuple[StepPlan, ...]


def check_recipe(root: Node, *, source: str, problems: Sequence[Problem] = ()) -> Recipe:
    """Check a recipe.

    Parameters
    ----------
    root, source
        The recipe, and what it is called in the error.
    problems
        What is already known to be wrong with it.

    Raises
    ------
    RecipeError
        With every problem: unknown keys (near matches shown), values that do not fit, steps without a verb or
        with the name of another.
    """
    checker = _Checker()
    recipe = checker.recipe(root)
    if problems or checker.problems or recipe is None:
        raise RecipeError([*problems, *checker.problems], source=source)
    return recipe


class _Checker:
    """Collects the problems of one recipe."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def recipe(self, root: Node) -> Recipe | None:
        if not isinstance(root.value, dict):
            self._note(root, "", "a recipe is a mapping with the keys " + ", ".join(KEYS))
            return None
        top = root.value
        self._known_keys(top, KEYS, "")
        if "schema" not in top or top["schema"].value != SCHEMA:
            self._note(top.get("schema", root), "schema", f"must be {SCHEMA}")
        common = self._common(top)
        steps = self._steps(top.get("steps", root), common)
        if "promises" in top and not self.problems and not any(step.verb == "quantize" for step in steps):
            self._note(top["promises"], "promises", "no step keeps them; add a quantize step")
        description = top["description"].value if "description" in top else ""
        return Recipe(str(description), self._checkpoint(top), tuple(steps))

    def _common(self, top: dict[str, Node]) -> dict[str, Node]:
        """Give what holds for all steps that know it: the seed and the promises."""
        common = {"seed": top["seed"]} if "seed" in top else {}
        promises = top.get("promises")
        if promises is None:
            return common
        if not isinstance(promises.value, dict):
            self._note(promises, "promises", "must be a mapping")
            return common
        self._known_keys(promises.value, PROMISES, "promises.")
        return common | {key: node for key, node in promises.value.items() if key in PROMISES}

    def _checkpoint(self, top: dict[str, Node]) -> str | None:
        model = top.get("model")
        if model is None:
            return None
        if not isinstance(model.value, dict) or set(model.value) != {"checkpoint"}:
            self._note(model, "model", "must be a mapping with the one key checkpoint")
            return None
        return str(model.value["checkpoint"].value)

    def _steps(self, node: Node, common: dict[str, Node]) -> list[StepPlan]:
        if not isinstance(node.value, list) or not node.value:
            self._note(node, "steps", "must be a list of at least one step")
            return []
        found: list[StepPlan] = []
        for index, step in enumerate(node.value):
            made = self._step(step, f"steps[{index}]", common)
            if made and made.name in {other.name for other in found}:
                self._note(step, f"steps[{index}]", f"two steps are called {quoted(made.name)}; give one a name")
            if made:
                found.append(made)
        return found

    def _step(self, node: Node, path: str, common: dict[str, Node]) -> StepPlan | None:
        if not isinstance(node.value, dict) or "step" not in node.value:
            self._note(node, path, f"must be a mapping with the key step: {', '.join(VERBS)}")
            return None
        verb = str(node.value["step"].value)
        if verb not in VERBS:
            close = near_matches(verb, tuple(VERBS))
            self._note(
                node.value["step"],
                f"{path}.step",
                f"unknown step {quoted(verb)}; {close}steps are {', '.join(VERBS)}",
            )
            return None
        config = VERBS[verb]
        known = tuple(shell_name(f.name) for f in dataclasses.fields(config) if f.name not in NOT_IN_STEPS)
        self._known_keys(node.value, (*known, "step", "name"), f"{path}.")
        given = {k: v for k, v in {**common, **node.value}.items() if k in known}
        for key, value in given.items():
            try:
                configure(config, {key: plain(value)})
            except UsageError as error:
                self._note(value, f"{path}.{key}", f"{error.what}{'; ' + error.do if error.do else ''}")
        name = str(node.value["name"].value) if "name" in node.value else verb
        if not name.replace("-", "").replace("_", "").isalnum():
            self._note(node, f"{path}.name", "must be letters, digits, - and _")
        return StepPlan(verb, name, {k: plain(v) for k, v in given.items()}, {**given, "": node}, path)

    def _known_keys(self, mapping: dict[str, Node], known: tuple[str, ...], path: str) -> None:
        for key, node in mapping.items():
            if key not in known:
                close = near_matches(key, known)
                self._note(node, f"{path}{key}", f"unknown key; {close}known are {', '.join(known)}")

    def _note(self, node: Node, path: str, message: str) -> None:
        self.problems.append(Problem(node.line, path, message, node.source))
