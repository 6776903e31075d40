from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from toy_pruning_reports import toy_pruning
from toy_reports import toy_report

from qcaps.reports.documents import json_text
from qcaps.reports.json_schemas import REPORTS, file_name, schema_of
from qcaps.reports.pruning import to_document as pruning_document
from qcaps.reports.quantization import to_document

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"
DOCUMENTS = {"qcaps.report/1": to_document(toy_report()), "qcaps.prune/1": pruning_document(toy_pruning())}
PROMISED = {
    *("schema", "verdict", "promises", "baseline", "result", "layers", "search", "uniform_routing", "inputs"),
    *("versions", "run"),
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_published_schema_is_that_of_the_report(name):
    published = (FOLDER / file_name(name)).read_text()
    hint = "write it with `python -m qcaps.reports.json_schemas docs/schemas`; if a field is gone, raise the version"
    assert published == json_text(schema_of(name)), hint


def test_every_file_is_the_schema_of_a_report():
    assert {path.name for path in FOLDER.iterdir()} == {file_name(name) for name in REPORTS}


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_has_the_keys_of_its_schema(name):
    schema, document = json.loads((FOLDER / file_name(name)).read_text()), json.loads(json_text(DOCUMENTS[name]))
    assert document["schema"] == schema["properties"]["schema"]["const"] == name
    assert document.keys() == schema["properties"].keys()
    assert schema["properties"].keys() - set(schema["required"]) == {"run"}
    TypeAdapter(REPORTS[name]).validate_python({k: v for k, v in document.items() if k != "schema"})


def test_the_report_of_a_quantization_has_what_was_promised():
    assert set(schema_of("qcaps.report/1")["properties"]) >= PROMISED


def test_a_number_may_be_null_and_a_name_may_not():
    properties = schema_of("qcaps.report/1")["$defs"]["Promise"]["properties"]
    assert properties["found"]["type"] == ["number", "null"]
    assert properties["name"]["type"] == "string"
