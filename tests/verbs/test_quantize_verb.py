from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shell import after

import qcaps
import qcaps.verbs.quantize
from qcaps.artifacts.checkpoint import read_checkpoint, write_checkpoint
from qcaps.data.load import load_split
from qcaps.data.spec import data_spec
from qcaps.errors import ArtifactError, InfeasibleError, StoppedError, UsageError
from qcaps.models.network import encoder_tensors, predictions
from qcaps.quantization.loading import load
from qcaps.registry import ROUNDINGS
from qcaps.verbs import quantize_job

# What happens in these folders apart from the results: the measurements, and the lock that guards them.
OWN = {"journal.jsonl", "journal.jsonl.lock"}
REPORTS = ["report.json", "report.md", "report.html", "junit.xml", "pareto.csv", "sensitivity.csv"]
WIDE = {"accuracy_tolerance": 3, "reproducible": True}
ANY_LOSS = {"accuracy_tolerance": 100, "margin": 0}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def satisfied(tiny_checkpoint, tmp_path_factory):
    """Quantize with a tolerance that is easily kept, once for all tests that only look."""
    out = tmp_path_factory.mktemp("satisfied")
    return out, qcaps.quantize(tiny_checkpoint, **WIDE, out=out)


@pytest.fixture(scope="module")
def broken(tiny_checkpoint, tmp_path_factory):
    """Quantize with promises that cannot both be kept: no loss, and hardly more room than two bits need."""
    out = tmp_path_factory.mktemp("broken")
    return out, qcaps.quantize(tiny_checkpoint, accuracy_tolerance=0, memory_budget="11kB", out=out)


def test_kept_promises_give_exit_code_0_and_one_artifact(satisfied):
    out, outcome = satisfied
    assert outcome.exit_code == 0
    assert outcome.lines[0].startswith("satisfied: ")
    assert [file.name for file in outcome.files] == ["satisfied.pt", *REPORTS]
    assert set(os.listdir(out)) == {"satisfied.pt", *REPORTS} | OWN


def test_the_document_is_the_report(satisfied):
    assert json.loads(json.dumps(satisfied[1].document)) == report_of(satisfied[0])


