"""``qcaps env``."""

from __future__ import annotations

from qcaps_cli.options import Debug, Json, Quiet
from qcaps_cli.output import Output

DOC = "Show versions, threads, devices and folders: what a run depends on besides its options."
EXAMPLES = ("qcaps env", "qcaps env --json")


def run(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> int:
    """Show the environment."""
    from qcaps.verbs.environment import environment

    Output(json=json, quiet=quiet).show(environment())
    return 0
