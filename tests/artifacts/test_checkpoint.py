from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import NORMED, ROUTED, toy_images, toy_network

from qcaps.artifacts.checkpoint import CHECKPOINT, Checkpoint, read_checkpoint, write_checkpoint
from qcaps.artifacts.container import container_bytes, read_container
from qcaps.data.spec import data_spec
from qcaps.errors import ArtifactError, UsageError
from qcaps.models.network import encoder_tensors
from qcaps.models.spec import ModelSpec, initialised

DATA = data_spec("digits", split_seed=7)
RECORD = {"validation": {"correct": 250, "accuracy": 0.5}, "options": {"lr": 0.001, "model_arg": ["a=1"]}}
Change = Callable[[Any], object]


@functools.cache
def honest(spec: ModelSpec = NORMED) -> Checkpoint:
    return Checkpoint(spec, encoder_tensors(toy_network(spec)), DATA, RECORD)


@pytest.mark.parametrize("spec", [NORMED, ROUTED])
def test_a_checkpoint_comes_back_whole(tmp_path: Path, spec: ModelSpec) -> None:
    sha256 = write_checkpoint(tmp_path / "a.pt", honest(spec))
    found, found_sha256 = read_checkpoint(tmp_path / "a.pt")
    assert (found.model, found.data, found.record) == (spec, DATA, RECORD)
    assert found.tensors.keys() == honest(spec).tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in honest(spec).tensors.items())
    assert found_sha256 == sha256 == hashlib.sha256((tmp_path / "a.pt").read_bytes()).hexdigest()


def test_the_network_of_a_checkpoint_is_ready_and_gives_the_same_scores(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.pt", honest())
    network = read_checkpoint(tmp_path / "a.pt")[0].network()
    pixels = toy_images(NORMED).pixels / 255
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(network(pixels).scores, toy_network(NORMED)(pixels).scores)


def test_the_decoder_belongs_to_a_checkpoint(tmp_path: Path) -> None:
    spec = dataclasses.replace(ROUTED, decoder="fc")
    network = initialised(spec, 0)
    write_checkpoint(tmp_path / "a.pt", Checkpoint(spec, dict(network.state_dict()), DATA, {}))
    found = read_checkpoint(tmp_path / "a.pt")[0].network()
    capsules, kept = torch.ones(2, 3, 4), torch.tensor([0, 2])
    assert torch.equal(found.reconstruct(capsules, kept), network.eval().reconstruct(capsules, kept))


def test_a_checkpoint_of_images_that_are_no_data_set_of_ours_comes_back_so(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.pt", dataclasses.replace(honest(), data=None))
    assert read_checkpoint(tmp_path / "a.pt")[0].data is None


def test_the_same_checkpoint_gives_the_same_bytes_under_any_name(tmp_path: Path) -> None:
    one = write_checkpoint(tmp_path / "a.pt", honest())
    assert write_checkpoint(tmp_path / "other.pt", honest()) == one
    again, _ = read_checkpoint(tmp_path / "a.pt")
    assert write_checkpoint(tmp_path / "again.pt", again) == one


def test_a_folder_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        write_checkpoint(tmp_path / "missing" / "a.pt", honest())


def forged(folder: Path, header: Change | None = None, tensors: Change | None = None) -> Path:
    """Change an honest file, and write it so that every checksum fits."""
    path = folder / "a.pt"
    write_checkpoint(path, honest())
    container = read_container(path, schema=CHECKPOINT)
    changed, numbers = copy.deepcopy(container.header), dict(container.tensors)
    for change, part in ((header, changed), (tensors, numbers)):
        if change is not None:
            change(part)
    path.write_bytes(container_bytes(changed, numbers))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_checkpoint(path)
    assert caught.value.where == str(path)
    assert str(caught.value).isprintable()
    return caught.value.what


def put(*place: object) -> Change:
    """Set what the last but one names, inside of what those before it name, to the last."""
    *parents, key, value = place
    return lambda header: functools.reduce(lambda node, name: node[name], parents, header).__setitem__(key, value)


def drop(*place: object) -> Change:
    *parents, key = place
    return lambda header: functools.reduce(lambda node, name: node[name], parents, header).__delitem__(key)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop("record"), "record"),
        (put("record", []), "record"),
        (put("record", "trained"), "record"),
        (drop("model"), "architecture"),
        (put("model", None), "architecture"),
        (put("model", "architecture", "resnet"), "unknown model 'resnet'"),
        (put("model", "architecture", "shallow-capsnet"), "shallow-capsnet"),
        (drop("model", "norm_eps"), "norm_eps"),
        (put("model", "classes", 4), "shape"),
        (put("model", "classes", True), "classes"),
        (put("model", "class_dim", 10**6), "shape"),
        (put("model", "class_dim", 10**30), "class_dim"),
        (put("model", "conv_channels", []), "conv_channels"),
        (put("model", "conv_channels", [4, 4]), "differ in length"),
        (put("model", "conv_kernels", [5, 3, 3, 300]), "too few"),
        (put("model", "squash", "cubic"), "squash"),
        (put("model", "norm", "none"), "left over"),
        (put("model", "decoder", "fc"), "missing"),
        (put("model", "decoder", "../x"), "unknown decoder"),
        (drop("data"), "data spec"),
        (put("data", "preparation", 1), "preparation"),
        (put("data", "dataset", "/etc/passwd"), "data spec"),
        (put("data", "split_seed", -1), "data spec"),
        (put("schema", "qcaps.artifact/1"), "qcaps.artifact/1, not a qcaps.checkpoint"),
        (put("schema", "qcaps.checkpoint/2"), "version 1"),
    ],
)
def test_a_changed_header_is_refused(tmp_path: Path, change: Change, reason: str) -> None:
    assert reason in refusal(forged(tmp_path, header=change))


