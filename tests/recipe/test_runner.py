from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import yaml
from pages import check_page
from shell import after, call

import qcaps
import qcaps.recipe.chain
from qcaps.errors import RecipeError, StoppedError, UsageError
from qcaps.recipe.lookup import shipped_recipes

TINY = """\
schema: qcaps.recipe/1
description: A tiny network on the digits.
seed: 5
steps:
  - step: train
    dataset: digits
    epochs: 1
    batch-size: 50
    lr: 0.01
    decoder: none
    device: cpu
    model-arg: ["conv_channels=[8, 8, 8, 16]", norm_momentum=0.1]
  - step: quantize
  - {step: eval, latency: false}
promises:
  accuracy-tolerance: 3
  memory-budget: 30 kB
"""


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def ran(recipe, tmp_path_factory):
    """Run the tiny recipe, once for all tests that only look."""
    out = tmp_path_factory.mktemp("ran")
    return out, qcaps.run(str(recipe), out=out, reproducible=True)


def test_every_step_writes_into_a_folder_of_its_name(ran):
    out, outcome = ran
    assert outcome.exit_code == 0
    assert set(files_of(out)) == {
        *("recipe.resolved.yaml", "report.html", "junit.xml"),
        *(f"{step}/{name}" for step in ("train", "quantize", "eval") for name in ("step.json", "report.html")),
        *("train/checkpoint.pt", "train/history.csv", "train/history.json"),
        *("quantize/satisfied.pt", "quantize/report.json", "quantize/report.md", "quantize/junit.xml"),
        *("quantize/pareto.csv", "quantize/sensitivity.csv"),
        *("quantize/journal.jsonl", "quantize/journal.jsonl.lock"),
        "eval/evaluation.json",
    }
    assert all(file.is_file() for file in outcome.files)
    assert outcome.files[0] == out / "recipe.resolved.yaml"


def test_every_step_takes_what_the_one_before_left(ran):
    out, _ = ran
    report = json.loads((out / "quantize" / "report.json").read_text())
    evaluation = json.loads((out / "eval" / "evaluation.json").read_text())
    assert [entry["file"] for entry in evaluation["files"]] == ["train/checkpoint.pt", "quantize/satisfied.pt"]
    assert "run" not in evaluation
    checkpoint, artifact = evaluation["files"]
    assert checkpoint["sha256"] == report["inputs"]["checkpoint sha256"]
    assert artifact["sha256"] == report["result"][0]["sha256"]
    assert artifact["correct"] == report["result"][0]["report"]["score"]["correct"]
    assert checkpoint["correct"] == report["baseline"]["report"]["correct"]


def test_the_page_of_the_run_holds_those_of_its_steps(ran):
    root = check_page((ran[0] / "report.html").read_text())
    assert [one.text for one in root.all("h1")] == ["✓ Every promise is kept"]
    assert [one.text for one in root.all("h2")] == ["train", "quantize", "eval", "Recipe with every default"]
    assert root.by_id("step1-training").text.startswith("Training curves")
    assert "memory budget (file) 30.000 kB" in root.by_id("step2").text


def test_the_promises_of_the_recipe_are_those_of_the_report(ran):
    promises = json.loads((ran[0] / "quantize" / "report.json").read_text())["promises"]
    assert [promise["limit"] for promise in promises if promise["unit"] == "bytes"] == [30_000]
    assert len(promises) == 3


def test_two_folders_hold_the_same_bytes(recipe, ran, tmp_path):
    qcaps.run(str(recipe), out=tmp_path / "deep" / "er", reproducible=True)
    assert files_of(tmp_path / "deep" / "er") == files_of(ran[0])


def test_the_document_has_a_result_for_every_step(ran):
    document = ran[1].document
    assert (document["schema"], document["recipe"]) == ("qcaps.run/1", "tiny")
    assert [(step["name"], step["exit_code"]) for step in document["steps"]] == [
        ("train", 0),
        ("quantize", 0),
        ("eval", 0),
    ]


def test_lines_of_a_step_carry_its_name(ran):
    assert ran[1].lines[0].startswith("train: efficient-capsnet on digits: validation accuracy")


