from __future__ import annotations

import os
import xml.etree.ElementTree as ET

import pytest
from few_digits import few_digits
from shell import call

import qcaps
from qcaps.errors import InfeasibleError, RecipeError

TINY = "dataset: digits, decoder: none, model-arg: ['conv_channels=[8, 8, 8, 16]']"


@pytest.fixture(scope="module", autouse=True)
def _few_digits():
    with few_digits():
        yield


@pytest.fixture
def write(tmp_path):
    def to_file(*lines: str) -> str:
        (tmp_path / "r.yaml").write_text("\n".join(("schema: qcaps.recipe/1", *lines)))
        return str(tmp_path / "r.yaml")

    return to_file


def test_names_that_match_nothing_are_told_together_before_any_computing(write, tmp_path):
    path = write(
        "steps:",
        f"  - {{step: train, {TINY}}}",
        "  - step: prune",
        "    flops: 0.5",
        "    only: ['conv9.*', 'conv1.*']",
        "    at-least: ['priamry.types=4']",
        "  - step: quantize",
        "    pin: ['conv1.weight=8', 'conv7.weight=4']",
    )
    told = []
    with pytest.raises(RecipeError) as raised:
        qcaps.run(path, out=tmp_path / "out", on_progress=told.append)
    assert [(problem.line, problem.path) for problem in raised.value.problems] == [
        (6, "steps[1].only"),
        (7, "steps[1].at-least"),
        (9, "steps[2].pin"),
    ]
    assert "'conv9.*'" in raised.value.problems[0].message
    assert (told, os.path.exists(tmp_path / "out")) == ([], False)


def test_a_number_that_the_network_does_not_know_is_a_problem_of_its_line(write):
    path = write("steps:", "  - {step: train, dataset: digits, model-arg: [chanels=3]}")
    with pytest.raises(RecipeError) as raised:
        qcaps.run(path, dry_run=True)
    (problem,) = raised.value.problems
    assert (problem.line, "chanels" in problem.message) == (3, True)


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    "last",
    [
        "  - {step: quantize, memory-budget: 1 kB}",
        "  - {step: quantize, activation-budget: 1 B}",
        "  - {step: prune, flops: 0.001}",
    ],
)
def test_what_arithmetic_rules_out_is_named_before_the_training(write, tmp_path, last, dry):
    told = []
    with pytest.raises(InfeasibleError):
        qcaps.run(write("steps:", f"  - {{step: train, {TINY}}}", last), dry_run=dry, on_progress=told.append)
    assert told == []


def test_a_hopeless_recipe_is_exit_code_4_and_an_error_of_junit_where_a_folder_is_named(capsys, write, tmp_path):
    path = write("steps:", f"  - {{step: train, {TINY}}}", "  - {step: quantize, memory-budget: 1 kB}")
    answer = call(capsys, "run", path, "--out", tmp_path / "out")
    assert answer.code == 4
    assert answer.err.startswith("error: memory budget 1.000 kB is below the minimum of ")
    (case,) = ET.parse(tmp_path / "out" / "junit.xml").getroot()
    assert case.find("error") is not None


def test_a_dry_run_bounds_the_cost_of_every_step(write):
    path = write(
        "steps:",
        f"  - {{step: train, epochs: 3, {TINY}}}",
        "  - {step: quantize, max-image-forwards: 1000, calibration-images: 20}",
        "  - {step: eval, latency: false}",
    )
    outcome = qcaps.run(path, dry_run=True)
    train, quantize, evaluate = outcome.document["cost"]
    images = {split: len(_images(split)) for split in ("train", "validation", "test")}
    assert train["image_forwards"] == 3 * (3 * images["train"] + images["validation"])
    # The search, calibration and the float network there, and two artifacts and four other passes in the proof.
    assert quantize["image_forwards"] == 1000 + 2 * 20 + images["validation"] + 6 * images["test"]
    assert evaluate["image_forwards"] == 3 * images["test"]
    assert all(step["seconds"] > 0 for step in (train, quantize, evaluate))
    assert f"train: at most {train['image_forwards']:,} image-forwards" in outcome.lines[1]


def _images(split):
    from qcaps.data.load import load_split
    from qcaps.data.spec import data_spec

    return load_split(data_spec("digits"), split)


def test_a_dry_run_without_images_says_so_and_downloads_nothing(tmp_path, monkeypatch):
    import qcaps.data.idx

    monkeypatch.setattr(qcaps.data.idx, "_download", lambda *_: pytest.fail("a download"))
    outcome = qcaps.run("efficient_capsnet_mnist", dry_run=True, data_dir=tmp_path)
    assert [step["image_forwards"] for step in outcome.document["cost"]] == [None] * 3
    assert outcome.lines[1].endswith("its cost is not known")


def test_a_key_names_what_a_recipe_says_and_begins_with(capsys, write, tiny_checkpoint, tmp_path):
    def key(*changes: str) -> str:
        answer = call(capsys, "run", tmp_path / "r.yaml", *changes, "--print-key")
        assert (answer.code, answer.err) == (0, "")
        return answer.out.strip()

    start = tmp_path / "start.pt"
    start.write_bytes(tiny_checkpoint.read_bytes())
    write("# a remark", "model: {checkpoint: start.pt}", "steps: [{step: quantize}]")
    first = key()
    assert len(first) == 64
    assert key() == first
    assert key("quantize.seed=42") == first  # which is the default
    assert key("quantize.seed=43") != first
    start.write_bytes(tiny_checkpoint.read_bytes()[:-1])
    assert key() != first
