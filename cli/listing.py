"""``qcaps list``."""

from __future__ import annotations

from typing import Annotated

import typer
from qcaps_cli.options import Debug, Json, Quiet
from qcaps_cli.output import Output

from qcaps.errors import UsageError, quoted
from qcaps.registry import (
    AUGMENTATIONS,
    DATASETS,
    DECODERS,
    MODELS,
    ROUNDINGS,
    SEARCHES,
    Entry,
    near_matches,
)
from qcaps.verbs.outcome import Outcome

DOC = "List what there is of one kind, a line each."
EXAMPLES = ("qcaps list models", "qcaps list recipes --json")

KINDS = {r.plural: r for r in (MODELS, DECODERS, DATASETS, AUGMENTATIONS, ROUNDINGS, SEARCHES)}


def run(
    kind: Annotated[
        str, typer.Argument(help="models, decoders, datasets, augmentations, roundings, searches, recipes.")
    ],
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """List the entries of one kind."""
    entries = [{"name": e.name, "doc": e.doc} for e in _entries(kind)]
    width = max(len(e["name"]) for e in entries)
    lines = tuple(e["name"] if quiet else f"{e['name']:<{width}}  {e['doc']}" for e in entries)
    Output(json=json).show(Outcome(0, (), {"schema": "qcaps.list/1", "kind": kind, "entries": entries}, lines))
    return 0


def _entries(kind: str) -> list[Entry]:
    if kind == "recipes":
        from qcaps.recipe.lookup import shipped_recipes

        return shipped_recipes()
    kinds = (*KINDS, "recipes")
    if kind not in KINDS:
        raise UsageError(
            f"there is no list of {quoted(kind)}",
            do=f"{near_matches(kind, kinds)}lists are {', '.join(kinds)}",
        )
    return list(KINDS[kind])
