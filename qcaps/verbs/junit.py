"""``junit.xml``: one test case for every promise, for CI systems that read such files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from qcaps.artifacts.writing import atomic_write
from qcaps.errors import InfeasibleError
from qcaps.reports.ci import junit_xml, promises_of
from qcaps.verbs.outcome import make_folder

JUNIT = "junit.xml"
SUITE = "qcaps"


def write_junit(out: Path, document: Mapping[str, object]) -> Path:
    """Write the promises of a document into a folder."""
    atomic_write(out / JUNIT, junit_xml(promises_of(document), suite=SUITE))
    return out / JUNIT


@contextmanager
def infeasible_told(out: Path | None) -> Iterator[None]:
    """Write what cannot be kept by arithmetic alone as an error, if a folder was named; nothing else is written."""
    try:
        yield
    except InfeasibleError as error:
        if out is not None:
            make_folder(out)
            atomic_write(out / JUNIT, junit_xml((), suite=SUITE, error=error))
        raise
