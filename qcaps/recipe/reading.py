"""From a name and changes on the command line to recipes that are checked, every problem told at once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qcaps.errors import Problem, RecipeError
from qcaps.recipe.imports import with_imports
from qcaps.recipe.lookup import find_recipe
from qcaps.recipe.matrix import MATRIX, variants
from qcaps.recipe.overrides import override
from qcaps.recipe.schema import Recipe, check_recipe
from qcaps.recipe.yaml_reader import Node, plain, read_with_problems

# Options that name a file, which may lie beside the recipe.
FILE_OPTIONS = ("strategy", "init", "decoder-from")


@dataclass(frozen=True)
class ReadRecipe:
    """What is to be run.

    Parameters
    ----------
    name
        Of the recipe.
    base
        Without its matrix.
    matrix
        Path → values, as typed; empty for none.
    variants
        Name of the folder → recipe; only nothing → `base` without a matrix.
    """

    name: str
    base: Recipe
    matrix: dict[str, object]
    variants: dict[str, Recipe]


def read_recipe(recipe: str, changes: Sequence[str]) -> ReadRecipe:
    """Read, merge, change and check.

    Raises
    ------
    RecipeError
        With all that is wrong with it.
    UsageError
        If there is no such recipe, or a change names nothing in it.
    """
    name, path = find_recipe(recipe)
    root, problems = read_with_problems(path.read_bytes(), source=name)
    root = override(with_imports(root, path, problems), tuple(changes))
    expanded = variants(root, problems)
    checked: dict[str, Recipe] = {}
    for variant in expanded:
        try:
            checked[variant.name] = _beside(path, check_recipe(variant.root, source=name))
        except RecipeError as error:
            problems.extend(problem for problem in error.problems if problem not in problems)
    if problems:
        raise RecipeError(_each_once(problems), source=name)
    matrix = root.value.get(MATRIX) if isinstance(root.value, dict) else None
    told = plain(matrix) if isinstance(matrix, Node) else {}
    base = _beside(path, check_recipe(root, source=name))
    return ReadRecipe(name, base, told if isinstance(told, dict) else {}, checked)


def _each_once(problems: Sequence[Problem]) -> list[Problem]:
    return list(dict.fromkeys(problems))


def _beside(path: Path, checked: Recipe) -> Recipe:
    """Take the checkpoint and the strategies that lie beside a recipe."""
    steps = tuple(
        dataclasses.replace(step, options={**step.options, **_found(path, step.options)}) for step in checked.steps
    )
    checkpoint = None if checked.checkpoint is None else _file(path, checked.checkpoint)
    return dataclasses.replace(checked, checkpoint=checkpoint, steps=steps)


def _found(path: Path, options: object) -> dict[str, str]:
    """Find the files among the options of a step."""
    given = options if isinstance(options, dict) else {}
    return {key: _file(path, str(given[key])) for key in FILE_OPTIONS if given.get(key) is not None}


def _file(recipe: Path, name: str) -> str:
    """Take the file that lies beside a recipe, else leave the name."""
    return str((recipe.parent / name).resolve()) if os.path.isfile(recipe.parent / name) else name
