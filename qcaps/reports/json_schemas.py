"""The JSON schemas of reports, made from their classes; the published files lie in ``docs/schemas``.

``python -m qcaps.reports.json_schemas docs/schemas`` writes them. Fields may be added within a version; whoever renames
or removes one raises it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from pydantic import TypeAdapter

from qcaps.reports.documents import json_text
from qcaps.reports.pruning import SCHEMA as PRUNING
from qcaps.reports.pruning import PruningReport
from qcaps.reports.quantization import SCHEMA as QUANTIZATION
from qcaps.reports.quantization import QuantizationReport

REPORTS: Mapping[str, type] = {QUANTIZATION: QuantizationReport, PRUNING: PruningReport}
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_of(name: str) -> dict[str, object]:
    """Give the JSON schema of a report; a number that is not finite is null there."""
    made = TypeAdapter(REPORTS[name]).json_schema(mode="serialization")
    stripped = cast("dict[str, object]", _stripped(made))
    properties = cast("dict[str, object]", stripped["properties"])
    required = [key for key in cast("list[str]", stripped["required"]) if key != "run"]
    return {
        **stripped,
        "$schema": DIALECT,
        "title": name,
        "properties": {"schema": {"const": name}, **properties},
        "required": sorted([*required, "schema"]),
    }


def file_name(name: str) -> str:
    """Name the published file of a schema."""
    return f"{name.replace('/', '-')}.json"


def _stripped(value: object, *, names: bool = False) -> object:
    """Leave out prose, which may change at any time, and let numbers be null; keys that are `names` of fields stay."""
    if isinstance(value, list):
        return [_stripped(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {
        key: _stripped(item, names=key in {"properties", "$defs"})
        for key, item in value.items()
        if names or key not in {"title", "description"}
    }
    return {**kept, "type": ["number", "null"]} if not names and kept.get("type") == "number" else kept


def main() -> None:
    """Write every schema into the folder that is named."""
    for name in REPORTS:
        (Path(sys.argv[1]) / file_name(name)).write_text(json_text(schema_of(name)), encoding="utf-8")


if __name__ == "__main__":
    main()