def test_the_resolved_recipe_spells_out_every_default(ran):
    resolved = yaml.safe_load((ran[0] / "recipe.resolved.yaml").read_text())
    train, quantize, evaluate = resolved["steps"]
    assert (train["decay-rate"], train["hard-training"], train["split-seed"]) == (0.96, False, 1234)
    assert resolved["promises"] == {
        "accuracy-tolerance": "3",
        "tolerance-kind": "relative",
        "memory-budget": "30000B",
        "budget-on": "file",
    }
    assert not resolved["promises"].keys() & quantize.keys()
    assert quantize["rounding"] == "round_to_nearest"
    assert [step["seed"] for step in resolved["steps"]] == [5, 5, 5]
    assert evaluate["split"] == "test"


def test_the_resolved_recipe_gives_the_same_run(ran, tmp_path):
    qcaps.run(str(ran[0] / "recipe.resolved.yaml"), out=tmp_path, reproducible=True)
    assert files_of(tmp_path) == files_of(ran[0])


@pytest.mark.parametrize("name", [entry.name for entry in shipped_recipes()])
def test_a_resolved_recipe_resolves_to_itself(name, tmp_path):
    first = qcaps.run(name, dry_run=True).document["resolved"]
    (tmp_path / "again.yaml").write_text(first)
    assert qcaps.run(str(tmp_path / "again.yaml"), dry_run=True).document["resolved"] == first


def test_a_finished_step_is_not_repeated(recipe, tmp_path):
    qcaps.run(str(recipe), out=tmp_path, reproducible=True)
    before, told = files_of(tmp_path), []
    again = qcaps.run(str(recipe), out=tmp_path, reproducible=True, on_progress=told.append)
    assert told == []
    assert all("was finished before; --fresh makes it again" in line for line in again.lines)
    assert files_of(tmp_path) == before
    assert again.document["steps"][1]["result"]["verdict"] == "satisfied"


def test_fresh_trains_again(recipe, tmp_path, ran):
    (tmp_path / "train").mkdir()
    for name in ("checkpoint.pt", "history.csv", "history.json", "report.html", "step.json"):
        (tmp_path / "train" / name).write_bytes((ran[0] / "train" / name).read_bytes())
    told = []
    qcaps.run(str(recipe), out=tmp_path, fresh=True, on_progress=told.append)
    assert [step.done for step in told if step.phase == "train: epoch 1/1"] == list(range(1, 24))


