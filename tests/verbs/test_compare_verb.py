from __future__ import annotations

import csv
import json
import os

import pytest
import torch
from shell import call

import qcaps
from qcaps.errors import UsageError
from qcaps.quantization.loading import load


@pytest.fixture(scope="module")
def artifact(tiny_checkpoint, tmp_path_factory):
    """Quantize the tiny network, once for all tests; nobody writes into its folder."""
    return qcaps.quantize(tiny_checkpoint, accuracy_tolerance=5, out=tmp_path_factory.mktemp("artifact")).files[0]


@pytest.fixture(scope="module")
def both(tiny_checkpoint, artifact) -> list[dict]:
    return qcaps.compare(tiny_checkpoint, artifact, flips=True).document["files"]


def test_a_checkpoint_has_32_bits_and_an_artifact_those_of_its_report(both, artifact):
    (reported,) = json.loads((artifact.parent / "report.json").read_text())["result"]
    before, after = both
    assert (before["kind"], before["weight_bits"], before["activation_bits"]) == ("checkpoint", 32, 32)
    assert after["kind"] == "artifact"
    assert after["weight_bits"] == pytest.approx(reported["weight_bits"])
    assert after["activation_bits"] == pytest.approx(reported["activation_bits"])
    assert (after["weight_bytes"], after["file_bytes"]) == (reported["payload_bytes"], reported["file_bytes"])
    assert before["weight_bytes"] == reported["float_bytes"]


def test_flips_are_those_of_the_report(both, artifact):
    (reported,) = json.loads((artifact.parent / "report.json").read_text())["result"]
    before, after = (one["flips"] for one in both)
    assert (before["lost"], before["gained"]) == (0, 0)
    assert (after["lost"], after["gained"]) == (reported["report"]["lost"], reported["report"]["gained"])
    assert after["correct"] == reported["report"]["score"]["correct"]


def test_growth_is_the_share_by_which_a_file_is_larger(both, tiny_checkpoint, artifact):
    sizes = [os.path.getsize(file) for file in (tiny_checkpoint, artifact)]
    assert [one["growth"] for one in both] == [0, pytest.approx(sizes[1] / sizes[0] - 1)]


def test_the_recorded_accuracy_is_that_of_the_images_that_chose_the_file(both, tiny_checkpoint):
    record = load(tiny_checkpoint).record
    epoch = record["history"][record["best_epoch"] - 1]
    assert both[0]["recorded"] == {"split": "validation", "images": 300, "correct": epoch["validation_correct"]}
    assert both[1]["recorded"]["split"] == "validation"


def test_without_being_asked_nothing_is_scored(tiny_checkpoint, artifact):
    told = []
    outcome = qcaps.compare(tiny_checkpoint, artifact, on_progress=told.append)
    assert told == []
    assert [one["flips"] for one in outcome.document["files"]] == [None, None]


def test_widths_that_differ_are_listed_and_others_are_not(capsys, tiny_checkpoint, artifact):
    plan = load(artifact).artifact.plan
    answer = call(capsys, "compare", tiny_checkpoint, artifact, artifact)
    assert answer.code == 0
    rows = [line.split() for line in answer.out.split("\n\n")[1].splitlines()]
    assert rows[0] == ["differs", "checkpoint.pt", "satisfied.pt", "satisfied.pt"]
    assert ["primary.weight", "32", "bits", *[str(plan.weights["primary.weight"].bits), "bits"] * 2] in rows
    assert not any(row[0] == "conv1.channels" for row in rows)


def test_units_that_were_pruned_are_listed(capsys, tiny_checkpoint, tmp_path):
    qcaps.prune(tiny_checkpoint, flops=0.6, candidates=1, improve=0, finetune_epochs=0, out=tmp_path)
    outcome = qcaps.compare(tiny_checkpoint, tmp_path / "checkpoint.pt")
    before, after = outcome.document["files"]
    changed = {unit for unit in before["units"] if before["units"][unit] != after["units"][unit]}
    listed = {line.split()[0] for line in "\n".join(outcome.lines).split("\n\n")[1].splitlines()[1:]}
    assert changed
    assert changed <= listed
    assert after["macs"] < before["macs"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--max-growth", 0), 0),
        (("--max-growth", -99), 1),
        (("--max-lost", 360), 0),
        (("--max-lost", -361), 1),
        (("--max-lost", 360, "--max-growth", -99), 1),
    ],
)
def test_a_gate_decides_the_exit_code(capsys, tiny_checkpoint, artifact, options, code):
    answer = call(capsys, "compare", tiny_checkpoint, artifact, *options, "--json")
    document = json.loads(answer.out)
    assert answer.code == code
    assert all(promise["kept"] for promise in document["promises"]) == (code == 0)
    assert len(document["promises"]) == len(options) // 2


def test_a_file_grows_by_whole_bytes_and_no_rounding_decides(tiny_checkpoint, artifact):
    small, large = os.path.getsize(artifact), os.path.getsize(tiny_checkpoint)
    growth = 100 * (large / small - 1)
    assert qcaps.compare(artifact, tiny_checkpoint, max_growth=growth + 1e-6).exit_code == 0
    assert qcaps.compare(artifact, tiny_checkpoint, max_growth=growth - 1e-3).exit_code == 1


def test_markdown_and_latex_are_tables_of_the_same_cells(capsys, tiny_checkpoint, artifact):
    words = ("compare", tiny_checkpoint, artifact, "--max-growth", 5, "--format")
    markdown = call(capsys, *words, "markdown").out
    latex = call(capsys, *words, "latex").out
    assert markdown.startswith("| file | network | rounding |")
    assert markdown.count("| --- |") >= 3
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 3
    assert r"round\_to\_nearest" in latex
    assert r"5 \%" in latex


def test_csv_has_a_row_for_every_file_and_figures_as_they_are(capsys, tiny_checkpoint, artifact, both):
    answer = call(capsys, "compare", tiny_checkpoint, artifact, "--flips", "--format", "csv")
    rows = list(csv.DictReader(answer.out.splitlines()))
    assert [row["file"] for row in rows] == [str(tiny_checkpoint), str(artifact)]
    for row, one in zip(rows, both, strict=True):
        assert (int(row["file_bytes"]), float(row["weight_bits"])) == (one["file_bytes"], one["weight_bits"])
        assert int(row["flips_lost"]) == one["flips"]["lost"]


def test_one_file_is_no_comparison(tiny_checkpoint):
    with pytest.raises(UsageError, match="two files or more"):
        qcaps.compare(tiny_checkpoint)


def test_files_of_different_images_are_not_scored_together(tiny_checkpoint):
    with pytest.raises(UsageError, match="not those of the first file"):
        qcaps.compare(tiny_checkpoint, _with_other_split(tiny_checkpoint), flips=True, split="validation")


def _with_other_split(path):
    from qcaps.artifacts.checkpoint import Checkpoint, write_checkpoint
    from qcaps.data.spec import data_spec

    other = load(path)
    tensors = {name: tensor.clone() for name, tensor in torch.load(path, weights_only=True)["tensors"].items()}
    copy = path.parent.parent / "other_split.pt"
    write_checkpoint(copy, Checkpoint(other.model, tensors, data_spec("digits", split_seed=7), {}))
    return copy
