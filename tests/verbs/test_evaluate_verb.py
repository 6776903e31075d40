from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest
import torch
from pages import check_page
from shell import after
from toys import NORMED, toy_network

import qcaps
import qcaps.verbs.evaluate
from qcaps.artifacts.checkpoint import Checkpoint, write_checkpoint
from qcaps.data.images import ImageSet
from qcaps.data.load import load_split
from qcaps.data.preparation import Preparation
from qcaps.data.spec import DataSpec, data_spec
from qcaps.errors import ArtifactError, StoppedError, UsageError
from qcaps.models.efficient_capsnet import EfficientCapsNetSpec
from qcaps.models.network import encoder_tensors
from qcaps.models.spec import ModelSpec
from qcaps.quantization.loading import load


def entry_of(*files, **options) -> dict:
    return qcaps.evaluate(*files, latency=False, **options).document["files"][0]


@pytest.fixture(scope="module")
def found(tiny_checkpoint):
    """Evaluate the tiny network on the test images, once for all tests that only look."""
    return entry_of(tiny_checkpoint)


@pytest.fixture(scope="module")
def test_images(tiny_checkpoint) -> ImageSet:
    return load_split(load(tiny_checkpoint).data, "test")


@pytest.fixture(scope="module")
def guesses(tiny_checkpoint, test_images) -> list[int]:
    """Predict image by image, the class of the longest capsule."""
    network = load(tiny_checkpoint).network
    found = []
    for pixels in test_images.pixels:
        with torch.inference_mode():
            capsules = network(pixels.unsqueeze(0) / 255).capsules[0]
        lengths = [sum(value**2 for value in capsule) for capsule in capsules.tolist()]
        found.append(lengths.index(max(lengths)))
    return found


def test_the_score_counts_the_images_whose_longest_capsule_is_right(found, guesses, test_images):
    correct = sum(guess == label for guess, label in zip(guesses, test_images.labels.tolist(), strict=True))
    assert (found["images"], found["correct"], found["accuracy"]) == (360, correct, correct / 360)


def test_every_class_has_a_score_of_its_own(found, guesses, test_images):
    pairs = list(zip(guesses, test_images.labels.tolist(), strict=True))
    expected = [
        (str(label), 36, sum(guess == label for guess, other in pairs if other == label)) for label in range(10)
    ]
    assert [(c["name"], c["images"], c["correct"]) for c in found["per_class"]] == expected


def test_predictions_are_identified_by_the_hash_of_64_bit_labels_in_order(found, guesses):
    text = b"".join(guess.to_bytes(8, "little") for guess in guesses)
    assert found["predictions_sha256"] == hashlib.sha256(text).hexdigest()


def test_the_interval_encloses_the_accuracy(found):
    low, high = found["interval"]
    assert 0 < low < found["accuracy"] < high < 1


def test_the_file_is_identified_and_weighed(found, tiny_checkpoint):
    assert found["file"] == str(tiny_checkpoint)
    assert found["sha256"] == hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    assert found["file_bytes"] == os.stat(tiny_checkpoint).st_size
    assert found["kind"] == "checkpoint"


def test_weights_of_a_checkpoint_take_four_bytes_each(found, tiny_checkpoint):
    state = load(tiny_checkpoint).network.state_dict()
    values = sum(t.numel() for name, t in state.items() if not name.endswith("num_batches_tracked"))
    assert found["weight_bytes"] == 4 * values


def test_parameters_and_macs_are_the_sums_of_the_stages(found):
    assert found["parameters"] == sum(stage["parameters"] for stage in found["stages"])
    assert found["macs"] == sum(stage["macs"] for stage in found["stages"])
    # The first convolution by hand: 24 x 24 places, 8 channels, kernels of 5 x 5.
    assert found["stages"][0]["macs"] == 24 * 24 * 8 * 25


@pytest.mark.parametrize(("split", "images"), [("test", 360), ("validation", 300), ("train", 1137)])
def test_every_split_can_be_scored(tiny_checkpoint, split, images):
    found = entry_of(tiny_checkpoint, split=split)
    assert (found["split"], found["images"]) == (split, images)


def test_the_batch_size_changes_no_prediction(tiny_checkpoint, found):
    assert entry_of(tiny_checkpoint, test_batch_size=7)["predictions_sha256"] == found["predictions_sha256"]


def test_several_files_are_scored_in_their_order(tiny_checkpoint, tmp_path):
    artifact = qcaps.quantize(tiny_checkpoint, accuracy_tolerance=5, out=tmp_path).files[0]
    outcome = qcaps.evaluate(artifact, tiny_checkpoint, artifact, latency=False)
    assert [entry["kind"] for entry in outcome.document["files"]] == ["artifact", "checkpoint", "artifact"]
    assert [line for line in outcome.lines if not line.startswith(" ")] == [
        f"{artifact}: artifact, efficient-capsnet on digits test",
        f"{tiny_checkpoint}: checkpoint, efficient-capsnet on digits test",
        f"{artifact}: artifact, efficient-capsnet on digits test",
    ]
    small, large, _ = outcome.document["files"]
    assert small["weight_bytes"] < large["weight_bytes"] / 3
    assert small["file_bytes"] == os.stat(artifact).st_size


def test_latency_is_measured_for_one_image_and_for_a_batch(tiny_checkpoint):
    outcome = qcaps.evaluate(tiny_checkpoint, test_batch_size=16)
    timed = outcome.document["run"]["latency"][0]
    assert [one["batch_size"] for one in timed] == [1, 16]
    assert all(one["median_ms"] > 0 for one in timed)


def test_latency_is_left_out_on_request(tiny_checkpoint):
    assert qcaps.evaluate(tiny_checkpoint, latency=False).document["run"]["latency"] == [[]]


