"""The command as a shell sees it: exit code and both streams, in this process or in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from qcaps_cli.main import main

from qcaps.progress import OnProgress, Step

COMMAND = (sys.executable, "-m", "qcaps_cli.main")


@dataclass(frozen=True)
class Answer:
    """Exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def call(capsys: pytest.CaptureFixture[str], *words: object) -> Answer:
    """Run the command in this process, which is fast."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    return Answer(code, *capsys.readouterr())


def spawn(*words: object, cwd: Path, **variables: str) -> Answer:
    """Run the command in a process of its own, as a shell does."""
    done = subprocess.run(
        [*COMMAND, *map(str, words)], cwd=cwd, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def after(count: int, act: Callable[[], None], *, phase: str = "") -> OnProgress:
    """Listen to progress, and do something when a phase has been reported on so many times."""
    seen = 0

    def listener(step: Step) -> None:
        nonlocal seen
        seen += step.phase.startswith(phase)
        if seen == count and step.phase.startswith(phase):
            act()

    return listener