def test_the_report_tells_the_size_and_the_hash_of_the_file_on_disk(satisfied):
    file = satisfied[0] / "satisfied.pt"
    result = report_of(satisfied[0])["result"][0]
    assert result["file_bytes"] == os.stat(file).st_size
    assert result["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_payload_is_packed_at_its_own_width(satisfied, tiny_checkpoint):
    report = report_of(satisfied[0])
    result, layers = report["result"][0], [layer for layer in report["layers"] if layer["group"] == "weights"]
    encoder = encoder_tensors(load(tiny_checkpoint).network)
    assert result["float_bytes"] == 4 * sum(tensor.numel() for tensor in encoder.values())
    # Folding leaves no value without a site here.
    assert result["payload_bytes"] == sum(math.ceil(layer["values"] * layer["bits"] / 8) + 1 for layer in layers)
    assert result["weight_bits"] == 8 * result["payload_bytes"] / sum(layer["values"] for layer in layers)
    assert result["payload_bytes"] < result["file_bytes"] < os.stat(tiny_checkpoint).st_size


def test_a_new_process_finds_what_was_recorded(satisfied):
    file = satisfied[0] / "satisfied.pt"
    program = (
        "import json, sys, qcaps\n"
        "found = [qcaps.evaluate(sys.argv[1], split=s, latency=False).document['files'][0]"
        " for s in ('validation', 'test')]\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True)
    validation, test = json.loads(done.stdout)
    seen, result = load(file).artifact.record["search"], report_of(satisfied[0])["result"][0]
    assert (validation["correct"], validation["predictions_sha256"]) == (seen["correct"], seen["predictions_sha256"])
    assert validation["correct"] == result["search"]["score"]["correct"]
    assert test["correct"] == result["report"]["score"]["correct"]


def predictions_by_hand(network, images, rounder=None) -> torch.Tensor:
    """Predict every image at once."""
    pixels = images.pixels.float() / 255
    with torch.inference_mode():
        output = network(pixels) if rounder is None else rounder.forward(network, pixels, images.indices)
    return predictions(output)


def test_lost_and_gained_images_are_those_of_the_two_files(satisfied, tiny_checkpoint):
    artifact, images = load(satisfied[0] / "satisfied.pt"), load_split(load(tiny_checkpoint).data, "test")
    in_float = predictions_by_hand(load(tiny_checkpoint).network, images) == images.labels
    rounded = predictions_by_hand(artifact.network, images, artifact.artifact.rounder()) == images.labels
    found = report_of(satisfied[0])["result"][0]["report"]
    assert found["lost"] == int((in_float & ~rounded).sum())
    assert found["gained"] == int((rounded & ~in_float).sum())
    assert found["allowed"] == int(in_float.sum()) * WIDE["accuracy_tolerance"] // 100
    assert found["passed"]


def test_the_baseline_names_both_splits_with_their_images(satisfied):
    baseline = report_of(satisfied[0])["baseline"]
    assert {name: (score["split"], score["images"]) for name, score in baseline.items()} == {
        "search": ("validation", 300),
        "report": ("test", 360),
    }


def test_every_plan_tried_is_in_a_table(satisfied):
    with (satisfied[0] / "pareto.csv").open() as file:
        rows = list(csv.DictReader(file))
    report = report_of(satisfied[0])
    assert len(rows) == report["search"]["plans_tried"]
    found = [row for row in rows if int(row["payload_bytes"]) == report["result"][0]["payload_bytes"]]
    assert any(row["passed"] == "1" for row in found)


def test_the_markdown_begins_with_the_verdict(satisfied, broken):
    assert (satisfied[0] / "report.md").read_text().startswith("# Satisfied\n")
    assert (broken[0] / "report.md").read_text().startswith("# Not satisfied\n")


def test_a_reproducible_report_holds_no_times(satisfied, broken):
    assert "run" not in report_of(satisfied[0])
    assert report_of(broken[0])["run"]["seconds"] > 0


def test_the_inputs_are_named_by_their_content(satisfied, tiny_checkpoint):
    sha256 = hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    assert report_of(satisfied[0])["inputs"] == {"checkpoint": "checkpoint.pt", "checkpoint sha256": sha256}


def test_a_broken_promise_gives_exit_code_1_and_the_two_nearest_models(broken):
    out, outcome = broken
    assert outcome.exit_code == 1
    assert set(os.listdir(out)) == {"memory.pt", "accuracy.pt", *REPORTS} | OWN
    report = report_of(out)
    assert report["verdict"] == "not satisfied"
    memory, accuracy = report["result"]
    assert os.stat(out / "memory.pt").st_size == memory["file_bytes"] <= 11_000
    assert os.stat(out / "accuracy.pt").st_size == accuracy["file_bytes"] > 11_000
    assert accuracy["search"]["passed"]
    assert not memory["search"]["passed"]
    assert memory["weight_bits"] < accuracy["weight_bits"]


def test_one_line_says_what_is_missing(broken):
    memory, accuracy = report_of(broken[0])["result"]
    images = memory["search"]["lost"] - memory["search"]["gained"]
    over = accuracy["file_bytes"] - 11_000
    bits = [
        f"{m['weight_bits']:.1f} bits a weight, {m['activation_bits']:.1f} an activation" for m in (memory, accuracy)
    ]
    assert f"memory.pt ({bits[0]}, " in broken[1].lines[0]
    assert f"loses {images} search images too many" in broken[1].lines[0]
    assert f"accuracy.pt ({bits[1]}) is {over / 1000:.3f} kB over the memory budget" in broken[1].lines[0]


def test_every_promise_is_reported_with_its_limit(broken):
    memory, accuracy = report_of(broken[0])["result"]
    promises = {promise["name"]: promise for promise in report_of(broken[0])["promises"]}
    budget = promises["memory budget (file)"]
    assert (budget["limit"], budget["found"], budget["kept"]) == (11_000, memory["file_bytes"], True)
    search = promises["accuracy on the search split"]
    assert (search["limit"], search["kept"]) == (0, True)
    assert search["found"] == accuracy["search"]["lost"] - accuracy["search"]["gained"]


def test_a_failure_on_the_report_split_alone_gives_exit_code_1(tiny_checkpoint, satisfied, tmp_path, monkeypatch):
    artifact, images = load(satisfied[0] / "satisfied.pt"), load_split(load(tiny_checkpoint).data, "test")
    in_float = predictions_by_hand(load(tiny_checkpoint).network, images) == images.labels
    rounded = predictions_by_hand(artifact.network, images, artifact.artifact.rounder()) == images.labels
    unlucky = torch.cat([(in_float & ~rounded).nonzero().flatten(), (in_float & rounded).nonzero().flatten()[:10]])
    assert len(unlucky) > 10
    monkeypatch.setattr(
        qcaps.verbs.quantize,
        "load_split",
        lambda data, split, **_: images.subset(unlucky) if split == "test" else load_split(data, split),
    )
    outcome = qcaps.quantize(tiny_checkpoint, **WIDE, out=tmp_path)
    assert outcome.exit_code == 1
    assert outcome.document["verdict"] == "report split fails"
    allowed = len(unlucky) * WIDE["accuracy_tolerance"] // 100
    assert f"{len(unlucky) - 10} images lost net on the test split, where {allowed} are allowed" in outcome.lines[0]
    assert (tmp_path / "satisfied.pt").read_bytes() == (satisfied[0] / "satisfied.pt").read_bytes()


def test_artifacts_of_an_earlier_verdict_are_removed(tiny_checkpoint, tmp_path):
    qcaps.quantize(tiny_checkpoint, accuracy_tolerance=0, memory_budget="11kB", out=tmp_path)
    qcaps.quantize(tiny_checkpoint, **WIDE, out=tmp_path)
    assert {path.name for path in tmp_path.glob("*.pt")} == {"satisfied.pt"}


def test_a_budget_on_the_payload_does_not_count_the_header(tiny_checkpoint, satisfied, tmp_path):
    result = report_of(satisfied[0])["result"][0]
    budget = f"{result['payload_bytes']}B"
    outcome = qcaps.quantize(tiny_checkpoint, **WIDE, memory_budget=budget, budget_on="payload", out=tmp_path)
    assert outcome.exit_code == 0
    assert outcome.document["result"][0]["file_bytes"] > result["payload_bytes"]


def test_a_hopeless_budget_is_refused_before_images_are_read_and_told_to_ci(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(qcaps.verbs.quantize, "load_split", lambda *_, **__: pytest.fail("images were read"))
    with pytest.raises(InfeasibleError, match=r"1\.000 kB is below the minimum of .* at 2 bits") as raised:
        qcaps.quantize(tiny_checkpoint, memory_budget=0.001, out=tmp_path / "out")
    assert raised.value.exit_code == 4
    assert "--min-bits 1" in raised.value.do
    assert os.listdir(tmp_path / "out") == ["junit.xml"]


@pytest.fixture(scope="module")
def smallest(tiny_checkpoint, tmp_path_factory):
    """Give the size of the artifact of two bits, whatever it loses."""
    outcome = qcaps.quantize(tiny_checkpoint, **ANY_LOSS, out=tmp_path_factory.mktemp("smallest"))
    assert {layer["bits"] for layer in outcome.document["layers"]} == {2}
    return outcome.files[0].stat().st_size


def test_a_budget_a_byte_below_the_smallest_file_is_infeasible(tiny_checkpoint, smallest, tmp_path):
    with pytest.raises(InfeasibleError, match="at 2 bits"):
        qcaps.quantize(tiny_checkpoint, memory_budget=f"{smallest - 1}B", out=tmp_path)
    assert not list(tmp_path.glob("*.pt"))


def test_the_smallest_file_is_a_budget_that_can_be_kept(tiny_checkpoint, smallest, tmp_path):
    outcome = qcaps.quantize(tiny_checkpoint, **ANY_LOSS, memory_budget=f"{smallest}B", out=tmp_path)
    assert outcome.exit_code == 0
    assert outcome.files[0].stat().st_size == smallest


def test_two_folders_hold_the_same_bytes(tiny_checkpoint, satisfied, tmp_path):
    qcaps.quantize(tiny_checkpoint, **WIDE, fresh=True, out=tmp_path)
    assert files_of(tmp_path) == files_of(satisfied[0])


def test_a_repeated_search_measures_nothing_anew_and_gives_the_same_bytes(tiny_checkpoint, satisfied):
    before = files_of(satisfied[0])
    again = qcaps.quantize(tiny_checkpoint, **WIDE | {"reproducible": False}, out=satisfied[0])
    assert again.document["run"]["image_forwards"] == 0
    assert again.document["search"]["image_forwards"] > 0
    qcaps.quantize(tiny_checkpoint, **WIDE, out=satisfied[0])
    assert files_of(satisfied[0]) == before


def test_a_changed_tolerance_reuses_what_was_measured(tiny_checkpoint, broken):
    again = qcaps.quantize(tiny_checkpoint, accuracy_tolerance=1, out=broken[0])
    new = again.document["search"]["image_forwards"] - again.document["run"]["image_forwards"]
    assert new >= 600  # the float network, and the middle width where every bisection begins


def test_fresh_measures_everything_again(tiny_checkpoint, tmp_path):
    qcaps.quantize(tiny_checkpoint, accuracy_tolerance=5, out=tmp_path)
    again = qcaps.quantize(tiny_checkpoint, accuracy_tolerance=5, fresh=True, out=tmp_path)
    assert again.document["run"]["image_forwards"] == again.document["search"]["image_forwards"]


@pytest.mark.parametrize("phase", ["float network", "calibrate", "front", "report split: satisfied.pt"])
def test_an_interrupted_search_continues_to_the_same_bytes(tiny_checkpoint, satisfied, tmp_path, phase):
    listener = after(1, lambda: signal.raise_signal(signal.SIGINT), phase=phase)
    with pytest.raises(StoppedError) as raised:
        qcaps.quantize(tiny_checkpoint, **WIDE, out=tmp_path, on_progress=listener)
    assert raised.value.where == str(tmp_path)
    assert raised.value.do == "the same command continues"
    assert not (tmp_path / "report.json").exists()
    qcaps.quantize(tiny_checkpoint, **WIDE, out=tmp_path)
    assert files_of(tmp_path) == files_of(satisfied[0])


def test_a_continued_search_measures_only_what_is_missing(tiny_checkpoint, tmp_path):
    listener = after(1, lambda: signal.raise_signal(signal.SIGINT), phase="exchange")
    with pytest.raises(StoppedError):
        qcaps.quantize(tiny_checkpoint, accuracy_tolerance=5, out=tmp_path, on_progress=listener)
    told = []
    qcaps.quantize(tiny_checkpoint, accuracy_tolerance=5, out=tmp_path, on_progress=told.append)
    phases = {step.phase for step in told}
    assert "float network" not in phases
    assert "exchange" in phases


class Guarded:
    """Images that may not be looked at before the proof begins."""

    def __init__(self, images, is_open):
        self._images, self._is_open = images, is_open

    def __len__(self):
        return len(self._images)

    def __getattr__(self, name):
        assert self._is_open(), "the report split was touched during the search"
        return getattr(self._images, name)


def test_the_search_never_looks_at_the_report_split(tiny_checkpoint, tmp_path, monkeypatch):
    proving = []
    verb = qcaps.verbs.quantize

    def guarded(data, split, **options):
        images = load_split(data, split, **options)
        return Guarded(images, lambda: bool(proving)) if split == "test" else images

    def prove(*arguments):
        proving.append(True)
        return real(*arguments)

    real = verb.prove
    monkeypatch.setattr(verb, "load_split", guarded)
    monkeypatch.setattr(verb, "prove", prove)
    assert qcaps.quantize(tiny_checkpoint, **WIDE, out=tmp_path).exit_code == 0
    assert proving == [True]


def test_scales_are_chosen_on_training_images_and_widths_on_validation_images(tiny_checkpoint, tmp_path, monkeypatch):
    calibrated, searched = [], []
    calibrate, bench = quantize_job.calibrate, qcaps.verbs.quantize.Bench
    monkeypatch.setattr(
        quantize_job, "calibrate", lambda n, images, **o: calibrated.append(images) or calibrate(n, images, **o)
    )
    monkeypatch.setattr(
        qcaps.verbs.quantize, "Bench", lambda images, **o: searched.append(images) or bench(images, **o)
    )
    qcaps.quantize(tiny_checkpoint, **WIDE, calibration_images=500, out=tmp_path)
    assert [(images.split, len(images)) for images in (*calibrated, *searched)] == [("train", 500), ("validation", 300)]
    drawn = calibrated[0].indices.tolist()
    assert len(set(drawn)) == 500
    assert not set(drawn) & set(searched[0].indices.tolist())


@pytest.mark.parametrize("rounding", ROUNDINGS.names())
def test_every_rounding_ends_with_an_artifact_that_loads(tiny_checkpoint, tmp_path, rounding):
    outcome = qcaps.quantize(tiny_checkpoint, rounding=rounding, accuracy_tolerance=5, out=tmp_path)
    assert outcome.exit_code in {0, 1}
    assert load(outcome.files[0]).artifact.plan.rounding == rounding
    assert outcome.document["search"]["rounding"] == rounding
    # A random scheme is judged on three seeds together.
    assert len(outcome.document["search"]["seeds"]) == (3 if rounding == "stochastic_rounding" else 1)


@pytest.mark.parametrize(
    ("options", "where", "do"),
    [
        ({"rounding": "truncate"}, "--rounding", "did you mean 'truncation'"),
        ({"rounding": ""}, "--rounding", "qcaps list roundings"),
        ({"search": "greedy"}, "--search", "qcaps list searches"),
        ({"min_bits": 0}, "--min-bits", ""),
        ({"min_bits": 17}, "--min-bits", ""),
        ({"accuracy_tolerance": -1}, "--accuracy-tolerance", ""),
        ({"memory_budget": "1 parsec"}, "--memory-budget", ""),
        ({"memory_budget": 0}, "--memory-budget", ""),
        ({"tolerance_kind": "loose"}, "--tolerance-kind", ""),
    ],
)
def test_a_wrong_option_is_a_usage_error_before_anything_is_written(tiny_checkpoint, tmp_path, options, where, do):
    with pytest.raises(UsageError) as raised:
        qcaps.quantize(tiny_checkpoint, **options, out=tmp_path / "out")
    assert raised.value.where == where
    assert do in raised.value.do
    assert not (tmp_path / "out").exists()


def test_an_artifact_cannot_be_quantized_again(satisfied, tmp_path):
    with pytest.raises(ArtifactError, match=r"not a qcaps\.checkpoint"):
        qcaps.quantize(satisfied[0] / "satisfied.pt", out=tmp_path)


@pytest.mark.parametrize("name", ["nowhere.pt", "a" * 300, "pretrained/nowhere.pt", "no\x00where"])
def test_a_missing_checkpoint_is_a_usage_error_that_names_the_shipped_ones(tmp_path, name):
    with pytest.raises(UsageError, match="no such file") as raised:
        qcaps.quantize(name, out=tmp_path)
    assert "efficient_capsnet_digits.pt" in raised.value.do


@pytest.fixture(scope="module")
def of_unknown_images(tiny_checkpoint, tmp_path_factory):
    """Write the tiny network as one whose images are no data set of ours."""
    path = tmp_path_factory.mktemp("unknown") / "a.pt"
    write_checkpoint(path, dataclasses.replace(read_checkpoint(tiny_checkpoint)[0], data=None))
    return path


def test_a_checkpoint_without_a_data_set_asks_for_one_before_anything_is_written(of_unknown_images, tmp_path):
    with pytest.raises(UsageError) as raised:
        qcaps.quantize(of_unknown_images, out=tmp_path / "out")
    assert str(raised.value) == f"the checkpoint names no data set ({of_unknown_images}); name one with --dataset"
    assert not (tmp_path / "out").exists()


def test_the_data_set_asked_for_is_searched_proven_and_recorded(satisfied, of_unknown_images, tmp_path):
    outcome = qcaps.quantize(of_unknown_images, dataset="digits", **WIDE, out=tmp_path)
    assert report_of(tmp_path)["result"][0]["report"] == report_of(satisfied[0])["result"][0]["report"]
    assert load(outcome.files[0]).data == data_spec("digits")


def test_two_runs_cannot_share_a_folder(tiny_checkpoint, tmp_path):
    refused = []

    def meddle():
        with pytest.raises(UsageError, match="another run") as raised:
            qcaps.quantize(tiny_checkpoint, **WIDE, out=tmp_path)
        refused.append(raised.value.where)

    qcaps.quantize(tiny_checkpoint, **WIDE, out=tmp_path, on_progress=after(1, meddle))
    assert refused == [str(tmp_path)]


def test_the_float_baseline_is_the_network_as_it_was_trained(satisfied, tiny_checkpoint):
    loaded = load(tiny_checkpoint)
    for name, split in (("search", "validation"), ("report", "test")):
        images = load_split(loaded.data, split)
        correct = int((predictions_by_hand(loaded.network, images) == images.labels).sum())
        assert report_of(satisfied[0])["baseline"][name]["correct"] == correct


def test_the_search_holds_against_the_allowance_less_its_margin(tiny_checkpoint, satisfied, tmp_path):
    baseline = report_of(satisfied[0])["baseline"]["search"]["correct"]
    allowed = baseline * WIDE["accuracy_tolerance"] // 100
    found = report_of(satisfied[0])["result"][0]["search"]
    assert found["allowed"] == allowed * 90 // 100
    without = qcaps.quantize(tiny_checkpoint, **WIDE, margin=0, out=tmp_path).document["result"][0]["search"]
    assert without["allowed"] == allowed


def test_the_same_images_calibrate_whatever_the_batch_size(tiny_checkpoint, satisfied, tmp_path):
    outcome = qcaps.quantize(tiny_checkpoint, **WIDE, test_batch_size=77, out=tmp_path)
    # Sums over a batch differ in their last digits, so only what was decided is compared.
    mine, other = load(satisfied[0] / "satisfied.pt").artifact, load(outcome.files[0]).artifact
    assert dataclasses.asdict(mine.plan) == dataclasses.asdict(other.plan)


def test_a_network_can_be_quantized_as_it_was_trained(tiny_checkpoint, satisfied, tmp_path):
    outcome = qcaps.quantize(tiny_checkpoint, **WIDE, prepare=False, out=tmp_path)
    assert (outcome.document["search"]["prepared"], report_of(satisfied[0])["search"]["prepared"]) == (False, True)
    plain, float_network = (
        load(path).network.stages["conv1"].conv for path in (tmp_path / "satisfied.pt", tiny_checkpoint)
    )
    bits = next(layer["bits"] for layer in outcome.document["layers"] if layer["site"] == "conv1.bias")
    assert (plain.bias - float_network.bias).abs().max() <= 2.0 ** (2 - bits) * float_network.bias.abs().max()
