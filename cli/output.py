"""What goes to which stream: data to stdout, everything else to stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcaps.errors import QcapsError
from qcaps.progress import OnProgress, Step, silent

if TYPE_CHECKING:
    from qcaps.verbs.outcome import Outcome

SECONDS_BETWEEN_LINES = 30.0


@dataclass(frozen=True)
class Output:
    """How a command talks.

    Parameters
    ----------
    json
        Exactly one JSON document on stdout, also on failure.
    quiet
        Only the paths of written files on stdout, and nothing but errors on stderr.
    """

    json: bool = False
    quiet: bool = False

    def show(self, outcome: Outcome) -> None:
        """Print the result of a verb."""
        if self.json:
            from qcaps.reports.documents import json_text

            sys.stdout.write(json_text(outcome.document))
        elif self.quiet:
            self._write([str(path) for path in outcome.files])
        else:
            self._write([*outcome.lines, *(f"wrote {path}" for path in outcome.files)])
        sys.stdout.flush()

    def error(self, what: str, where: str, do: str, exit_code: int) -> None:
        """Print an error: one line on stderr, and with ``--json`` a document on stdout."""
        print_to_stderr(f"error: {QcapsError(what, where=where, do=do)}")
        if self.json:
            from qcaps.reports.documents import json_text

            document = {
                "schema": "qcaps.error/1",
                "what": what,
                "where": where,
                "do": do,
                "exit_code": exit_code,
            }
            sys.stdout.write(json_text(document))

    @contextmanager
    def progress(self) -> Iterator[OnProgress]:
        """Give a listener: bars on a terminal, else a plain line per phase and at most one per 30 seconds."""
        if self.quiet:
            yield silent
        elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI"):
            with _bars() as listener:
                yield listener
        else:
            yield _lines()

    def _write(self, lines: Sequence[str]) -> None:
        encoding = sys.stdout.encoding or "ascii"
        for line in lines:
            print(line.encode(encoding, "replace").decode(encoding))


def print_to_stderr(text: str) -> None:
    """Print a message in whatever the terminal can show."""
    encoding = sys.stderr.encoding or "ascii"
    print(text.encode(encoding, "replace").decode(encoding), file=sys.stderr)


@contextmanager
def _bars() -> Iterator[OnProgress]:
    """Draw one bar at a time on stderr; finished ones stay."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = {}

        def listener(step: Step) -> None:
            if step.phase not in tasks:
                tasks[step.phase] = progress.add_task(step.phase, total=step.total, note="")
            progress.update(tasks[step.phase], completed=step.done, total=step.total, note=step.note)

        yield listener


def _lines() -> OnProgress:
    """Print the end of every phase, and a sign of life during long ones."""
    last = time.monotonic()

    def listener(step: Step) -> None:
        nonlocal last
        now = time.monotonic()
        if step.done >= step.total or now - last >= SECONDS_BETWEEN_LINES:
            last = now
            note = f"  {step.note}" if step.note else ""
            print_to_stderr(f"{step.phase}: {step.done}/{step.total}{note}")

    return listener
