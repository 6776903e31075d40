from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from foreign_torch import q_capsnets_shallow
from shell import call
from toys import NORMED, toy_network

import qcaps
import qcaps.verbs.importing
from qcaps.artifacts.checkpoint import read_checkpoint
from qcaps.data.preparation import Preparation
from qcaps.data.spec import data_spec
from qcaps.errors import ArtifactError, UsageError
from qcaps.importers.importing import Imported
from qcaps.models.network import encoder_tensors
from qcaps.models.shallow_capsnet import ShallowCapsNetSpec

THIN = {"width": 6, "types": 3, "dim": 4}
SPEC = ShallowCapsNetSpec(conv_channels=(6,), primary_types=3, primary_dim=4, primary_coupling=1 / 3)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """Write a thin ShallowCapsNet as Q-CapsNets does."""
    path = tmp_path_factory.mktemp("foreign") / "model.pt"
    torch.save(q_capsnets_shallow(**THIN), path)
    return path


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """Give a way to import a toy network from any source, leaving out tensors of these names."""
    path = tmp_path / "any.h5"
    path.write_text("nothing is read")

    def run(source: str, *ignored: str, **options: object):
        made = Imported(NORMED, encoder_tensors(toy_network(NORMED)), ignored, "ab" * 32)
        monkeypatch.setattr(qcaps.verbs.importing, "import_weights", lambda *_: made)
        return qcaps.import_checkpoint(path, source, out=tmp_path / "out", **options)

    return run


def checkpoint_of(outcome):
    return read_checkpoint(outcome.files[0])[0]


def test_an_import_is_a_checkpoint_of_ours_with_the_same_numbers(foreign, tmp_path):
    outcome = qcaps.import_checkpoint(foreign, "q-capsnets", out=tmp_path)
    assert outcome.files == (tmp_path / "checkpoint.pt",)
    found = checkpoint_of(outcome)
    assert found.model == SPEC
    assert torch.equal(found.tensors["stages.conv1.conv.weight"], torch.load(foreign)["conv.conv.weight"])


def test_the_file_it_came_from_is_on_record(foreign, tmp_path):
    record = checkpoint_of(qcaps.import_checkpoint(foreign, "q-capsnets", out=tmp_path)).record
    assert record["import"] == {
        "source": "q-capsnets",
        "file": "model.pt",
        "sha256": hashlib.sha256(foreign.read_bytes()).hexdigest(),
        "ignored": [],
        "preparation": "plain",
    }
    assert record["versions"]["qcaps"] == qcaps.__version__


def test_the_document_and_one_line_tell_what_was_imported(foreign, tmp_path):
    outcome = qcaps.import_checkpoint(foreign, "q-capsnets", out=tmp_path)
    # Two convolutions, 3 x 4 biases, 108 x 10 matrices of 4 x 16, and 10 x 16 biases.
    count = 6 * 81 + 6 + 12 * 6 * 81 + 12 + 108 * 10 * 4 * 16 + 160
    assert outcome.lines == (f"shallow-capsnet from q-capsnets: {count:,} parameters, every tensor used",)
    assert outcome.document == {
        "schema": "qcaps.import/1",
        "checkpoint": str(tmp_path / "checkpoint.pt"),
        "sha256": hashlib.sha256((tmp_path / "checkpoint.pt").read_bytes()).hexdigest(),
        "source": "q-capsnets",
        "model": "shallow-capsnet",
        "dataset": None,
        "preparation": "plain",
        "parameters": count,
        "ignored": [],
    }


def test_by_default_no_data_set_is_named(foreign, tmp_path):
    assert checkpoint_of(qcaps.import_checkpoint(foreign, "q-capsnets", out=tmp_path)).data is None


def test_the_data_set_it_was_trained_on_can_be_named(foreign, tmp_path):
    outcome = qcaps.import_checkpoint(foreign, "q-capsnets", dataset="fashion-mnist", out=tmp_path)
    assert checkpoint_of(outcome).data == data_spec("fashion-mnist")
    assert outcome.document["dataset"] == "fashion-mnist"