def test_another_data_set_is_prepared_as_the_own_one_was(tiny_checkpoint, monkeypatch):
    asked = []

    def record(spec, split, **_):
        asked.append(spec)
        return load_split(load(tiny_checkpoint).data, split)

    monkeypatch.setattr(qcaps.verbs.evaluate, "load_split", record)
    assert entry_of(tiny_checkpoint, dataset="mnist")["dataset"] == "mnist"
    own = load(tiny_checkpoint).data
    assert (asked[0].dataset, asked[0].preparation, asked[0].split_seed) == ("mnist", own.preparation, own.split_seed)


def foreign_checkpoint(folder: Path, spec: ModelSpec, data: DataSpec | None, **record: object) -> Path:
    """Write a checkpoint of random numbers."""
    write_checkpoint(folder / "a.pt", Checkpoint(spec, encoder_tensors(toy_network(spec)), data, record))
    return folder / "a.pt"


def test_images_of_another_size_or_of_other_classes_are_a_usage_error(tiny_checkpoint, tmp_path):
    path = foreign_checkpoint(tmp_path, NORMED, data_spec("digits"))
    told = []
    with pytest.raises(UsageError) as raised:
        qcaps.evaluate(tiny_checkpoint, path, on_progress=told.append)
    wants = "digits has 1x28x28 images of 10 classes, the network wants 1x14x14 images of 3 classes"
    assert (raised.value.what, raised.value.where, told) == (wants, str(path), [])


def test_a_checkpoint_without_a_data_set_asks_for_one(tmp_path):
    path = foreign_checkpoint(tmp_path, EfficientCapsNetSpec(), None)
    with pytest.raises(UsageError) as raised:
        entry_of(path)
    assert str(raised.value) == f"the checkpoint names no data set ({path}); name one with --dataset"


def test_a_checkpoint_without_a_data_set_is_scored_on_the_one_asked_for(tmp_path):
    path = foreign_checkpoint(tmp_path, EfficientCapsNetSpec(), None)
    found = entry_of(path, dataset="digits")
    assert (found["dataset"], found["images"]) == ("digits", 360)


@pytest.mark.parametrize(
    ("record", "divisor"),
    [({"import": {"preparation": "plain-256"}}, 256), ({}, 255), ({"import": {"preparation": 256}}, 255)],
)
def test_an_imported_checkpoint_is_given_pixels_prepared_as_its_source_does(tmp_path, monkeypatch, record, divisor):
    path = foreign_checkpoint(tmp_path, EfficientCapsNetSpec(), None, **record)
    asked = []

    def note(spec, split, **_):
        asked.append(spec.preparation)
        return load_split(spec, split)

    monkeypatch.setattr(qcaps.verbs.evaluate, "load_split", note)
    entry_of(path, dataset="digits")
    assert asked == [Preparation(divisor)]


def test_a_preparation_that_no_import_notes_is_refused(tmp_path):
    path = foreign_checkpoint(tmp_path, EfficientCapsNetSpec(), None, **{"import": {"preparation": "\x1b[2J"}})
    with pytest.raises(UsageError, match="unknown preparation"):
        entry_of(path, dataset="digits")


def test_an_interrupted_evaluation_says_that_nothing_was_written(tiny_checkpoint):
    listener = after(1, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(StoppedError) as raised:
        qcaps.evaluate(tiny_checkpoint, on_progress=listener)
    assert raised.value.do == "nothing was written"


def test_every_file_is_read_before_any_is_scored(tiny_checkpoint, tmp_path):
    (tmp_path / "bad.pt").write_text("text")
    told = []
    with pytest.raises(ArtifactError) as raised:
        qcaps.evaluate(tiny_checkpoint, tmp_path / "bad.pt", on_progress=told.append)
    assert raised.value.where == str(tmp_path / "bad.pt")
    assert told == []


def test_a_missing_file_is_a_usage_error():
    with pytest.raises(UsageError, match="no such file"):
        qcaps.evaluate("nowhere.pt")


def test_without_a_file_the_shipped_default_is_scored(monkeypatch):
    monkeypatch.setattr(qcaps.verbs.evaluate, "load", lambda path: pytest.fail(f"loads {path.name}"))
    with pytest.raises(pytest.fail.Exception, match=r"loads efficient_capsnet_digits\.pt"):
        qcaps.evaluate()


def test_the_fast_form_is_scored_where_it_is_asked_for(tiny_checkpoint, found, monkeypatch):
    folded = []
    real = qcaps.verbs.evaluate.fast_predictor
    monkeypatch.setattr(
        qcaps.verbs.evaluate, "fast_predictor", lambda network, see: folded.append(network) or real(network, see)
    )
    fast = entry_of(tiny_checkpoint, fast=True)
    assert [network.folds for network in folded] == [()]
    assert abs(fast["correct"] - found["correct"]) <= 2
    assert fast["parameters"] == found["parameters"]


def test_without_being_asked_for_the_network_is_scored_as_it_is(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(qcaps.verbs.evaluate, "fast_predictor", lambda *_: pytest.fail("folded"))
    entry_of(tiny_checkpoint)


def test_a_page_is_written_where_a_folder_is_named(tiny_checkpoint, found, tmp_path):
    outcome = qcaps.evaluate(tiny_checkpoint, latency=False, out=tmp_path / "deeper")
    assert outcome.files == (tmp_path / "deeper" / "report.html",)
    root = check_page(outcome.files[0].read_text())
    wrong = root.by_id("images-wrong")
    assert len(list(wrong.all("img"))) == min(360 - found["correct"], 48)
    assert "has no decoder" in root.by_id("images-reconstructions").text
