from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qcaps.artifacts import container as container_module
from qcaps.artifacts.archive import check_archive
from qcaps.artifacts.container import Limits, container_bytes, read_container, write_container
from qcaps.errors import ArtifactError, QcapsError, UsageError

HEADER = {"schema": "qcaps.checkpoint/1", "model": {"name": "shallow-capsnet", "widths": [256, 32]}}
# Files are slow on a busy machine; a deadline would fail there without a reason.
BRIEFLY = settings(deadline=None, max_examples=50)


def example() -> dict[str, Tensor]:
    return {
        "conv1.weight": torch.tensor([[1.5, -0.0, 3e-39], [1e38, 2.0, -7.25]]),
        "codes": torch.arange(11, dtype=torch.uint8),
        "step": torch.tensor(2**40),
        "empty": torch.zeros(0, 3),
    }


def saved(path: Path, header: object, tensors: object) -> Path:
    """Save whatever is asked for, as a stranger with torch could."""
    torch.save({"header": header if isinstance(header, str) else json.dumps(header), "tensors": tensors}, path)
    return path


def header_of(tensors: dict[str, Tensor], **changes: object) -> dict[str, object]:
    """Write the manifest by hand, independently of the code under test."""
    manifest = {
        name: {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "sha256": hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest(),
        }
        for name, tensor in tensors.items()
    }
    return {**HEADER, "tensors": manifest, **changes}


def refusal(path: Path, limits: Limits | None = None) -> str:
    """Read a file that must be refused; give the message, which must be one line that names the file."""
    with pytest.raises(ArtifactError) as caught:
        read_container(path, schema="qcaps.checkpoint", limits=limits or Limits())
    assert caught.value.where == str(path)
    assert caught.value.do
    assert "\n" not in str(caught.value)
    return caught.value.what


def test_header_and_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    write_container(path, HEADER, example())
    container = read_container(path, schema="qcaps.checkpoint")
    assert container.header == HEADER
    assert list(container.tensors) == ["codes", "conv1.weight", "empty", "step"]
    for name, tensor in example().items():
        loaded = container.tensors[name]
        assert (loaded.shape, loaded.dtype) == (tensor.shape, tensor.dtype)
        assert loaded.numpy().tobytes() == tensor.numpy().tobytes()


def test_family_path_size_and_hash_describe_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    digest = write_container(path, HEADER, example())
    container = read_container(path, schema="qcaps.checkpoint")
    assert (container.path, container.schema) == (path, "qcaps.checkpoint")
    assert container.file_bytes == path.stat().st_size
    assert container.sha256 == digest == hashlib.sha256(path.read_bytes()).hexdigest()


@BRIEFLY
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=5),
        max_size=4,
    )
)
def test_any_names_and_finite_values_come_back(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, list[float]]
) -> None:
    path = tmp_path_factory.mktemp("any") / "model.pt"
    write_container(path, HEADER, {name: torch.tensor(numbers) for name, numbers in values.items()})
    loaded = read_container(path, schema="qcaps.checkpoint").tensors
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == values


@pytest.mark.parametrize("count", [0, 1, 2, 1000, 1001, 2002])
def test_any_number_of_tensors_comes_back(tmp_path: Path, count: int) -> None:
    # torch writes dictionaries in batches of 1000 items, and a single item in another way.
    tensors = {f"t{i:04}": torch.tensor([i % 256], dtype=torch.uint8) for i in range(count)}
    write_container(tmp_path / "model.pt", HEADER, tensors)
    loaded = read_container(tmp_path / "model.pt", schema="qcaps.checkpoint").tensors
    assert [tensor.item() for tensor in loaded.values()] == [i % 256 for i in range(count)]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 2, 3), (1, 2, 3, 1), (2,) * 8, (300, 300), (0,)])
def test_every_rank_comes_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_container(tmp_path / "model.pt", HEADER, {"t": torch.ones(shape)})
    loaded = read_container(tmp_path / "model.pt", schema="qcaps.checkpoint").tensors["t"]
    assert torch.equal(loaded, torch.ones(shape))


