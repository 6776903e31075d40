"""``qcaps verify``."""

from __future__ import annotations

from typing import Annotated

import typer
from qcaps_cli.options import Debug, Json, Quiet
from qcaps_cli.output import Output

DOC = "Verify that checkpoints and artifacts are whole; needs no data."
EXAMPLES = (
    "qcaps verify efficient_capsnet_digits.pt",
    "qcaps verify efficient_capsnet_digits.pt efficient_capsnet_mnist.pt --json",
)


def run(
    files: Annotated[
        list[str],
        typer.Argument(help="Checkpoints or artifacts, files or names of shipped ones.", show_default=False),
    ],
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Verify files; the first that is not whole ends it."""
    from qcaps.verbs.verify import verify

    outcome = verify(*files)
    Output(json=json, quiet=quiet).show(outcome)
    return outcome.exit_code
