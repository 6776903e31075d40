"""A matrix: one recipe under several tolerances, budgets, roundings or whatever else it says."""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass

from qcaps.errors import Problem, UsageError, quoted
from qcaps.recipe.overrides import set_value
from qcaps.recipe.yaml_reader import Node

MATRIX = "matrix"
MOST_VARIANTS = 100


@dataclass(frozen=True)
class Variant:
    """One choice of values: what its folder is called, nothing for a recipe without a matrix; and the recipe."""

    name: str
    root: Node


def variants(root: Node, problems: list[Problem]) -> list[Variant]:
    """Make a recipe for every choice of values, the first key changing slowest.

    Parameters
    ----------
    root
        The recipe; its matrix maps the paths that overrides have to lists of values.
    problems
        What is wrong with the matrix is added.
    """
    if not isinstance(root.value, dict) or MATRIX not in root.value:
        return [Variant("", root)]
    matrix = root.value[MATRIX]
    axes = _axes(matrix, problems)
    if not axes:
        return [Variant("", root)]
    short = [path.rpartition(".")[2] for path in axes]
    shown = short if len(set(short)) == len(short) else list(axes)
    found: dict[str, Variant] = {}
    for values in itertools.product(*axes.values()):
        name = ",".join(f"{key}={_text(value)}" for key, value in zip(shown, values, strict=True))
        if name in found:
            problems.append(Problem(matrix.line, MATRIX, f"two variants would be called {quoted(name)}", matrix.source))
        changed = _copied(root)
        for path, value in zip(axes, values, strict=True):
            _set(changed, path, value, problems)
        found[name] = Variant(name, changed)
    return list(found.values())


def _axes(matrix: Node, problems: list[Problem]) -> dict[str, list[Node]]:
    """Give the values of every path."""

    def wrong(node: Node, path: str, message: str) -> dict[str, list[Node]]:
        problems.append(Problem(node.line, path, message, node.source))
        return {}

    if not isinstance(matrix.value, dict) or not matrix.value:
        return wrong(matrix, MATRIX, "must map paths such as quantize.rounding to lists of values")
    axes: dict[str, list[Node]] = {}
    for path, node in matrix.value.items():
        if not isinstance(node.value, list) or not node.value:
            return wrong(node, f"{MATRIX}.{path}", "must be a list of values")
        axes[path] = node.value
    count = 1
    for values in axes.values():
        count *= len(values)
    return wrong(matrix, MATRIX, f"{count} variants are more than {MOST_VARIANTS}") if count > MOST_VARIANTS else axes


def _set(root: Node, path: str, value: Node, problems: list[Problem]) -> None:
    try:
        set_value(root, path, value)
    except UsageError as error:
        problem = Problem(value.line, f"{MATRIX}.{path}", f"{error.what}; {error.do}", value.source)
        if problem not in problems:
            problems.append(problem)


def _copied(node: Node) -> Node:
    value = node.value
    if isinstance(value, dict):
        value = {key: _copied(child) for key, child in value.items()}
    elif isinstance(value, list):
        value = [_copied(child) for child in value]
    return dataclasses.replace(node, value=value)


def _text(value: Node) -> str:
    """Write a value so that any file system takes it."""
    text = "+".join(_text(item) for item in value.value) if isinstance(value.value, list) else str(value.value)
    return re.sub("[^A-Za-z0-9._+-]+", "", text)[:40] or "none"