def test_plain_torch_opens_the_file_and_finds_a_sorted_compact_header(tmp_path: Path) -> None:
    write_container(tmp_path / "model.pt", {"z": 1, **HEADER}, {"t": torch.tensor([1.0])})
    loaded = torch.load(tmp_path / "model.pt", weights_only=True)
    digest = hashlib.sha256(b"\x00\x00\x80\x3f").hexdigest()
    assert loaded["tensors"]["t"].tolist() == [1.0]
    assert loaded["header"] == (
        '{"model":{"name":"shallow-capsnet","widths":[256,32]},"schema":"qcaps.checkpoint/1",'
        '"tensors":{"t":{"dtype":"float32","sha256":"' + digest + '","shape":[1]}},"z":1}'
    )


def test_the_same_content_gives_the_same_bytes_in_any_order() -> None:
    backwards = dict(reversed(example().items()))
    assert container_bytes(dict(reversed(HEADER.items())), backwards) == container_bytes(HEADER, example())


def test_the_same_content_gives_the_same_bytes_under_two_names(tmp_path: Path) -> None:
    write_container(tmp_path / "a.pt", HEADER, example())
    write_container(tmp_path / "another-name.pt", HEADER, example())
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another-name.pt").read_bytes()


def test_writing_what_was_read_gives_the_same_bytes(tmp_path: Path) -> None:
    write_container(tmp_path / "a.pt", HEADER, example())
    container = read_container(tmp_path / "a.pt", schema="qcaps.checkpoint")
    assert container_bytes(container.header, container.tensors) == (tmp_path / "a.pt").read_bytes()


@pytest.mark.slow
def test_two_processes_write_the_same_bytes() -> None:
    script = (
        "import hashlib, torch; from qcaps.artifacts.container import container_bytes as write;"
        "tensors = {name: torch.ones(3) for name in {'a', 'b', 'c', 'd'}};"
        "print(hashlib.sha256(write({'schema': 'qcaps.checkpoint/1'}, tensors)).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in "123"
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0)[::2],
        torch.arange(12.0)[3:9],
        torch.arange(6.0).reshape(2, 3).t(),
        torch.tensor(2.0).expand(6),
        nn.Parameter(torch.arange(6.0)),
    ],
    ids=["strided", "slice", "transposed", "expanded", "parameter"],
)
def test_a_view_is_written_as_its_own_elements_only(tensor: Tensor) -> None:
    own = torch.tensor(tensor.tolist())
    assert container_bytes(HEADER, {"t": tensor}) == container_bytes(HEADER, {"t": own})


def test_two_views_of_one_storage_are_written_apart(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    write_container(tmp_path / "model.pt", HEADER, {"a": shared, "b": shared})
    loaded = read_container(tmp_path / "model.pt", schema="qcaps.checkpoint").tensors
    loaded["a"][0] = 9.0
    assert loaded["b"].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_thirty_tensors_cost_below_half_a_kilobyte_each() -> None:
    tensors = {f"block{i}.conv.weight": torch.zeros(1000) for i in range(30)}
    assert len(container_bytes(HEADER, tensors)) - 30 * 4000 < 30 * 500


def test_a_file_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        write_container(tmp_path / "missing" / "model.pt", HEADER, example())


@pytest.mark.parametrize("schema", [None, "", "qcaps.checkpoint", "qcaps.checkpoint/", "Checkpoint/1", 1])
def test_a_header_without_a_versioned_schema_is_not_written(schema: object) -> None:
    with pytest.raises(ValueError, match="schema"):
        container_bytes({"schema": schema}, {})


def test_a_header_with_its_own_manifest_is_not_written() -> None:
    with pytest.raises(ValueError, match="no 'tensors'"):
        container_bytes({**HEADER, "tensors": {}}, {})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_header_with_nan_is_not_written(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        container_bytes({**HEADER, "accuracy": number}, {})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bool, torch.int32, torch.complex64])
def test_a_tensor_of_another_dtype_is_not_written(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="not one of"):
        container_bytes(HEADER, {"t": torch.zeros(2, dtype=dtype)})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_that_is_not_finite_is_not_written(number: float) -> None:
    with pytest.raises(QcapsError, match=r"'conv1\.weight' holds NaN or infinity"):
        container_bytes(HEADER, {"conv1.weight": torch.tensor([0.0] * 100 + [number])})


def test_another_family_is_refused_by_its_name(tmp_path: Path) -> None:
    write_container(tmp_path / "model.pt", {"schema": "qcaps.artifact/1"}, {})
    assert refusal(tmp_path / "model.pt") == "the file is a qcaps.artifact/1, not a qcaps.checkpoint"


