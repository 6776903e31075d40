"""``key=value`` changes of a recipe on the command line."""

from __future__ import annotations

from qcaps.errors import Problem, RecipeError, UsageError, quoted
from qcaps.recipe.yaml_reader import Node, read_yaml

TOP = ("seed", "promises", "model")


def override(root: Node, changes: tuple[str, ...]) -> Node:
    """Change values of a recipe before it is checked.

    Parameters
    ----------
    root
        The recipe; changed in place.
    changes
        ``STEP.KEY=VALUE``, ``promises.KEY=VALUE``, ``model.checkpoint=VALUE`` or ``seed=VALUE``; the value is read
        as YAML. A step is called by its name, or by its verb where it has none.

    Raises
    ------
    UsageError
        If a change names no step, or more than one; the candidates are shown.
    """
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals or not path:
            raise UsageError(
                f"{quoted(change)} is not KEY=VALUE", do="write STEP.KEY=VALUE, for example train.epochs=3"
            )
        set_value(root, path, _value(text, change))
    return root


def set_value(root: Node, path: str, value: Node) -> None:
    """Change one value of a recipe in place; see :func:`override`."""
    _target(root, path)[path.rpartition(".")[2]] = value


def _value(text: str, change: str) -> Node:
    try:
        return read_yaml(text.encode(errors="surrogateescape"), source=change)
    except RecipeError as error:
        raise UsageError(f"{quoted(text)} is no value: {error.problems[0].message}", where=change) from error


def _target(root: Node, path: str) -> dict[str, Node]:
    """Find the mapping that a path changes."""
    if not isinstance(root.value, dict):
        raise RecipeError([Problem(root.line, "", "a recipe is a mapping")], source="recipe")
    top, step, _ = root.value, *path.rpartition(".")[:2]
    if path == "seed":
        return top
    if step in {"promises", "model"}:
        part = top.setdefault(step, Node({}, 0, 0))
        if isinstance(part.value, dict):
            return part.value
    steps = top["steps"].value if "steps" in top and isinstance(top["steps"].value, list) else []
    named = [s.value for s in steps if isinstance(s.value, dict) and _name(s.value) == step]
    if len(named) == 1:
        return named[0]
    names = [_name(s.value) for s in steps if isinstance(s.value, dict)]
    problem = "names two steps" if named else "is not in the recipe"
    raise UsageError(f"{quoted(path)} {problem}", do=f"begin with one of {', '.join([*names, *TOP])}")


def _name(step: dict[str, Node]) -> str:
    node = step.get("name") or step.get("step")
    return "" if node is None else str(node.value)
