"""``qcaps list``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from qcaps_cli.options import Debug, Json, Quiet
from qcaps_cli.output import Output

from qcaps.errors import UsageError, quoted
from qcaps.registry import (
    AUGMENTATIONS,
    DATASETS,
    DECODERS,
    IMPORTANCES,
    IMPORTERS,
    MODELS,
    PREPARATIONS,
    ROUNDINGS,
    ROUTINGS,
    SEARCHES,
    Entry,
    near_matches,
)
from qcaps.reports.table import table_lines
from qcaps.verbs.outcome import Outcome

DOC = "List what there is of one kind, a line each."
EXAMPLES = ("qcaps list models", "qcaps list recipes --json")

REGISTRIES = (
    MODELS,
    ROUTINGS,
    DECODERS,
    DATASETS,
    PREPARATIONS,
    AUGMENTATIONS,
    ROUNDINGS,
    SEARCHES,
    IMPORTANCES,
    IMPORTERS,
)
KINDS = {registry.plural: registry for registry in REGISTRIES}


def _complete(typed: str) -> list[str]:
    return [kind for kind in (*KINDS, "recipes") if kind.startswith(typed)]


def run(
    kind: Annotated[str, typer.Argument(help=f"{', '.join(KINDS)}, recipes.", autocompletion=_complete)],
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data sets, to see what is there.", show_default=False)
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """List the entries of one kind; networks with their figures, data sets with what of them is there."""
    entries = _entries(kind)
    figures: list[dict[str, object]] = [{} for _ in entries]
    if quiet and not json:
        lines = [entry.name for entry in entries]
    elif kind == MODELS.plural:
        figures, lines = _networks(entries)
    elif kind == DATASETS.plural:
        figures, lines = _datasets(entries, data_dir)
    else:
        lines = table_lines(("", ""), [(entry.name, entry.doc) for entry in entries])[1:]
    named = [{"name": e.name, "doc": e.doc, **more} for e, more in zip(entries, figures, strict=True)]
    Output(json=json).show(Outcome(0, (), {"schema": "qcaps.list/1", "kind": kind, "entries": named}, tuple(lines)))
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


def _networks(entries: list[Entry]) -> tuple[list[dict[str, object]], list[str]]:
    """Describe named networks: the figures of each, and a table of them."""
    from qcaps.reports.inspection import shape_text
    from qcaps.verbs.inspect import inspection

    found = [inspection(entry.name) for entry in entries]
    keys = ("input", "any_size", "classes", "parameters", "macs")
    rows = [
        (e.name, shape_text(n.input) + "*" * n.any_size, n.classes, n.parameters, n.macs, e.doc)
        for e, n in zip(entries, found, strict=True)
    ]
    lines = table_lines(("name", "input", "classes", "parameters", "MACs", ""), rows)
    return [{key: getattr(n, key) for key in keys} for n in found], [*lines, "* adapts to images of other sizes"]


def _datasets(entries: list[Entry], data_dir: Path | None) -> tuple[list[dict[str, object]], list[str]]:
    """Tell of every data set what lies in the data folder and what is missing, without reading an image."""
    from qcaps.data.dataset import registered
    from qcaps.data.load import data_folder

    folder = data_folder(data_dir)
    found = [registered(entry.name).look(folder) for entry in entries]
    states = [
        f"missing: {', '.join(held.missing)}" if held.missing else ", ".join(held.found) or "nothing needed"
        for held in found
    ]
    rows = [(entry.name, entry.doc, state) for entry, state in zip(entries, states, strict=True)]
    figures: list[dict[str, object]] = [{"found": list(held.found), "missing": list(held.missing)} for held in found]
    return figures, [*table_lines(("name", "", "files"), rows), f"in {folder}"]