def test_one_of_several_families_is_told_to_the_caller(tmp_path: Path) -> None:
    write_container(tmp_path / "model.pt", {"schema": "qcaps.artifact/1"}, {})
    container = read_container(tmp_path / "model.pt", schema=("qcaps.checkpoint", "qcaps.artifact"))
    assert container.schema == "qcaps.artifact"


@pytest.mark.parametrize("version", ["0", "2", "01", "10"])
def test_another_version_is_refused_by_its_name(tmp_path: Path, version: str) -> None:
    write_container(tmp_path / "model.pt", {"schema": f"qcaps.checkpoint/{version}"}, {})
    assert f"qcaps.checkpoint/{version}; this qcaps reads version 1" in refusal(tmp_path / "model.pt")


@pytest.mark.parametrize("schema", [None, 1, ["qcaps.checkpoint/1"], "qcaps.checkpoint", "x/1\n", "/1"])
def test_a_header_without_a_valid_schema_is_refused(tmp_path: Path, schema: object) -> None:
    path = saved(tmp_path / "model.pt", header_of({}, schema=schema), {})
    assert "no valid schema" in refusal(path)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    fewer = {name: tensor for name, tensor in example().items() if name != "codes"}
    assert "lacks tensor 'codes'" in refusal(saved(tmp_path / "model.pt", header_of(example()), fewer))


def test_an_extra_tensor_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", header_of(example()), {**example(), "extra": torch.zeros(1)})
    assert "tensor 'extra', which its header does not name" in refusal(path)


@pytest.mark.parametrize(
    "other",
    [
        torch.tensor([1.0, 2.0, 3.0, 5.0]),
        torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        torch.tensor([1.0, 2.0, 3.0, 4.0]).view(torch.uint8),
        torch.tensor([1.0, 2.0, 3.0]),
    ],
    ids=["value", "shape", "dtype", "length"],
)
def test_a_tensor_other_than_its_header_says_is_named(tmp_path: Path, other: Tensor) -> None:
    header = header_of({"w": torch.tensor([1.0, 2.0, 3.0, 4.0])})
    assert "tensor 'w' with another" in refusal(saved(tmp_path / "model.pt", header, {"w": other}))


@pytest.mark.parametrize("manifest", [None, [], "x", {"w": None}, {"w": {}}])
def test_a_header_without_a_sound_manifest_is_refused(tmp_path: Path, manifest: object) -> None:
    header = {**HEADER, "tensors": manifest}
    assert "header" in refusal(saved(tmp_path / "model.pt", header, {"w": torch.zeros(1)}))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_that_is_not_finite_is_refused(tmp_path: Path, number: float) -> None:
    tensors = {"w": torch.tensor([0.0] * 99 + [number])}
    assert "NaN or infinity in tensor 'w'" in refusal(saved(tmp_path / "m.pt", header_of(tensors), tensors))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(1.0).expand(10**10),
        torch.zeros(4).expand(3, 4),
        torch.arange(12.0)[::2],
        torch.arange(12.0)[:6],
        torch.arange(12.0)[6:],
        torch.arange(6.0).reshape(2, 3).t(),
    ],
    ids=["stride 0", "one stride 0", "strided", "front of a storage", "end of a storage", "transposed"],
)
def test_a_tensor_that_does_not_fill_its_storage_in_order_is_refused(tmp_path: Path, tensor: Tensor) -> None:
    path = saved(tmp_path / "model.pt", HEADER, {"w": tensor})
    assert path.stat().st_size < 3000
    assert "tensor 'w', not all its elements in order" in refusal(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a": NaN, REST',
        '{"a": 1e999, REST',
        '{"a": 1, "a": 2, REST',
        '{"a": {"b": 1, "b": 2}, REST',
        '{"a": "\\ud800", REST',
        '{"a": ' + "9" * 5000 + ", REST",
        '{"a": ' * 100_000,
        "[" * 100_000,
    ],
    ids=lambda text: text[:20],
)
def test_a_header_that_is_not_sound_json_is_refused(tmp_path: Path, text: str) -> None:
    text = text.replace("REST", json.dumps(header_of({}))[1:])
    assert "header that is not valid JSON" in refusal(saved(tmp_path / "model.pt", text, {}))


@pytest.mark.parametrize("text", ["[1]", '"text"', "null", '{"a": ' + "[" * 40 + "]" * 40 + "}"])
def test_a_header_that_is_no_object_or_too_deep_is_refused(tmp_path: Path, text: str) -> None:
    assert "no object or nested deeper" in refusal(saved(tmp_path / "model.pt", text, {}))


