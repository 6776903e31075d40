from __future__ import annotations

import csv
import json
import shutil

import pytest
import yaml
from few_digits import few_digits

import qcaps
from qcaps.errors import RecipeError, UsageError
from qcaps.recipe.reading import read_recipe

HEAD = "schema: qcaps.recipe/1\n"
STEPS = "steps: [{step: train, name: first, epochs: 1}, {step: quantize}]\n"


def read(tmp_path, text: str, *changes: str):
    (tmp_path / "r.yaml").write_text(HEAD + STEPS + text)
    return read_recipe(str(tmp_path / "r.yaml"), changes)


def test_every_choice_of_values_is_a_variant(tmp_path):
    found = read(tmp_path, "matrix: {promises.memory-budget: [1 MB, 2 MB], quantize.rounding: [truncation, auto]}")
    assert {name: dict(recipe.steps[1].options) for name, recipe in found.variants.items()} == {
        "memory-budget=1MB,rounding=truncation": {"memory-budget": "1 MB", "rounding": "truncation"},
        "memory-budget=1MB,rounding=auto": {"memory-budget": "1 MB", "rounding": "auto"},
        "memory-budget=2MB,rounding=truncation": {"memory-budget": "2 MB", "rounding": "truncation"},
        "memory-budget=2MB,rounding=auto": {"memory-budget": "2 MB", "rounding": "auto"},
    }
    assert found.base.steps[1].options == {}


def test_a_recipe_without_a_matrix_is_its_only_variant(tmp_path):
    found = read(tmp_path, "")
    assert found.variants == {"": found.base}


def test_paths_that_end_alike_are_told_apart_by_the_whole_of_them(tmp_path):
    found = read(tmp_path, "matrix: {first.seed: [1], quantize.seed: [2]}")
    assert list(found.variants) == ["first.seed=1,quantize.seed=2"]


@pytest.mark.parametrize(
    ("matrix", "path"),
    [
        ("[1]", "matrix"),
        ("{}", "matrix"),
        ("{quantize.rounding: truncation}", "matrix.quantize.rounding"),
        ("{quantize.rounding: []}", "matrix.quantize.rounding"),
        ("{quantise.rounding: [truncation]}", "matrix.quantise.rounding"),
        ("{quantize.rounding: [truncate]}", "steps[1].rounding"),
        ("{quantize.widths: [[1, 2], ['1+2']]}", "steps[1].widths"),
        ("{quantize.seed: [1, '1']}", "matrix"),
        (f"{{quantize.seed: {list(range(101))}}}", "matrix"),
    ],
)
def test_what_is_wrong_with_a_matrix_is_told_with_its_line(tmp_path, matrix, path):
    with pytest.raises(RecipeError) as raised:
        read(tmp_path, f"matrix: {matrix}")
    assert (3, path) in [(problem.line, problem.path) for problem in raised.value.problems]


def test_an_override_holds_for_all_variants(tmp_path):
    found = read(tmp_path, "matrix: {quantize.seed: [1, 2]}", "first.epochs=7")
    assert [recipe.steps[0].options["epochs"] for recipe in found.variants.values()] == [7, 7]
    with pytest.raises(UsageError):
        read(tmp_path, "matrix: {quantize.seed: [1, 2]}", "second.epochs=7")


RECIPE = """\
schema: qcaps.recipe/1
seed: 5
model: {checkpoint: start.pt}
steps:
  - {step: eval, name: before, latency: false}
  - {step: quantize, search: common-width, prepare: false, calibration-images: 20}
  - {step: eval, latency: false}
matrix:
  promises.accuracy-tolerance: [100, 0]
"""
NAMES = ["accuracy-tolerance=100", "accuracy-tolerance=0"]


@pytest.fixture(scope="module", autouse=True)
def _few_digits():
    with few_digits():
        yield


@pytest.fixture(scope="module")
def ran(tiny_checkpoint, tmp_path_factory):
    """Run a small matrix, once for all tests that only look."""
    place = tmp_path_factory.mktemp("matrix")
    (place / "r.yaml").write_text(RECIPE)
    shutil.copy(tiny_checkpoint, place / "start.pt")
    return place, qcaps.run(str(place / "r.yaml"), out=place / "out", reproducible=True)


def test_what_variants_begin_with_is_run_once_and_the_rest_in_folders_of_their_own(ran):
    out = ran[0] / "out"
    assert (out / "before" / "evaluation.json").is_file()
    for name in NAMES:
        assert sorted(path.name for path in (out / name).iterdir()) == ["eval", "quantize"]
    assert [step["name"] for step in ran[1].document["steps"]] == [
        "before",
        *(f"{name}/{step}" for name in NAMES for step in ("quantize", "eval")),
    ]


def test_one_table_sums_the_variants_up(ran):
    out, outcome = ran[0] / "out", ran[1]
    reports = [json.loads((out / name / "quantize" / "report.json").read_text()) for name in NAMES]
    rows = list(csv.DictReader((out / "variants.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == NAMES
    assert [row["verdict"] for row in rows] == [report["verdict"] for report in reports]
    assert [int(row["file_bytes"]) for row in rows] == [report["result"][0]["file_bytes"] for report in reports]
    markdown = (out / "report.md").read_text()
    assert all(f"| {name} | " in markdown for name in NAMES)
    assert [row["name"] for row in outcome.document["variants"]] == NAMES
    assert out / "report.md" in outcome.files
    assert any(line.startswith(NAMES[1]) for line in outcome.lines)


def test_the_exit_code_is_that_of_the_worst_variant(ran):
    codes = [step["exit_code"] for step in ran[1].document["steps"]]
    assert ran[1].exit_code == max(codes)


def test_the_resolved_matrix_gives_the_same_run(ran, tmp_path):
    place = ran[0]
    resolved = place / "out" / "recipe.resolved.yaml"
    assert yaml.safe_load(resolved.read_text())["matrix"] == {"promises.accuracy-tolerance": [100, 0]}
    again = read_recipe(str(resolved), ())
    assert list(again.variants) == NAMES
    assert [str(recipe.steps[1].options["accuracy-tolerance"]) for recipe in again.variants.values()] == ["100", "0"]


def test_a_second_run_repeats_nothing(ran):
    told = []
    qcaps.run(str(ran[0] / "r.yaml"), out=ran[0] / "out", reproducible=True, on_progress=told.append)
    assert told == []


def test_a_damaged_result_is_made_again(ran, tmp_path):
    shutil.copytree(ran[0] / "out", tmp_path / "out")
    report = tmp_path / "out" / NAMES[0] / "quantize" / "report.json"
    before = report.read_bytes()
    report.write_bytes(before[:-5])
    told = []
    shutil.copy(ran[0] / "start.pt", tmp_path / "start.pt")
    (tmp_path / "r.yaml").write_text(RECIPE)
    qcaps.run(str(tmp_path / "r.yaml"), out=tmp_path / "out", reproducible=True, on_progress=told.append)
    assert {step.phase.split(": ")[0] for step in told} >= {"quantize"}
    assert report.read_bytes() == before
