"""The entry point: commands, exit codes, and errors in one line."""

from __future__ import annotations

import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import ModuleType

import typer
from qcaps_cli import compare, environment, evaluate, import_, inspect, listing, prune, quantize, recipe, train, verify
from qcaps_cli.ci import tell_error
from qcaps_cli.output import Output, print_to_stderr
from typer.exceptions import Abort, TyperException

import qcaps
from qcaps.errors import QcapsError, QcapsWarning, StoppedError, UsageError, one_line, shortened

EXIT_CLOSED_PIPE = 141
COLUMNS = 100
NO_ESCAPES = "_TYPER_FORCE_DISABLE_TERMINAL"

# What users of Q-CapsNets and EagleEye type; underscores are understood everywhere.
OLD_NAMES = {
    "--quantization-method": "--rounding",
    "--flops-target": "--flops",
    "--max-rate": "--cap",
    "--model-args": "--model-arg",
    "--decoder-args": "--model-arg",
}
OLD_VALUES = {"nearest": "round_to_nearest", "stochastic": "stochastic_rounding"}
RETIRED = {
    "--no-training": "give the checkpoint as an argument",
    "--trained-weights-path": "give the checkpoint as an argument",
    "--visible-gpus": "use --device",
    "--min-rate": "ratios begin at 0",
}

app = typer.Typer(
    name="qcaps",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make capsule networks small, and prove it.",
    epilog="Start with: qcaps run quickstart",
)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        typer.echo(f"qcaps {qcaps.__version__}")
        raise typer.Exit


def _add(name: str, module: ModuleType) -> None:
    epilog = "Examples:\n\n" + "\n\n".join(f"  {example}" for example in module.EXAMPLES)
    app.command(name, help=module.DOC, short_help=module.DOC, epilog=epilog)(module.run)


for _name, _module in (
    ("train", train),
    ("prune", prune),
    ("quantize", quantize),
    ("eval", evaluate),
    ("run", recipe),
    ("inspect", inspect),
    ("compare", compare),
    ("verify", verify),
    ("import", import_),
    ("list", listing),
    ("env", environment),
):
    _add(_name, _module)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit code, whatever happens inside.

    Parameters
    ----------
    arguments
        Words after ``qcaps``; None takes those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _settle_streams()
    try:
        code = _answer(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Python would complain once more when it closes the streams at exit.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return EXIT_CLOSED_PIPE


def _settle_streams() -> None:
    """Make help in files and logs as wide on every machine, and colour a matter of the two variables of users."""
    on_terminal = sys.stdout.isatty() or sys.stderr.isatty()
    if not on_terminal:
        os.environ.setdefault("COLUMNS", str(COLUMNS))
        os.environ.setdefault("TERMINAL_WIDTH", str(COLUMNS))  # where TERM is dumb
    if os.environ.get("NO_COLOR") or not (sys.stdout.isatty() or os.environ.get("FORCE_COLOR")):
        os.environ[NO_ESCAPES] = "1"  # else some CI systems make it write escape codes
    else:
        os.environ.pop(NO_ESCAPES, None)


def _answer(words: list[str]) -> int:
    """Run the command, tell whatever goes wrong in one line, and give the exit code."""
    output = Output(json="--json" in words)
    debug = "--debug" in words or os.environ.get("QCAPS_DEBUG") == "1"
    _quieten(verbose=debug or any(re.fullmatch("-v+|--verbose", word) for word in words))

    def told(error: QcapsError) -> int:
        output.error(error)
        tell_error(error)
        return error.exit_code

    try:
        return _invoke(_modern(words))
    except QcapsError as error:
        if debug:
            traceback.print_exc()
        return told(error)
    except TyperException as error:
        # Without a message it is the help that was asked for by giving nothing.
        if message := error.format_message():
            told(UsageError(message.rstrip("."), do="see --help"))
        return UsageError.exit_code
    except (KeyboardInterrupt, Abort):
        return told(StoppedError("interrupted"))
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        what = f"unexpected {type(error).__name__}: {shortened(str(error))}"
        return told(QcapsError(what, do="this is a bug; --debug shows the traceback"))


def _invoke(words: list[str]) -> int:
    """Let typer run the command, without its own answers to Ctrl-C (a silent 130) and to a closed pipe (a 1)."""
    try:
        code = app(words, prog_name="qcaps", standalone_mode=False)
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):
            raise error.__context__ from None
        raise
    if code == StoppedError.exit_code:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _modern(words: list[str]) -> list[str]:
    """Translate old option names and values."""
    found: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            found.append(OLD_VALUES.get(word, word) if found and found[-1] == "--rounding" else word)
            continue
        name = name.replace("_", "-")
        if name in RETIRED:
            raise UsageError(f"{name} is retired", do=RETIRED[name])
        name = OLD_NAMES.get(name, name)
        found.append(name + equals + (OLD_VALUES.get(value, value) if name == "--rounding" else value))
    return found


def _quieten(*, verbose: bool) -> None:
    """Show our own warnings as one line; those of libraries only on request."""

    def show(message: Warning | str, category: type[Warning], *_: object) -> None:
        print_to_stderr(f"warning: {one_line(str(message))}")

    if not verbose:
        warnings.showwarning = show  # type: ignore[assignment]  # fewer parameters are needed
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", QcapsWarning)


if __name__ == "__main__":
    sys.exit(main())
