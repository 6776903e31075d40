"""Commands made from config classes: every field an option, with its help and default."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast, get_args, get_origin, get_type_hints

import typer
from qcaps_cli.ci import tell_job
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
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, help="Print times; twice, every step.", show_default=False, metavar=""),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never download anything.", show_default=False, metavar="")]
ExitZero = Annotated[
    bool, typer.Option("--exit-zero", help="Exit 0 even where a promise is not kept.", show_default=False, metavar="")
]
Summary = Annotated[
    str | None,
    typer.Option(
        "--summary",
        help="File to append the report to, as Markdown (GITHUB_STEP_SUMMARY as well).",
        show_default=False,
        metavar="FILE",
    ),
]
SHARED: Mapping[str, object] = {
    "json": Json,
    "quiet": Quiet,
    "verbose": Verbose,
    "debug": Debug,
    "offline": Offline,
    "exit_zero": ExitZero,
    "summary": Summary,
}
UNSET: Mapping[str, object] = {"verbose": 0, "summary": None}
OFFLINE = "QCAPS_OFFLINE"

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
        shared = {name: given.pop(name) for name in SHARED}
        output = Output(json=bool(shared["json"]), quiet=bool(shared["quiet"]), verbose=cast("int", shared["verbose"]))
        if shared["offline"]:
            os.environ[OFFLINE] = "1"
        positional = {name: given.pop(name) for name in arguments}
        options = {name: value for name, value in given.items() if value not in (None, [])}
        outcome = call(positional, options, output)
        output.show(outcome)
        tell_job(outcome, cast("str | None", shared["summary"]))
        return 0 if shared["exit_zero"] and outcome.exit_code == 1 else outcome.exit_code

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
        return UNSET.get(name, False)
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
    known = (*declared.names.names(), *declared.also) if declared.names is not None else _literals(hint)

    def complete(typed: str) -> list[str]:
        return [value for value in known if value.startswith(typed)]

    completion = complete if known else None
    shown = typer.Option(
        name, help=text, show_default=False, metavar=_metavar(declared, hint), autocompletion=completion
    )
    return Annotated[kind, shown]


def _literals(hint: object) -> tuple[str, ...]:
    return get_args(hint) if get_origin(hint) is Literal else ()


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
