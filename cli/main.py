"""The entry point: commands, exit codes, and errors in one line."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import ModuleType

import typer
from typer.exceptions import Abort, TyperException
from qcaps_cli import evaluate, listing, quantize, recipe, train
from qcaps_cli.output import Output, print_to_stderr

import qcaps
from qcaps.errors import QcapsError, QcapsWarning, UsageError, one_line, shortened

EXIT_BUG, EXIT_INTERRUPTED, EXIT_CLOSED_PIPE = 70, 130, 141

# What users of Q-CapsNets and EagleEye type; underscores are understood everywhere.
OLD_NAMES = {"--quantization-method": "--rounding"}
OLD_VALUES = {"nearest": "round_to_nearest", "stochastic": "stochastic_rounding"}
RETIRED = {
    "--no-training": "give the checkpoint as an argument",
    "--trained-weights-path": "give the checkpoint as an argument",
    "--visible-gpus": "use --device",
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
    ("quantize", quantize),
    ("eval", evaluate),
    ("run", recipe),
    ("list", listing),
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
    output = Output(json="--json" in words)
    debug = "--debug" in words or os.environ.get("QCAPS_DEBUG") == "1"
    _quieten(verbose=debug)
    try:
        code = app(_modern(words), prog_name="qcaps", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except QcapsError as error:
        if debug:
            traceback.print_exc()
        output.error(error.what, error.where, error.do, error.exit_code)
        return error.exit_code
    except TyperException as error:
        # Without a message it is the help that was asked for by giving nothing.
        if error.format_message():
            output.error(error.format_message().rstrip("."), "", "see --help", UsageError.exit_code)
        return UsageError.exit_code
    except (KeyboardInterrupt, Abort):
        print_to_stderr("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Python would complain once more when it closes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_CLOSED_PIPE
    except Exception as error:
        if debug:
            traceback.print_exc()
        what = f"unexpected {type(error).__name__}: {shortened(str(error))}"
        output.error(what, "", "this is a bug; --debug shows the traceback", EXIT_BUG)
        return EXIT_BUG


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
