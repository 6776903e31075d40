from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import yaml
from few_digits import few_digits

import qcaps
import qcaps.recipe.chain
from qcaps.artifacts.checkpoint import read_checkpoint, write_checkpoint
from qcaps.errors import RecipeError
from qcaps.verbs.outcome import Outcome

RECIPE = """\
schema: qcaps.recipe/1
seed: 5
model: {checkpoint: start.pt}
steps:
  - step: prune
    flops: 0.6
    cap: ["0.7", "conv1.*=0.25"]
    strategy: narrow.json
    candidates: 1
    improve: 0
    calibration-images: 20
    finetune-epochs: 0
  - {step: quantize, search: common-width, widths: "8", prepare: false, calibration-images: 20}
promises: {accuracy-tolerance: 100}
"""
STRATEGY = {"conv1.channels": 7, "conv2.channels": 4, "conv3.channels": 4}


@pytest.fixture(scope="module", autouse=True)
def _few_digits():
    with few_digits():
        yield


@pytest.fixture(scope="module")
def folder(tiny_checkpoint, tmp_path_factory):
    """Give a folder with a recipe, a checkpoint and a strategy beside it."""
    place = tmp_path_factory.mktemp("recipe")
    (place / "r.yaml").write_text(RECIPE)
    (place / "start.pt").write_bytes(tiny_checkpoint.read_bytes())
    (place / "narrow.json").write_text(json.dumps(STRATEGY))
    return place


@pytest.fixture(scope="module")
def ran(folder, tmp_path_factory):
    """Run it, once for all tests that only look."""
    out = tmp_path_factory.mktemp("ran")
    return out, qcaps.run(str(folder / "r.yaml"), out=out, reproducible=True)


def report_of(out, step):
    return json.loads((out / step / "report.json").read_text())


def test_the_pruned_network_is_the_one_that_is_quantized(ran):
    out, outcome = ran
    assert outcome.exit_code == 0
    assert {path.name for path in (out / "prune").glob("*.*")} >= {"checkpoint.pt", "report.md", "strategies.svg"}
    assert report_of(out, "quantize")["inputs"]["checkpoint sha256"] == report_of(out, "prune")["sha256"]


def test_a_strategy_is_looked_for_beside_the_recipe(ran):
    origins = [row["origin"] for row in report_of(ran[0], "prune")["search"]["ranked"]]
    assert sorted(origins) == ["drawn", "given"]


def test_the_seed_of_the_recipe_and_reproducible_reach_the_step(ran):
    report = report_of(ran[0], "prune")
    assert report["search"]["seed"] == 5
    assert "run" not in report


def test_the_resolved_recipe_says_the_same(ran):
    text = (ran[0] / "recipe.resolved.yaml").read_text()
    prune = yaml.safe_load(text)["steps"][0]
    assert prune["cap"] == ["*=0.7", "conv1.*=0.25"]
    assert (prune["top-k"], prune["importance"]) == (3, "l1")
    again = qcaps.run(str(ran[0] / "recipe.resolved.yaml"), dry_run=True).document["resolved"]
    assert again == text


@pytest.fixture
def called(monkeypatch):
    """Replace the verbs by something that only notes its name."""
    names = []

    def noted(name):
        def verb(*arguments, **options):
            names.append(name)
            return Outcome(0, (), {}, (name,))

        return verb

    for name in ("prune", "quantize"):
        monkeypatch.setattr(qcaps.recipe.chain, name, noted(name))
    return names


def test_a_finished_pruning_is_not_repeated(folder, ran, called):
    again = qcaps.run(str(folder / "r.yaml"), out=ran[0], reproducible=True)
    assert "--fresh makes it again" in again.lines[0]
    assert called == []


@pytest.mark.parametrize("changed", ["narrow.json", "start.pt"])
def test_a_pruning_is_repeated_when_a_file_that_it_takes_has_changed(folder, ran, called, tmp_path, changed):
    out = shutil.copytree(ran[0], tmp_path / "out")
    place = shutil.copytree(folder, tmp_path / "recipe")
    if changed == "start.pt":
        checkpoint, _ = read_checkpoint(place / changed)
        write_checkpoint(place / changed, dataclasses.replace(checkpoint, record={**checkpoint.record, "note": "new"}))
    else:
        (place / changed).write_bytes((place / changed).read_bytes() + b" ")
    qcaps.run(str(place / "r.yaml"), out=out, reproducible=True)
    assert called[0] == "prune"


def test_a_wrong_option_of_the_step_is_a_problem_with_its_line(folder):
    with pytest.raises(RecipeError) as raised:
        qcaps.run(str(folder / "r.yaml"), "prune.flops=2", "prune.importance=l3", dry_run=True)
    assert sorted(problem.path for problem in raised.value.problems) == ["steps[0].flops", "steps[0].importance"]
