"""What goes to which stream: data to stdout, everything else to stderr."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcaps.errors import QcapsError, RecipeError
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
    verbose
        1 for a line with the time at the end of every phase, in place of bars; 2 for one at every step.
    """

    json: bool = False
    quiet: bool = False
    verbose: int = 0

    def show(self, outcome: Outcome) -> None:
        """Print the result of a verb; of several processes the first one alone does."""
        if not is_first():
            return
        if self.json:
            _write_json(outcome.document)
        elif self.quiet:
            self._write([str(path) for path in outcome.files])
        else:
            self._write([*outcome.lines, *(f"wrote {path}" for path in outcome.files)])
        sys.stdout.flush()

    def error(self, error: QcapsError) -> None:
        """Print an error: one line on stderr (and one per problem of a recipe), with ``--json`` also a document."""
        print_to_stderr(f"error: {error}")
        if self.json:
            document: dict[str, object] = {
                "schema": "qcaps.error/1",
                "what": error.what,
                "where": error.where,
                "do": error.do,
                "exit_code": error.exit_code,
            }
            if isinstance(error, RecipeError):
                document["problems"] = [dataclasses.asdict(problem) for problem in error.problems]
            _write_json(document)

    @contextmanager
    def progress(self) -> Iterator[OnProgress]:
        """Give a listener: bars on a terminal, else a plain line per phase and at most one per 30 seconds."""
        if self.quiet or not is_first():
            yield silent
        elif self.verbose:
            yield _lines(every=self.verbose > 1, timed=True)
        elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI"):
            with _bars() as listener:
                yield listener
        else:
            yield _lines()

    def _write(self, lines: Sequence[str]) -> None:
        encoding = sys.stdout.encoding or "ascii"
        for line in lines:
            print(line.encode(encoding, "replace").decode(encoding))


def is_first() -> bool:
    """Tell whether this is the first of the processes that ``torchrun`` started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def print_to_stderr(text: str) -> None:
    """Print a message in whatever the terminal can show."""
    encoding = sys.stderr.encoding or "ascii"
    print(text.encode(encoding, "replace").decode(encoding), file=sys.stderr)


def _write_json(document: Mapping[str, object]) -> None:
    """Print a document, escaped where the stream cannot show it."""
    from qcaps.reports.documents import json_text

    text = json_text(document)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        # Outside of its strings JSON is ASCII, so every other character may be written as an escape.
        text = "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in text)
    sys.stdout.write(text)


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


def _lines(*, every: bool = False, timed: bool = False) -> OnProgress:
    """Print the end of every phase, and a sign of life during long ones; or every step, with the seconds so far."""
    start = last = time.monotonic()

    def listener(step: Step) -> None:
        nonlocal last
        now = time.monotonic()
        if every or step.done >= step.total or now - last >= SECONDS_BETWEEN_LINES:
            last = now
            note = f"  {step.note}" if step.note else ""
            clock = f"{now - start:9.2f} s  " if timed else ""
            print_to_stderr(f"{clock}{step.phase}: {step.done}/{step.total}{note}")

    return listener
