"""What a job of a CI system is told beside the two streams: a summary, values for later steps, annotations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qcaps_cli.output import is_first, print_to_stderr

from qcaps.errors import QcapsError, UsageError

if TYPE_CHECKING:
    from qcaps.verbs.outcome import Outcome

REPORT = "report.md"
# A summary of more than 1 MiB is dropped as a whole.
SUMMARY_LIMIT = 1_000_000


def on_github() -> bool:
    """Tell whether this runs in a job of GitHub, which reads annotations from the streams."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def tell_job(outcome: Outcome, summary: str | None) -> None:
    """Append the report to the summary of the job, name its values, and point at what is broken.

    Raises
    ------
    UsageError
        If a file that was named cannot be written.
    """
    if not is_first():
        return
    from qcaps.reports.ci import VALUES, broken_annotations, output_values

    for path in dict.fromkeys(filter(None, (summary, os.environ.get("GITHUB_STEP_SUMMARY")))):
        _append(path, _summary(outcome))
    if target := os.environ.get("GITHUB_OUTPUT"):
        values = output_values(outcome.document, outcome.files, outcome.exit_code)
        _append(target, "".join(f"{name}={values[name]}\n" for name in VALUES if name in values))
    if on_github():
        _print_all(broken_annotations(outcome.document))


def tell_error(error: QcapsError) -> None:
    """Point at what ended the command."""
    if on_github() and is_first():
        from qcaps.reports.ci import error_annotation

        _print_all([error_annotation(error)])


def _summary(outcome: Outcome) -> str:
    """Give the reports that were written, as many as fit, or else what was printed."""
    from qcaps.reports.ci import plain_summary

    reports = [file.read_text(encoding="utf-8") for file in outcome.files if file.name == REPORT]
    text = ""
    for report in reports or [plain_summary(outcome.document, outcome.lines, outcome.exit_code)]:
        if len((text + report).encode()) < SUMMARY_LIMIT:
            text += f"{report}\n"
    return text


def _append(path: str, text: str) -> None:
    try:
        with Path(path).open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
    except OSError as error:
        raise UsageError(f"cannot write the file: {error.strerror}", where=path) from error


def _print_all(lines: Sequence[str]) -> None:
    for line in lines:
        print_to_stderr(line)
