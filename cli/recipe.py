"""``qcaps run``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer
from qcaps_cli.options import Given, command
from qcaps_cli.output import Output

from qcaps.config.run import RunConfig

if TYPE_CHECKING:
    from qcaps.verbs.outcome import Outcome

DOC = "Run a recipe: every step of a YAML file, into one folder."
EXAMPLES = (
    "qcaps run quickstart",
    "qcaps run quickstart train.epochs=3 quantize.memory-budget=250kB",
)


def _complete(typed: str) -> list[str]:
    """Give the names of shipped recipes; a shell that gets none offers files."""
    from qcaps.recipe.lookup import shipped_recipes

    return [entry.name for entry in shipped_recipes() if entry.name.startswith(typed)]


RECIPE = Annotated[str, typer.Argument(help="A YAML file or the name of a shipped recipe.", autocompletion=_complete)]
OVERRIDES = Annotated[
    list[str] | None, typer.Argument(help="Changes of the recipe, STEP.KEY=VALUE.", show_default=False)
]


def _run(arguments: Given, options: Given, output: Output) -> Outcome:
    from qcaps.recipe.runner import run as run_recipe

    overrides = cast("list[str]", arguments["overrides"] or [])
    with output.progress() as on_progress:
        return run_recipe(cast("str", arguments["recipe"]), *overrides, on_progress=on_progress, **options)


run = command(RunConfig, _run, {"recipe": RECIPE, "overrides": OVERRIDES})
