"""How long work tells its caller how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One report of progress.

    Parameters
    ----------
    phase
        Name of the work under way; a new name starts a new bar.
    done, total
        Units finished and units in all; equal when the phase is over.
    note
        A short live figure such as ``loss 0.021``.
    """

    phase: str
    done: int
    total: int
    note: str = ""


OnProgress = Callable[[Step], None]


def silent(step: Step) -> None:
    """Report to nobody."""
