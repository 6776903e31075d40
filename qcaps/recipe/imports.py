"""Imports of a recipe: named parts, merged into it before it is checked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from qcaps.errors import Problem, RecipeError, UsageError, quoted
from qcaps.recipe.lookup import find_part, shipped_parts
from qcaps.recipe.yaml_reader import Node, read_with_problems
from qcaps.registry import near_matches

IMPORTS = "imports"


def with_imports(root: Node, path: Path, problems: list[Problem], *, chain: tuple[str, ...] = ()) -> Node:
    """Merge what a recipe imports into it.

    Parameters
    ----------
    root, path
        The recipe or part, and its file.
    problems
        What is wrong is added: a part that is missing, unreadable or imports itself.
    chain
        Names on the way to it, the recipe first.

    Returns
    -------
    Node
        Mappings are merged key by key, and steps by their names, new ones at the end. Of two values the later import
        wins, and the recipe itself over all.
    """
    if not isinstance(root.value, dict) or IMPORTS not in root.value:
        return root
    imports = root.value[IMPORTS]
    names = imports.value
    if not isinstance(names, list) or not all(isinstance(name.value, str) for name in names):
        problems.append(Problem(imports.line, IMPORTS, "must be a list of names", imports.source))
        return root
    merged = Node({}, root.line, root.column)
    for index, name in enumerate(names):
        part = _part(name, f"{IMPORTS}[{index}]", path, problems, chain)
        merged = merged if part is None else _merged(merged, part, top=True)
    own = {key: node for key, node in root.value.items() if key != IMPORTS}
    return _merged(merged, dataclasses.replace(root, value=own), top=True)


def _part(name: Node, place: str, path: Path, problems: list[Problem], chain: tuple[str, ...]) -> Node | None:
    """Read one part with its own imports; None if it cannot be used."""
    text = str(name.value)
    try:
        file = _file_of_part(text, path, chain)
        root, found = read_with_problems(file.read_bytes(), source=text)
    except RecipeError as error:
        problems.extend(dataclasses.replace(problem, source=text) for problem in error.problems)
        return None
    except UsageError as error:
        problems.append(Problem(name.line, place, error.what, name.source))
        return None
    except OSError as error:
        problems.append(Problem(name.line, place, f"{quoted(text)} cannot be read: {error.strerror}", name.source))
        return None
    problems.extend(dataclasses.replace(problem, source=text) for problem in found)
    if not isinstance(root.value, dict):
        problems.append(Problem(name.line, place, f"{quoted(text)} is not a mapping", name.source))
        return None
    return with_imports(_called(root, text), file, problems, chain=(*chain, str(path.resolve())))


def _file_of_part(name: str, path: Path, chain: tuple[str, ...]) -> Path:
    """Find a part that is not on the way to itself."""
    known = shipped_parts()
    file = find_part(name, path)
    if file is None:
        shipped = f"parts that ship are {', '.join(known)}" if known else "none ships"
        raise UsageError(f"there is no part {quoted(name)}; {near_matches(name, tuple(known))}{shipped}")
    way = (*chain, str(path.resolve()))
    if str(file.resolve()) in way:
        raise UsageError(f"imports form a cycle: {' imports '.join(Path(one).stem for one in (*way, str(file)))}")
    return file


def _called(node: Node, source: str) -> Node:
    """Note in every node where it comes from."""
    value = node.value
    if isinstance(value, dict):
        value = {key: _called(child, source) for key, child in value.items()}
    elif isinstance(value, list):
        value = [_called(child, source) for child in value]
    return dataclasses.replace(node, value=value, source=source)


def _merged(first: Node, second: Node, *, top: bool = False) -> Node:
    """Merge two mappings, key by key; of anything else the second one counts."""
    if not isinstance(first.value, dict) or not isinstance(second.value, dict):
        return second
    value = dict(first.value)
    for key, node in second.value.items():
        if top and key == "steps" and key in value:
            value[key] = _merged_steps(value[key], node)
        else:
            value[key] = _merged(value[key], node) if key in value else node
    return dataclasses.replace(second, value=value)


def _merged_steps(first: Node, second: Node) -> Node:
    """Merge steps of the same name; new ones come at the end."""
    if not isinstance(first.value, list) or not isinstance(second.value, list):
        return second
    steps = list(first.value)
    names = [step_name(step) for step in steps]
    for step in second.value:
        name = step_name(step)
        if name in names:
            steps[names.index(name)] = _merged(steps[names.index(name)], step)
        else:
            steps.append(step)
    return dataclasses.replace(second, value=steps)


def step_name(step: Node) -> str | None:
    """Give the name of a step, or its verb where it has none; None if it is no step."""
    if not isinstance(step.value, dict):
        return None
    named = step.value.get("name") or step.value.get("step")
    return None if named is None else str(named.value)
