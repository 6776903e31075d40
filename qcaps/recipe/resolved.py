"""A recipe spelled out: no imports, every default, the same run; and the key that names it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import torch
import yaml

import qcaps
from qcaps.artifacts.bundled import find_checkpoint
from qcaps.artifacts.journal import content_key
from qcaps.config import configure, shell_name
from qcaps.errors import UsageError
from qcaps.recipe.matrix import MATRIX
from qcaps.recipe.schema import NOT_IN_STEPS, PROMISES, SCHEMA, VERBS, Recipe, StepPlan

# Options in bytes, whose bare number would mean megabytes.
SIZES = {"memory_budget", "activation_budget", "cache_memory"}
# Options that pair a pattern with a number.
PAIRS = {"pin", "cap", "at-least", "at_least"}


def resolved(recipe: Recipe, matrix: Mapping[str, object]) -> str:
    """Spell out a recipe with every default; promises stay in one place where all steps agree on them."""
    steps = [{"step": step.verb, "name": step.name, **spelled_out(step)} for step in recipe.steps]
    top: dict[str, object] = {"schema": SCHEMA, "description": recipe.description}
    if recipe.checkpoint:
        top["model"] = {"checkpoint": recipe.checkpoint}
    top["steps"] = steps
    if promises := _common_promises(steps):
        top["promises"] = promises
        for step in steps:
            for name in promises:
                step.pop(name, None)
    if matrix:
        top[MATRIX] = dict(matrix)
    return yaml.safe_dump(top, sort_keys=False, allow_unicode=True, width=100)


def spelled_out(step: StepPlan) -> dict[str, object]:
    """Give every option of a step that a recipe may say, as YAML says it; what has no value is left out."""
    config = configure(VERBS[step.verb], step.options)
    names = (f.name for f in dataclasses.fields(config) if f.name not in NOT_IN_STEPS)
    values = {name: getattr(config, name) for name in names}
    return {shell_name(name): _plain(name, value) for name, value in values.items() if value is not None}


def recipe_key(text: str, recipe: Recipe) -> str:
    """Name a recipe by its content, and by that of the files it begins with: the key of a cache."""
    files = [recipe.checkpoint, *(step.options.get(key) for step in recipe.steps for key in ("strategy", "init"))]
    return content_key(text, [file_sha256(file) for file in files if file is not None], *versions())


def versions() -> tuple[str, str]:
    """Give the versions that results depend on."""
    return qcaps.__version__, torch.__version__


def file_sha256(file: object) -> str:
    """Identify a file by its content; one that is missing is refused by the step that wants it."""
    path = Path(str(file))
    if not os.path.isfile(path):
        try:
            path = find_checkpoint(path)
        except UsageError:
            return ""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _common_promises(steps: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Give the promises of all steps that make any, if they are the same ones."""
    made = [{name: step[name] for name in PROMISES if name in step} for step in steps if step["step"] == "quantize"]
    return made[0] if made and all(one == made[0] for one in made) else {}


def _plain(name: str, value: object) -> object:
    """Turn the value of an option into what YAML and JSON can say."""
    if isinstance(value, Decimal | Path):
        return str(value)
    if name in SIZES and isinstance(value, int):
        return f"{value}B"
    if name in PAIRS and isinstance(value, tuple):
        return [f"{pattern}={number}" for pattern, number in value]
    return list(value) if isinstance(value, tuple) else value
