"""What ships with qcaps: checkpoints that score what their page says, and the commands the README shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from qcaps_cli.main import main

import qcaps
from qcaps.artifacts.bundled import bundled_folder

CHECKPOINTS = sorted(bundled_folder("pretrained").glob("*.pt"))


def test_two_checkpoints_ship():
    assert [path.name for path in CHECKPOINTS] == ["efficient_capsnet_digits.pt", "efficient_capsnet_mnist.pt"]


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.name)
def test_a_shipped_checkpoint_is_small_and_can_reconstruct(path: Path):
    loaded = qcaps.load(path)
    assert loaded.file_bytes <= 3_000_000
    assert loaded.model.decoder == "deconv28"
    assert loaded.network.decoder is not None


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.name)
def test_the_page_of_the_checkpoints_names_the_recipe_of_each(path: Path):
    page = (bundled_folder("pretrained") / "README.md").read_text()
    assert f"`{path.name}` | `qcaps run {path.stem}`" in page
    assert (bundled_folder("recipes") / f"{path.stem}.yaml").is_file()


def test_the_default_checkpoint_scores_what_its_page_says():
    (entry,) = qcaps.evaluate(latency=False).document["files"]
    assert (entry["file"].split("/")[-1], entry["correct"], entry["images"]) == (
        "efficient_capsnet_digits.pt",
        358,
        360,
    )


@pytest.mark.real_data
def test_the_mnist_checkpoint_scores_what_its_page_says(data_dir: Path):
    outcome = qcaps.evaluate("efficient_capsnet_mnist.pt", data_dir=data_dir, latency=False)
    (entry,) = outcome.document["files"]
    # Other processors round differently in the last place: a few images may flip.
    assert entry["images"] == 10_000
    assert abs(entry["correct"] - 9966) <= 5


def test_quantizing_needs_nothing_but_a_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["quantize", "--memory-budget", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    artifact = tmp_path / "runs" / "efficient_capsnet_digits-quantize" / "satisfied.pt"
    assert report["result"][0]["file_bytes"] == artifact.stat().st_size <= 1_000_000


@pytest.mark.slow
@pytest.mark.real_data
def test_mnist_fits_a_fifth_of_a_megabyte_within_its_tolerance(tmp_path: Path, data_dir: Path):
    outcome = qcaps.quantize(
        "efficient_capsnet_mnist.pt", accuracy_tolerance="0.2", memory_budget="0.2", data_dir=data_dir, out=tmp_path
    )
    assert outcome.exit_code == 0
    assert (tmp_path / "satisfied.pt").stat().st_size <= 200_000
    (entry,) = qcaps.evaluate(tmp_path / "satisfied.pt", data_dir=data_dir, latency=False).document["files"]
    recorded = outcome.document["result"][0]["report"]["score"]
    assert entry["correct"] == recorded["correct"]
