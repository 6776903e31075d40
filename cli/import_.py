"""``qcaps import``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer
from qcaps_cli.options import Given, command
from qcaps_cli.output import Output

from qcaps.config.importing import ImportConfig
from qcaps.registry import IMPORTERS

if TYPE_CHECKING:
    from qcaps.verbs.outcome import Outcome

DOC = "Import weights that another project trained, as a checkpoint of ours."
EXAMPLES = (
    "qcaps import shallow_mnist.pt --from q-capsnets --dataset mnist",
    "qcaps import efficient_capsnet.h5 --from efficient-capsnet --dataset mnist",
)
FILE = Annotated[str, typer.Argument(help="Weights in the other project's own form.", show_default=False)]
SOURCE = Annotated[
    str,
    typer.Option(
        "--from",
        help=f"Project that trained the weights. One of {', '.join(IMPORTERS.names())}.",
        metavar="NAME",
        show_default=False,
    ),
]


def _import(arguments: Given, options: Given, output: Output) -> Outcome:
    from qcaps.verbs.importing import import_checkpoint

    return import_checkpoint(cast("str", arguments["file"]), cast("str", arguments["source"]), **options)


run = command(ImportConfig, _import, {"file": FILE, "source": SOURCE})
