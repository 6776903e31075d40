"""What systems that run jobs read: promises as JUnit test cases, lines of GitHub, a summary in Markdown."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qcaps.errors import InfeasibleError, QcapsError, one_line
from qcaps.reports.markdown_table import escaped, markdown_table
from qcaps.reports.promises import HEAD, promise_row
from qcaps.reports.quantization import SCHEMA, Promise

DECLARATION = '<?xml version="1.0" encoding="utf-8"?>'
VALUES = ("verdict", "accuracy", "bytes", "ratio", "artifact")


@dataclass(frozen=True)
class JudgedPromise:
    """A promise, and the step of a recipe that was to keep it; nothing outside a recipe."""

    step: str
    promise: Promise


def promises_of(document: Mapping[str, object]) -> list[JudgedPromise]:
    """Find every promise in the document of a verb, or of all steps of a recipe."""
    found = [JudgedPromise("", _promise(told)) for told in _mappings(document.get("promises"))]
    for step in _mappings(document.get("steps")):
        result = step.get("result")
        if isinstance(result, Mapping):
            found += [JudgedPromise(str(step.get("name")), one.promise) for one in promises_of(result)]
    return found


def junit_xml(promises: Sequence[JudgedPromise], *, suite: str, error: InfeasibleError | None = None) -> bytes:
    """Write one test case for every promise: a broken one is a failure, an infeasible one an error.

    Parameters
    ----------
    promises
        In order; the step is the class of the case.
    suite
        Name of the whole.
    error
        What cannot be kept by arithmetic alone.
    """
    broken = sum(not one.promise.kept for one in promises)
    counts = {"tests": len(promises) + (error is not None), "failures": broken, "errors": int(error is not None)}
    root = ET.Element("testsuite", {"name": one_line(suite), **{key: str(count) for key, count in counts.items()}})
    for one in promises:
        name, limit, found, _ = promise_row(one.promise)
        case = ET.SubElement(root, "testcase", {"classname": one_line(one.step or suite), "name": one_line(name)})
        if not one.promise.kept:
            ET.SubElement(case, "failure", {"message": one_line(f"limit {limit}, found {found}")})
    if error is not None:
        case = ET.SubElement(root, "testcase", {"classname": one_line(suite), "name": one_line(error.where or suite)})
        ET.SubElement(case, "error", {"message": str(error)})
    ET.indent(root)
    return f"{DECLARATION}\n{ET.tostring(root, encoding='unicode')}\n".encode()


def annotation(kind: str, title: str, message: str) -> str:
    """Write a command that shows a message beside a job of GitHub; nothing in it can be a command of its own."""
    return f"::{kind} title={_escaped(title).replace(':', '%3A').replace(',', '%2C')}::{_escaped(message)}"


def error_annotation(error: QcapsError) -> str:
    """Show an error beside a job of GitHub."""
    return annotation("error", "qcaps", str(error))


def broken_annotations(document: Mapping[str, object]) -> list[str]:
    """Show every broken promise, and every warning, beside a job of GitHub."""
    lines = []
    for one in promises_of(document):
        if not one.promise.kept:
            name, limit, found, _ = promise_row(one.promise)
            title = f"{one.step}: {name}" if one.step else name
            lines.append(annotation("error", title, f"limit {limit}, found {found}"))
    return lines + [annotation("warning", "qcaps", text) for text in _warnings(document)]


def output_values(document: Mapping[str, object], files: Sequence[Path], exit_code: int) -> dict[str, str]:
    """Give what later steps of a job may want to know, as far as it is known: see :data:`VALUES`."""
    report = _last_report(document)
    results = _mappings(report.get("result"))
    result: Mapping[str, object] = results[0] if results else {}
    networks = [str(file) for file in files if file.suffix == ".pt"]
    named = [name for name in networks if Path(name).name == result.get("file")]
    values = {
        "verdict": str(report.get("verdict") or ("not satisfied" if exit_code else "satisfied")),
        "accuracy": _number(_inside(result, "report", "score", "accuracy") or _evaluated(document)),
        "bytes": _number(result.get("file_bytes")),
        "ratio": _number(result.get("weight_ratio")),
        "artifact": (named or networks or [""])[-1],
    }
    return {key: one_line(value) for key, value in values.items() if value}


def plain_summary(document: Mapping[str, object], lines: Sequence[str], exit_code: int) -> str:
    """Write a summary for a verb that has no report of its own."""
    verb = str(document.get("schema", "qcaps")).partition("/")[0].removeprefix("qcaps.")
    rows = [[escaped(cell) for cell in promise_row(one.promise)] for one in promises_of(document)]
    table = f"{markdown_table(HEAD, rows)}\n" if rows else ""
    said = "\n".join(one_line(line).replace("`", "'") for line in lines)
    return f"# {verb}: {'not kept' if exit_code else 'done'}\n\n{table}```text\n{said}\n```\n"


def _promise(told: Mapping[str, object]) -> Promise:
    limit, found = (_float(told.get(key)) for key in ("limit", "found"))
    return Promise(str(told.get("name")), limit, found, str(told.get("unit")), told.get("kept") is True)


def _last_report(document: Mapping[str, object]) -> Mapping[str, object]:
    """Find the report of a quantization: the document itself, or that of the last step that quantized."""
    found = [document, *(step.get("result") for step in _mappings(document.get("steps")))]
    reports = [one for one in found if isinstance(one, Mapping) and one.get("schema") == SCHEMA]
    return reports[-1] if reports else {}


def _evaluated(document: Mapping[str, object]) -> object:
    files = _mappings(document.get("files"))
    return files[0].get("accuracy") if files else None


def _inside(value: object, *path: str) -> object:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _warnings(document: Mapping[str, object]) -> list[str]:
    results = [document, *(step.get("result") for step in _mappings(document.get("steps")))]
    told = [one.get("warnings") for one in results if isinstance(one, Mapping)]
    return [str(text) for texts in told if isinstance(texts, list | tuple) for text in texts]


def _mappings(value: object) -> list[Mapping[str, object]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list | tuple) else []


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value) if isinstance(value, int) else ""


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
