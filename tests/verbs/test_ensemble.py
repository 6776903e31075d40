from __future__ import annotations

import hashlib

import pytest
import torch
from shell import call

import qcaps
from qcaps.artifacts.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from qcaps.data.load import load_split
from qcaps.data.preparation import Preparation
from qcaps.data.spec import data_spec
from qcaps.errors import UsageError
from qcaps.models.spec import fitted_spec, initialised
from qcaps.quantization.loading import load
from qcaps.verbs.ensemble import mean_predictor


def test_the_mean_of_the_scores_decides_and_of_equals_the_lowest_class():
    first = torch.tensor([[0.9, 0.0, 0.6], [0.5, 0.25, 0.0]])
    second = torch.tensor([[0.0, 0.4, 0.5], [0.25, 0.5, 0.0]])
    predict = mean_predictor([lambda pixels, indices: first, lambda pixels, indices: second])
    assert predict(torch.zeros(2, 1), torch.zeros(2)).tolist() == [2, 0]


@pytest.fixture(scope="module")
def other(tiny_checkpoint, tmp_path_factory):
    """Give a second network, the tiny one with noise on every weight, which predicts differently."""
    found, _ = read_checkpoint(tiny_checkpoint)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: tensor * (1 + 0.3 * torch.randn(tensor.shape, generator=generator))
        for name, tensor in found.tensors.items()
    }
    path = tmp_path_factory.mktemp("other") / "other.pt"
    write_checkpoint(path, Checkpoint(found.model, tensors, found.data, found.record))
    return path


def test_an_ensemble_scores_what_the_mean_of_its_members_gets_right(tiny_checkpoint, other):
    document = qcaps.evaluate(tiny_checkpoint, other, ensemble=True, latency=False).document
    images = load_split(load(other).data, "test")
    networks, guesses = [load(path).network for path in (tiny_checkpoint, other)], ([], [], [])
    for pixels in images.pixels:
        with torch.inference_mode():
            each = [network(pixels[None] / 255).scores[0].tolist() for network in networks]
        mean = [(a + b) / 2 for a, b in zip(*each, strict=True)]
        for found, scores in zip(guesses, (*each, mean), strict=True):
            found.append(scores.index(max(scores)))
    assert guesses[2] not in guesses[:2]
    correct = sum(guess == label for guess, label in zip(guesses[2], images.labels.tolist(), strict=True))
    text = b"".join(guess.to_bytes(8, "little") for guess in guesses[2])
    ensemble = document["ensemble"]
    assert (ensemble["correct"], ensemble["images"], ensemble["accuracy"]) == (correct, 360, correct / 360)
    assert ensemble["predictions_sha256"] == hashlib.sha256(text).hexdigest()
    assert list(ensemble["files"]) == [str(tiny_checkpoint), str(other)]


def test_the_command_tells_the_score_of_the_ensemble_last(tiny_checkpoint, other, capsys):
    answer = call(capsys, "eval", tiny_checkpoint, other, "--ensemble", "--no-latency")
    assert answer.code == 0
    assert answer.out.splitlines()[-1].startswith("the 2 files together, by the mean of their class scores: accuracy ")


def test_without_being_asked_for_there_is_no_ensemble(tiny_checkpoint, other):
    assert qcaps.evaluate(tiny_checkpoint, other, latency=False).document["ensemble"] is None


def test_a_quantized_network_can_be_a_member(tiny_checkpoint, tmp_path):
    made = qcaps.quantize(tiny_checkpoint, out=tmp_path, widths="8", max_image_forwards=2000).files[0]
    found = qcaps.evaluate(tiny_checkpoint, made, ensemble=True, latency=False).document
    assert found["ensemble"]["correct"] == pytest.approx(found["files"][0]["correct"], abs=10)


def refused(*files) -> UsageError:
    with pytest.raises(UsageError) as raised:
        qcaps.evaluate(*files, ensemble=True, latency=False)
    return raised.value


def test_one_file_is_no_ensemble(tiny_checkpoint):
    assert "at least two" in refused(tiny_checkpoint).what


def test_networks_of_different_losses_are_no_ensemble(tiny_checkpoint, tmp_path):
    spec = fitted_spec("cnn-small", (1, 28, 28), 10, {})
    tensors = {name: tensor for name, tensor in initialised(spec, 0).state_dict().items()}
    write_checkpoint(tmp_path / "cnn.pt", Checkpoint(spec, tensors, data_spec("digits"), {}))
    error = refused(tiny_checkpoint, tmp_path / "cnn.pt")
    assert "cross-entropy loss" in error.what
    assert error.where == str(tmp_path / "cnn.pt")


def test_networks_that_see_different_images_are_no_ensemble(tiny_checkpoint, tmp_path):
    found, _ = read_checkpoint(tiny_checkpoint)
    divided = Checkpoint(
        found.model, found.tensors, data_spec("digits", preparation=Preparation(divisor=256)), found.record
    )
    write_checkpoint(tmp_path / "divided.pt", divided)
    assert "other images" in refused(tiny_checkpoint, tmp_path / "divided.pt").what
