"""Where recipes are: those that ship with qcaps, then the file system."""

from __future__ import annotations

import os
from pathlib import Path

from qcaps.artifacts.bundled import bundled_folder
from qcaps.errors import UsageError, quoted
from qcaps.recipe.yaml_reader import Node, read_yaml
from qcaps.registry import Entry, near_matches

# Folder of what recipes import; nothing in it runs by itself.
PARTS = "parts"


def find_recipe(name: str) -> tuple[str, Path]:
    """Find a recipe by the name of a shipped one or by its path; give its short name and its file.

    Raises
    ------
    UsageError
        If there is none; near matches are shown.
    """
    shipped = {entry.name: Path(entry.target) for entry in shipped_recipes()}
    if name in shipped:
        return name, shipped[name]
    if os.path.isfile(name):  # unlike Path.is_file, False for a name that is too long or may not be looked up
        return Path(name).stem, Path(name)
    known = tuple(shipped)
    raise UsageError(
        f"there is no recipe {quoted(name)}",
        do=f"{near_matches(name, known)}`qcaps list recipes` shows those that ship",
    )


def shipped_recipes() -> list[Entry]:
    """List the shipped recipes; the target of an entry is its file."""
    folder = bundled_folder("recipes")
    return [
        Entry(path.relative_to(folder).with_suffix("").as_posix(), _description(path), str(path))
        for path in sorted(folder.rglob("*.yaml"))
        if PARTS not in path.relative_to(folder).parts
    ]


def find_part(name: str, beside: Path) -> Path | None:
    """Find what a recipe imports: a file beside it, else a part that ships; None if there is neither."""
    shipped = bundled_folder("recipes") / PARTS
    candidates = [place / file for place in (beside.parent, shipped) for file in (f"{name}.yaml", name)]
    return next((path for path in candidates if os.path.isfile(path)), None)


def shipped_parts() -> list[str]:
    """List the parts that ship, for recipes to import."""
    folder = bundled_folder("recipes") / PARTS
    return [path.relative_to(folder).with_suffix("").as_posix() for path in sorted(folder.rglob("*.yaml"))]


def _description(path: Path) -> str:
    root = read_yaml(path.read_bytes(), source=path.name).value
    described = root.get("description") if isinstance(root, dict) else None
    return str(described.value).strip() if isinstance(described, Node) else ""