@pytest.mark.parametrize(
    ("source", "options", "preparation"),
    [
        ("efficientcn", {}, "plain"),
        ("ethanleet", {}, "plain"),
        ("eagleeye", {}, "imagenet"),
        ("q-capsnets", {"preparation": "plain-256"}, "plain-256"),
        ("eagleeye", {"preparation": "plain"}, "plain"),
    ],
)
def test_images_are_prepared_as_the_source_does_unless_another_way_is_asked_for(
    pretended, source, options, preparation
):
    outcome = pretended(source, **options)
    assert checkpoint_of(outcome).record["import"]["preparation"] == outcome.document["preparation"] == preparation


def test_the_preparation_belongs_to_the_data_set(foreign, tmp_path):
    outcome = qcaps.import_checkpoint(
        foreign, "q-capsnets", dataset="digits", preparation="ethanleet-mnist", out=tmp_path
    )
    standard = Preparation(mean=(0.1307,), std=(0.3081,))
    assert checkpoint_of(outcome).data == data_spec("digits", preparation=standard)


def test_what_was_left_out_is_told_and_recorded(pretended):
    outcome = pretended("q-capsnets", "a", "b")
    assert outcome.lines[0].endswith(" parameters, 2 tensors ignored (a, b)")
    assert outcome.document["ignored"] == checkpoint_of(outcome).record["import"]["ignored"] == ["a", "b"]


def test_of_many_tensors_left_out_the_first_are_told_and_all_recorded(pretended):
    outcome = pretended("q-capsnets", *"abcde")
    assert outcome.lines[0].endswith(" parameters, 5 tensors ignored (a, b, c, …)")
    assert outcome.document["ignored"] == list("abcde")


def test_the_names_in_a_strange_file_cannot_move_the_cursor(pretended):
    assert pretended("q-capsnets", "a\x1b[2J\nb").lines[0].endswith("1 tensor ignored (a [2J b)")


def test_images_that_the_network_does_not_take_are_a_usage_error_before_anything_is_written(pretended, tmp_path):
    with pytest.raises(UsageError, match="digits has 1x28x28 images of 10 classes, the network wants 1x14x14"):
        pretended("q-capsnets", dataset="digits")
    assert not (tmp_path / "out").exists()


def test_numbers_that_shapes_do_not_tell_reach_the_importer(foreign, tmp_path):
    outcome = qcaps.import_checkpoint(foreign, "q-capsnets", model_arg=["routing_passes=1"], out=tmp_path)
    assert checkpoint_of(outcome).model.routing_passes == 1


def test_the_same_file_gives_the_same_bytes_in_two_folders(foreign, tmp_path):
    one, other = (qcaps.import_checkpoint(foreign, "q-capsnets", out=tmp_path / name) for name in "ab")
    assert one.files[0].read_bytes() == other.files[0].read_bytes()


def test_an_import_can_be_evaluated_and_inspected(foreign, tmp_path):
    checkpoint = qcaps.import_checkpoint(foreign, "q-capsnets", dataset="digits", out=tmp_path).files[0]
    (entry,) = qcaps.evaluate(checkpoint, latency=False).document["files"]
    assert (entry["dataset"], entry["images"]) == ("digits", 360)
    assert "  imported     model.pt from q-capsnets" in qcaps.inspect(checkpoint).lines


def test_the_wrong_source_is_an_artifact_error_that_names_the_right_one(foreign, tmp_path):
    with pytest.raises(ArtifactError, match="q-capsnets"):
        qcaps.import_checkpoint(foreign, "ethanleet", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_source_is_a_usage_error(foreign):
    with pytest.raises(UsageError, match="unknown importer 'q-capsnet'") as raised:
        qcaps.import_checkpoint(foreign, "q-capsnet")
    assert raised.value.where == "--from"


def test_a_missing_file_is_a_usage_error():
    with pytest.raises(UsageError, match="no such file"):
        qcaps.import_checkpoint("nowhere.pt", "q-capsnets")


def test_the_command_writes_into_a_folder_named_after_the_file(capsys, monkeypatch, foreign, tmp_path):
    monkeypatch.chdir(tmp_path)
    answer = call(capsys, "import", foreign, "--from", "q-capsnets", "--dataset", "mnist", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out)["checkpoint"] == "runs/model-import/checkpoint.pt"
    assert (tmp_path / "runs" / "model-import" / "checkpoint.pt").is_file()