def with_deep_header(tensors: dict[str, Tensor]) -> dict[str, object]:
    return header_of(tensors, deep=[[[[0]]]])


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (lambda size: Limits(file_bytes=size - 1), "is the limit"),
        (lambda size: Limits(tensors=1), "zip entries"),
        (lambda size: Limits(rank=2), "3 dimensions"),
        (lambda size: Limits(header_bytes=100), "header of"),
        (lambda size: Limits(header_depth=4), "nested deeper than 4"),
    ],
    ids=["file_bytes", "tensors", "rank", "header_bytes", "header_depth"],
)
def test_every_limit_is_enforced(tmp_path: Path, limits: Callable[[int], Limits], reason: str) -> None:
    tensors = {f"t{i}": torch.zeros(1, 1, 1) for i in range(3)}
    path = saved(tmp_path / "model.pt", with_deep_header(tensors), tensors)
    assert reason in refusal(path, limits(path.stat().st_size))


def test_a_file_at_every_limit_is_read(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.zeros(1, 1, 1) for i in range(3)}
    header = with_deep_header(tensors)
    path = saved(tmp_path / "model.pt", header, tensors)
    limits = Limits(
        file_bytes=path.stat().st_size,
        tensors=3,
        rank=3,
        header_bytes=len(json.dumps(header)),
        header_depth=5,
    )
    assert list(read_container(path, schema="qcaps.checkpoint", limits=limits).tensors) == ["t0", "t1", "t2"]


@pytest.mark.parametrize("text", [b"", b"P", b"PK\3\4", b"accuracy 99.7\n", b"\x80\x02}.", b"\x00" * 100])
def test_an_empty_file_or_a_text_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(text)
    assert "not a zip file as torch writes it" in refusal(tmp_path / "model.pt")


def test_a_checkpoint_of_the_time_before_zip_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert "not a zip file as torch writes it" in refusal(tmp_path / "old.pt")


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "No such file" in refusal(tmp_path / "missing.pt")
    assert "not a regular file" in refusal(tmp_path)
    assert "not a regular file" in refusal(tmp_path / "pipe")
    assert "not a regular file" in refusal(Path("/dev/zero"))


def test_a_path_with_a_nul_character_is_refused() -> None:
    with pytest.raises(ArtifactError):
        read_container(Path("a\0b"), schema="qcaps.checkpoint")


def test_a_truncated_file_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    whole = container_bytes(HEADER, example())
    for cut in range(0, len(whole), 31):
        (tmp_path / "model.pt").write_bytes(whole[:cut])
        assert refusal(tmp_path / "model.pt")


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path: Path, every: int) -> None:
    path = tmp_path / "model.pt"
    whole = container_bytes(HEADER, {"w": torch.tensor([1.0, 2.0])})
    positions = range(0, len(whole), every)
    harmless = 0
    for at in positions:
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        try:
            container = read_container(path, schema="qcaps.checkpoint")
        except ArtifactError:
            continue
        harmless += 1
        assert container.header == HEADER
        assert {name: tensor.tolist() for name, tensor in container.tensors.items()} == {"w": [1.0, 2.0]}
    # Padding, dates and the like may be hit without notice.
    assert 0 < harmless < len(positions) / 2


@BRIEFLY
@given(noise=st.binary(max_size=300), at=st.integers(0, 4000), keep=st.booleans())
def test_random_bytes_inside_a_file_are_refused_or_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, keep: bool
) -> None:
    whole = container_bytes(HEADER, example())
    path = tmp_path_factory.mktemp("noise") / "model.pt"
    path.write_bytes(whole[:at] + noise + whole[at + len(noise) * keep :])
    try:
        container = read_container(path, schema="qcaps.checkpoint")
    except ArtifactError:
        pass
    else:
        assert container_bytes(container.header, container.tensors) == whole


def test_what_was_checked_is_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pt"
    write_container(path, HEADER, {"w": torch.tensor([1.0])})

    def check_before_an_attack(data: bytes, limits: Limits, where: str) -> None:
        check_archive(data, limits, where)
        write_container(path, HEADER, {"w": torch.tensor([666.0])})

    monkeypatch.setattr(container_module, "check_archive", check_before_an_attack)
    assert read_container(path, schema="qcaps.checkpoint").tensors["w"].item() == 1.0
