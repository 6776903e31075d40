"""Commands made from config classes: every field an option, with its help and default."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args, get_origin, get_type_hints

import typer
from qcaps_cli.output import Output

from qcaps.config.option import About, about, shell_name

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from qcaps.verbs.outcome import Outcome

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout.", show_default=False, metavar="")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only what was written.", show_default=False, metavar="")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", show_default=False, metavar="")]
SHARED: Mapping[str, object] = {"json": Json, "quiet": Quiet, "debug": Debug}

Given = Mapping[str, object]


def command(
    config: type[DataclassInstance],
    call: Callable[[Given, Given, Output], Outcome],
    arguments: Mapping[str, object],
) -> Callable[..., int]:
    """Make the function of a command whose options are the fields of a config class.

    Parameters
    ----------
    config
        Declares names, help, defaults.
    call
        Calls the verb with the arguments and options that were given, as typed, and gives its outcome.
    arguments
        Positional arguments: name → annotation that typer understands.
    """

    def run(**given: object) -> int:
        output = Output(json=bool(given.pop("json")), quiet=bool(given.pop("quiet")))
        given.pop("debug")
        positional = {name: given.pop(name) for name in arguments}
        options = {name: value for name, value in given.items() if value not in (None, [])}
        outcome = call(positional, options, output)
        output.show(outcome)
        return outcome.exit_code

    annotations = {**arguments, **_options(config), **SHARED}
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(name, annotation),
            annotation=annotation,
        )
        for name, annotation in annotations.items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
    run.__annotations__ = annotations
    return run


def _default(name: str, annotation: object) -> object:
    """Give what typer takes where nothing is typed; an argument that cannot be None must be typed."""
    if name in SHARED:
        return False
    return None if type(None) in get_args(get_args(annotation)[0]) else inspect.Parameter.empty


def _options(config: type[DataclassInstance]) -> dict[str, object]:
    """Give the annotation of every option; values arrive as typed and are checked by the config."""
    hints = get_type_hints(config)
    return {f.name: _option(f, hints[f.name]) for f in dataclasses.fields(config)}


def _option(field: dataclasses.Field[object], hint: object) -> object:
    declared, name = about(field), f"--{shell_name(field.name)}"
    text = declared.help
    if declared.names is not None:
        text += f" One of {', '.join((*declared.names.names(), *declared.also))}."
    if hint is bool:
        name = f"{name}/--no-{shell_name(field.name)}" if field.default else name
        return Annotated[bool | None, typer.Option(name, help=text, show_default=False, metavar="")]
    if field.default not in (None, ()):
        text += f" (default: {field.default})"
    kind: object = list[str] | None if get_origin(hint) is tuple else str | None
    return Annotated[kind, typer.Option(name, help=text, show_default=False, metavar=_metavar(declared, hint))]


def _metavar(declared: About, hint: object) -> str:
    kinds = get_args(hint) or (hint,)
    if declared.metavar:
        return declared.metavar
    if get_origin(hint) is Literal:
        return "|".join(kinds)
    if Path in kinds:
        return "PATH"
    if int in kinds:
        return "N"
    return "X" if float in kinds else "NAME"
