from __future__ import annotations

import hashlib
import json
import shlex
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from qcaps_cli.verify import EXAMPLES
from shell import call

import qcaps
from qcaps.artifacts.container import container_bytes, read_container
from qcaps.errors import ArtifactError, UsageError
from qcaps.quantization.artifact import ARTIFACT, SCORES


@pytest.fixture(scope="module")
def artifact(tiny_checkpoint, tmp_path_factory):
    """Quantize the tiny network, once for all tests; nobody writes into its folder."""
    return qcaps.quantize(tiny_checkpoint, accuracy_tolerance=5, out=tmp_path_factory.mktemp("artifact")).files[0]


@pytest.fixture(params=["checkpoint", "artifact"])
def whole(request, tiny_checkpoint, artifact):
    return tiny_checkpoint if request.param == "checkpoint" else artifact


def entry_of(path: Path) -> dict:
    (entry,) = json.loads(json.dumps(qcaps.verify(path).document))["files"]
    return entry


def stored(path: Path) -> dict[str, torch.Tensor]:
    """Open a file as anybody can, without our code."""
    return torch.load(path, weights_only=True)["tensors"]


def flipped(path: Path, target: Path, byte: int) -> Path:
    """Copy a file with the lowest bit of one byte turned over."""
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    target.write_bytes(data)
    return target


def tensor_places(path: Path) -> list[int]:
    """Find the first byte of every tensor in a file: after the header of its zip entry."""
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        starts = [entry.header_offset for entry in archive.infolist() if "/data/" in entry.filename]
    return [start + 30 + sum(struct.unpack_from("<HH", data, start + 26)) for start in starts]


def test_the_file_is_told_with_its_size_hash_and_number_of_tensors(whole):
    entry = entry_of(whole)
    data = whole.read_bytes()
    assert (entry["file"], entry["file_bytes"]) == (str(whole), len(data))
    assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    assert (entry["model"], entry["tensors"]) == ("efficient-capsnet", len(stored(whole)))


def test_a_checkpoint_has_float_tensors_and_no_self_test(tiny_checkpoint):
    entry = entry_of(tiny_checkpoint)
    assert (entry["kind"], entry["self_test"]) == ("checkpoint", None)
    assert entry["tensor_bytes"] == 4 * sum(tensor.numel() for tensor in stored(tiny_checkpoint).values())


def test_an_artifact_has_the_packed_bytes_that_its_plan_asks_for(artifact):
    entry = entry_of(artifact)
    packed = [tensor for name, tensor in stored(artifact).items() if name != SCORES]
    assert entry["kind"] == "artifact"
    assert entry["tensor_bytes"] == sum(tensor.nbytes for tensor in packed)
    assert entry["tensor_bytes"] == qcaps.inspect(artifact).document["file"]["quantized"]["payload_bytes"]


def test_the_self_test_tells_how_far_the_scores_are_from_those_in_the_file(artifact, tmp_path):
    assert entry_of(artifact)["self_test"] == {"images": 8, "largest_difference": pytest.approx(0, abs=1e-5)}
    container = read_container(artifact, schema=ARTIFACT)
    container.tensors[SCORES][3] += 5e-4
    header = container.header | {"schema": f"{ARTIFACT}/1"}
    (tmp_path / "a.pt").write_bytes(container_bytes(header, container.tensors))
    assert entry_of(tmp_path / "a.pt")["self_test"]["largest_difference"] == pytest.approx(5e-4, abs=1e-5)


def test_people_are_told_what_was_checked(artifact):
    first, *facts = qcaps.verify(artifact).lines
    assert first == f"{artifact}: whole artifact, efficient-capsnet"
    assert f"  checksums    of {len(stored(artifact))} tensors match" in facts
    assert [fact.split()[0] for fact in facts] == ["file", "checksums", "weights", "self-test", "sha256"]


def test_several_files_are_told_in_their_order(tiny_checkpoint, artifact):
    outcome = qcaps.verify(artifact, str(tiny_checkpoint))
    assert (outcome.exit_code, outcome.files) == (0, ())
    assert [entry["kind"] for entry in outcome.document["files"]] == ["artifact", "checkpoint"]
    assert [line.split(": ")[0] for line in outcome.lines if line[0] != " "] == [str(artifact), str(tiny_checkpoint)]


def test_a_shipped_file_is_found_by_its_name():
    assert entry_of("efficient_capsnet_digits.pt")["file"].endswith("pretrained/efficient_capsnet_digits.pt")


def test_one_flipped_bit_of_any_tensor_is_found(whole, tmp_path):
    places = tensor_places(whole)
    assert len(places) == len(stored(whole))
    for place in places:
        with pytest.raises(ArtifactError):
            qcaps.verify(flipped(whole, tmp_path / "bad.pt", place))


def test_a_forged_code_with_a_matching_checksum_fails_the_self_test(artifact, tmp_path):
    container = read_container(artifact, schema=ARTIFACT)
    container.tensors["class_caps.weight"][1:] ^= 1
    header = container.header | {"schema": f"{ARTIFACT}/1"}
    (tmp_path / "a.pt").write_bytes(container_bytes(header, container.tensors))
    with pytest.raises(ArtifactError, match="self-test fails"):
        qcaps.verify(tmp_path / "a.pt")


def test_the_command_ends_with_3_at_the_first_damaged_file(capsys, whole, tmp_path):
    bad = flipped(whole, tmp_path / "bad.pt", tensor_places(whole)[-1])
    (tmp_path / "worse.pt").write_text("text")
    answer = call(capsys, "verify", whole, bad, tmp_path / "worse.pt")
    assert (answer.code, answer.out) == (3, "")
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    assert str(bad) in answer.err


def test_a_damaged_file_with_json_is_one_document(capsys, whole, tmp_path):
    bad = flipped(whole, tmp_path / "bad.pt", tensor_places(whole)[-1])
    document = json.loads(call(capsys, "verify", whole, bad, "--json").out)
    assert (document["schema"], document["exit_code"], document["where"]) == ("qcaps.error/1", 3, str(bad))


def test_the_command_prints_one_document_with_json(capsys, tiny_checkpoint, artifact):
    answer = call(capsys, "verify", tiny_checkpoint, artifact, "--json")
    assert (answer.code, answer.err) == (0, "")
    document = json.loads(answer.out)
    assert document["schema"] == "qcaps.verify/1"
    assert [entry["file"] for entry in document["files"]] == [str(tiny_checkpoint), str(artifact)]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_help_finds_whole_files(capsys, tmp_path, monkeypatch, example):
    monkeypatch.chdir(tmp_path)
    answer = call(capsys, *shlex.split(example)[1:])
    assert (answer.code, answer.err) == (0, "")
    assert "efficient_capsnet_digits.pt" in answer.out


def test_a_quiet_verification_prints_nothing(capsys, tiny_checkpoint):
    answer = call(capsys, "verify", tiny_checkpoint, "--quiet")
    assert (answer.code, answer.out, answer.err) == (0, "", "")


def test_a_missing_file_is_found_before_anything_is_loaded(tmp_path):
    (tmp_path / "bad.pt").write_text("text")
    with pytest.raises(UsageError, match="there is no such file"):
        qcaps.verify(tmp_path / "bad.pt", tmp_path / "missing.pt")


def test_no_file_is_not_a_success():
    with pytest.raises(UsageError, match="no file to verify"):
        qcaps.verify()