def test_images_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    large = {"height": 4_096, "width": 4_096, "conv_strides": [1, 800, 1, 1]}
    assert "memory" in refusal(forged(tmp_path, header=lambda header: header["model"].update(large)))


BIAS, MEAN = "stages.conv1.conv.bias", "stages.conv1.norm.running_mean"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop(BIAS), "missing or left over"),
        (drop(MEAN), "missing or left over"),
        (put("stages.conv9.conv.bias", torch.zeros(4)), "missing or left over"),
        (put("decoder.0.weight", torch.zeros(4)), "missing or left over"),
        (put("stages.conv1.norm.num_batches_tracked", torch.tensor(3)), "missing or left over"),
        (put(BIAS, torch.zeros(5)), "has shape (5,), not (4,)"),
        (put(BIAS, torch.zeros(4, 1)), "has shape (4, 1), not (4,)"),
        (put(BIAS, torch.zeros(4, dtype=torch.int64)), "not float32"),
        (put(MEAN, torch.zeros(4, dtype=torch.uint8)), "not float32"),
    ],
)
def test_changed_tensors_are_refused(tmp_path: Path, change: Change, reason: str) -> None:
    assert reason in refusal(forged(tmp_path, tensors=change))


def test_an_unchanged_file_is_accepted(tmp_path: Path) -> None:
    assert read_checkpoint(forged(tmp_path))[0].model == NORMED


def test_a_changed_number_is_refused_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_checkpoint(path, honest())
    weight = honest().tensors["stages.conv2.conv.weight"]
    data = bytearray(path.read_bytes())
    place = data.index(weight.contiguous().numpy().tobytes()[:32])
    data[place] ^= 1
    path.write_bytes(data)
    assert "sha256" in refusal(path)


SPOTS = [
    *(("model", field.name) for field in dataclasses.fields(NORMED)),
    *(("data", field.name) for field in dataclasses.fields(DATA)),
    *((name,) for name in ("model", "data", "record")),
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([10**6, 2**63, -(10**30), 1e-300, 1e300, "", "batch", "none", "fc", "mnist", "\x1b[2J"]),
    st.lists(st.integers(0, 9), max_size=5),
    st.dictionaries(st.sampled_from(["architecture", "dataset"]), st.text(max_size=3), max_size=2),
)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(SPOTS), VALUES)
def test_any_value_anywhere_in_the_header_gives_a_checkpoint_or_an_artifact_error(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str, ...], value: object
) -> None:
    path = forged(tmp_path_factory.mktemp("any"), header=put(*place, value))
    try:
        found: Tensor = read_checkpoint(path)[0].network()(torch.zeros(1, 1, 14, 14)).scores
        assert len(found) == 1
    except ArtifactError as error:
        assert str(error).isprintable()  # noqa: PT017