def test_a_changed_training_is_made_anew(recipe, ran, tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("checkpoint.pt", "history.csv", "history.json", "report.html", "step.json"):
        (tmp_path / "train" / name).write_bytes((ran[0] / "train" / name).read_bytes())
    qcaps.run(str(recipe), "train.lr=0.02", out=tmp_path)
    assert (tmp_path / "train" / "checkpoint.pt").read_bytes() != (ran[0] / "train" / "checkpoint.pt").read_bytes()


@pytest.mark.parametrize("phase", ["train: epoch", "quantize: front", "eval: evaluate"])
def test_an_interrupted_run_continues_to_the_same_bytes(recipe, ran, tmp_path, phase):
    listener = after(1, lambda: signal.raise_signal(signal.SIGTERM), phase=phase)
    with pytest.raises(StoppedError):
        qcaps.run(str(recipe), out=tmp_path, reproducible=True, on_progress=listener)
    assert not (tmp_path / "eval" / "evaluation.json").exists()
    qcaps.run(str(recipe), out=tmp_path, reproducible=True)
    assert files_of(tmp_path) == files_of(ran[0])


def test_phases_carry_the_name_of_their_step(recipe, ran, tmp_path):
    told = []
    (tmp_path / "train").mkdir()
    for name in ("checkpoint.pt", "history.csv", "history.json", "report.html", "step.json"):
        (tmp_path / "train" / name).write_bytes((ran[0] / "train" / name).read_bytes())
    qcaps.run(str(recipe), out=tmp_path, reproducible=True, on_progress=told.append)
    assert {step.phase.split(": ")[0] for step in told} == {"quantize", "eval"}


def test_a_broken_promise_of_one_step_is_that_of_the_run(recipe, ran, tmp_path):
    (tmp_path / "r.yaml").write_text(
        f"schema: qcaps.recipe/1\nmodel: {{checkpoint: {ran[0] / 'train' / 'checkpoint.pt'}}}\n"
        "steps: [{step: quantize, accuracy-tolerance: 0, memory-budget: 10.7 kB}, {step: eval}]\n"
    )
    outcome = qcaps.run(str(tmp_path / "r.yaml"), out=tmp_path / "out")
    assert outcome.exit_code == 1
    assert [step["exit_code"] for step in outcome.document["steps"]] == [1, 0]
    evaluated = outcome.document["steps"][1]["result"]["files"]
    assert [Path(entry["file"]).name for entry in evaluated] == ["checkpoint.pt", "memory.pt", "accuracy.pt"]


def test_a_dry_run_writes_nothing_and_prints_the_resolved_recipe(recipe, ran, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = qcaps.run(str(recipe), dry_run=True)
    assert outcome.exit_code == 0
    assert outcome.files == ()
    assert outcome.lines[0] == (ran[0] / "recipe.resolved.yaml").read_text()
    assert os.listdir(tmp_path) == []


def test_a_dry_run_shows_the_changes(recipe):
    resolved = qcaps.run(str(recipe), "train.epochs=9", "promises.memory-budget=20KiB", dry_run=True).document[
        "resolved"
    ]
    read = yaml.safe_load(resolved)
    assert read["steps"][0]["epochs"] == 9
    assert read["promises"]["memory-budget"] == "20480B"


def test_a_wrong_recipe_is_refused_before_anything_is_written(recipe, tmp_path):
    with pytest.raises(RecipeError):
        qcaps.run(str(recipe), "train.epohcs=3", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_looked_for_beside_the_recipe(ran, tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "start.pt").write_bytes((ran[0] / "train" / "checkpoint.pt").read_bytes())
    (folder / "r.yaml").write_text(
        "schema: qcaps.recipe/1\nmodel: {checkpoint: start.pt}\nsteps: [{step: eval, latency: false}]\n"
    )
    monkeypatch.chdir(tmp_path)
    outcome = qcaps.run("elsewhere/r.yaml", out=Path("out"))
    evaluated = outcome.document["steps"][0]["result"]["files"]
    assert [entry["file"] for entry in evaluated] == [str(folder / "start.pt")]
    resolved = qcaps.run("out/recipe.resolved.yaml", dry_run=True).document["resolved"]
    assert resolved == Path("out/recipe.resolved.yaml").read_text()


def test_a_checkpoint_that_is_not_there_is_a_usage_error(tmp_path):
    (tmp_path / "r.yaml").write_text("schema: qcaps.recipe/1\nmodel: {checkpoint: nowhere.pt}\nsteps: [{step: eval}]\n")
    with pytest.raises(UsageError, match="no such file"):
        qcaps.run(str(tmp_path / "r.yaml"), out=tmp_path / "out")


def test_options_of_the_runner_reach_every_step(recipe, tmp_path, monkeypatch):
    given = {}

    def record(verb):
        real = getattr(qcaps.recipe.chain, verb)

        def call(*arguments, on_progress, **options):
            given[verb] = options
            return real(*arguments, on_progress=on_progress, **options)

        return call

    for verb in ("train", "quantize", "evaluate"):
        monkeypatch.setattr(qcaps.recipe.chain, verb, record(verb))
    qcaps.run(str(recipe), out=tmp_path, data_dir=tmp_path)
    assert [given[verb]["data_dir"] for verb in ("train", "quantize", "evaluate")] == [tmp_path] * 3


def test_the_command_tells_all_problems_of_a_recipe(tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("schema: qcaps.recipe/1\nsedd: 1\nsteps:\n  - step: trian\n")
    answer = call(capsys, "run", tmp_path / "r.yaml")
    assert (answer.code, answer.out) == (2, "")
    lines = answer.err.splitlines()
    assert lines[0] == "error: 2 problems in r:"
    assert [line.split(":")[0] for line in lines[1:]] == ["  line 2, sedd", "  line 4, steps[0].step"]


def test_the_problems_of_a_recipe_are_part_of_the_json_document(tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("schema: qcaps.recipe/1\nsedd: 1\nsteps:\n  - step: trian\n")
    answer = call(capsys, "run", tmp_path / "r.yaml", "--json")
    document = json.loads(answer.out)
    assert (document["schema"], document["exit_code"]) == ("qcaps.error/1", 2)
    assert [(p["line"], p["path"]) for p in document["problems"]] == [(2, "sedd"), (4, "steps[0].step")]


def test_a_hostile_recipe_is_refused_with_one_line_per_problem(tmp_path, capsys):
    (tmp_path / "bomb.yaml").write_text("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n")
    answer = call(capsys, "run", tmp_path / "bomb.yaml")
    assert answer.code == 2
    assert all("is not allowed" in line for line in answer.err.splitlines()[1:])
