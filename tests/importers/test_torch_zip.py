from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from foreign_files import on_gpu, pickle_of, save_zip, with_pickle, zipped
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qcaps.artifacts.records import Limits
from qcaps.errors import ArtifactError
from qcaps.importers.torch_zip import read_torch_zip

BRIEFLY = settings(deadline=None, max_examples=50)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def read(path: Path) -> dict[str, Tensor]:
    return read_torch_zip(path.read_bytes(), Limits(), str(path))[0]


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def refusal(data: bytes) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_torch_zip(data, Limits(), "model.pt")
    return caught.value.what


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
        assert found[name].is_contiguous()


def test_a_state_dict_comes_back_in_its_order_counters_as_integers(tmp_path: Path) -> None:
    state = network().state_dict()
    found = read(save_zip(tmp_path / "model.pt", state))
    assert_same(found, state)
    assert found["1.num_batches_tracked"].dtype == torch.int64


def test_a_wrapper_gives_its_state_dict_and_nothing_beside_it(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    wrapper = {
        "epoch": 3,
        "routing_iterations": 3,
        "metric": "loss",
        "best": 0.25,
        "history": [1.0, 2, None, True],
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "state_dict": model.state_dict(),
    }
    found, numbers = read_torch_zip(save_zip(tmp_path / "model.pt", wrapper).read_bytes(), Limits(), "model.pt")
    assert_same(found, model.state_dict())
    assert numbers == {"epoch": 3, "routing_iterations": 3}


@pytest.mark.parametrize("prefix", ["module.", "_net.", "module._net.", "_net.module."])
def test_prefixes_of_wrappers_are_stripped(tmp_path: Path, prefix: str) -> None:
    state = network().state_dict()
    wrapped = OrderedDict((prefix + name, tensor) for name, tensor in state.items())
    assert_same(read(save_zip(tmp_path / "model.pt", wrapped)), state)


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model.pt", {"a": torch.zeros(1), "b": torch.ones(1)})
    twice = pickle_of(path).replace(b"X\x01\x00\x00\x00b", b"X\x01\x00\x00\x00a")
    assert "holds the key" in refusal(with_pickle(path, twice).read_bytes())


def test_names_that_only_differ_by_a_prefix_are_refused() -> None:
    assert "'a' twice" in refusal(saved({"a": torch.zeros(1), "module.a": torch.ones(1)}))


def test_storages_on_a_gpu_are_read_on_the_cpu(tmp_path: Path) -> None:
    state = network().state_dict()
    path = on_gpu(save_zip(tmp_path / "model.pt", state))
    assert b"cuda:0" in pickle_of(path)
    assert_same(read(path), state)


def test_parameters_are_read_as_tensors(tmp_path: Path) -> None:
    state = dict(network().named_parameters())
    assert b"_rebuild_parameter" in pickle_of(save_zip(tmp_path / "model.pt", state))
    assert_same(read(tmp_path / "model.pt"), {name: tensor.detach() for name, tensor in state.items()})


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).t(),
        torch.arange(16.0).reshape(1, 2, 2, 4).contiguous(memory_format=torch.channels_last),
        torch.arange(10.0)[3:7],
        torch.arange(10.0)[::3],
        torch.tensor(3.0),
        torch.zeros(0),
        torch.zeros(2, 0, 3),
    ],
    ids=["transposed", "channels last", "slice", "steps", "scalar", "empty", "empty axis"],
)
def test_views_are_read_as_the_numbers_they_show(tmp_path: Path, tensor: Tensor) -> None:
    assert_same(read(save_zip(tmp_path / "model.pt", {"a": tensor})), {"a": tensor})


def test_records_numbered_by_memory_address_are_found(tmp_path: Path) -> None:
    data = save_zip(tmp_path / "model.pt", {"a": torch.tensor([5.0])}).read_bytes()
    address = b"94857203948572039"  # as the first torch with zip files wrote them
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    renamed = {name.replace("data/0", f"data/{address.decode()}"): content for name, content in records.items()}
    key = struct.pack("<BI", ord("X"), len(address)) + address
    renamed["model/data.pkl"] = renamed["model/data.pkl"].replace(b"X\x01\x00\x00\x000", key)
    assert read_torch_zip(zipped(renamed), Limits(), "model.pt")[0]["a"].tolist() == [5.0]


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("place", ["whole", "tensor", "beside"])
def test_a_pickle_that_calls_a_function_is_refused_without_the_call(tmp_path: Path, place: str) -> None:
    trap = Call(os.mkdir, str(tmp_path / "trap"))
    honest = {"a": torch.zeros(1)}
    content = {"whole": trap, "tensor": {"a": trap}, "beside": {"state_dict": honest, "metric": trap}}[place]
    path = save_zip(tmp_path / "model.pt", honest)
    evil = with_pickle(path, pickle.dumps(content, protocol=2)) if place != "beside" else save_zip(path, content)
    assert "asks for 'posix mkdir' on loading" in refusal(evil.read_bytes())
    assert not (tmp_path / "trap").exists()
    pickle.loads(pickle.dumps(trap))  # noqa: S301, the trap does work
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    "content",
    [
        network(),
        Call(torch.device, "cpu"),
        Call(bytearray, 10**11),
        Call(OrderedDict, [["a", 1]]),
        Call(torch._utils._rebuild_parameter, 1, True, {}),
    ],
    ids=["module", "device", "bytearray", "filled dictionary", "parameter of nothing"],
)
def test_a_whole_object_or_a_strange_call_is_refused(content: object, tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model.pt", {"a": torch.zeros(1)})
    pickled = pickle.dumps({"a": content}, protocol=2)
    assert "on loading" in refusal(with_pickle(path, pickled).read_bytes())


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(2),
        [torch.zeros(2)],
        {},
        {"state_dict": {}},
        {"a": 1.0},
        {"a": [torch.zeros(2)]},
        {1: torch.zeros(2)},
    ],
)
def test_anything_but_a_dictionary_of_tensors_is_refused(content: object) -> None:
    assert "state dict" in refusal(saved(content))


def test_a_file_of_qcaps_is_named_as_such() -> None:
    assert "one of qcaps already" in refusal(saved({"header": "{}", "tensors": {"a": torch.zeros(1)}}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16, torch.uint8, torch.bool])
def test_another_precision_is_refused(dtype: torch.dtype) -> None:
    assert "another precision than float32" in refusal(saved({"a": torch.zeros(2, dtype=dtype)}))


@pytest.mark.parametrize(("stored", "shown"), [(1, 10**10), (5, 5)])
def test_a_tensor_that_repeats_one_number_is_refused(stored: int, shown: int) -> None:
    repeated = torch.zeros(stored)[:1].expand(shown)
    assert "does not hold all elements" in refusal(saved({"a": repeated}))


def test_a_huge_shape_on_a_small_record_is_refused(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model.pt", {"a": torch.zeros(7)})
    pickled = pickle_of(path)
    huge = pickled.replace(b"K\x07\x85", b"J\xff\xff\xff\x7f\x85")
    assert huge != pickled
    assert "does not hold all" in refusal(with_pickle(path, huge).read_bytes())


def test_an_offset_beyond_the_record_is_refused(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model.pt", {"a": torch.arange(9.0)[4:6]})
    pickled = pickle_of(path)
    assert pickled.count(b"QK\x04") == 1
    shifted = pickled.replace(b"QK\x04", b"QK\x08")
    assert "does not hold all elements" in refusal(with_pickle(path, shifted).read_bytes())


def test_a_storage_of_another_length_than_its_record_is_refused(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model.pt", {"a": torch.zeros(7)})
    pickled = pickle_of(path)
    longer = pickled.replace(b"K\x07t", b"K\x09t")
    assert longer != pickled
    assert "another number of bytes" in refusal(with_pickle(path, longer).read_bytes())


def test_many_tensors_on_the_same_numbers_are_refused() -> None:
    shared = torch.zeros(1000)
    assert "share their numbers" in refusal(saved({str(i): shared[:] for i in range(100)}))


def test_a_changed_number_is_noticed_by_its_checksum() -> None:
    data = saved({"a": torch.full((3,), 1.5)})
    number = struct.pack("<3f", 1.5, 1.5, 1.5)
    assert data.count(number) == 1
    assert "damaged tensor" in refusal(data.replace(number, struct.pack("<3f", 1.5, 2.5, 1.5)))


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model.pt", {"a": torch.zeros(1_000_000)})
    with zipfile.ZipFile(path) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    bomb = zipped(records, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 10_000
    assert "compressed zip entry" in refusal(bomb)


@pytest.mark.parametrize("beside", [False, True])
def test_content_nested_too_deep_is_refused(beside: bool) -> None:
    deep: object = torch.zeros(1)
    for _ in range(100):
        deep = [deep]
    content = {"state_dict": {"a": torch.zeros(1)}, "extra": deep} if beside else {"a": deep}
    assert "nests its content deeper than 32 levels" in refusal(saved(content))


def test_tuples_nested_a_hundred_thousand_times_are_refused(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model.pt", {"a": torch.zeros(1)})
    pickled = b"\x80\x02}X\x01\x00\x00\x00a)" + b"\x85" * 100_000 + b"s."
    assert "nests its content deeper" in refusal(with_pickle(path, pickled).read_bytes())


def test_lists_that_double_with_every_level_are_visited_once_each() -> None:
    doubled: object = "end"
    for _ in range(28):
        doubled = [doubled, doubled]
    found, _ = read_torch_zip(saved({"state_dict": {"a": torch.ones(1)}, "extra": doubled}), Limits(), "model.pt")
    assert found["a"].tolist() == [1.0]


def text(value: str) -> bytes:
    """Write a string as a pickle of protocol 2 does."""
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def storage(kind: str) -> bytes:
    """Ask for a storage of eight numbers."""
    return b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"Storage\n" + text("0") + text("cpu") + b"K\x08tQ"


def tensor_of_shape(shape: bytes, stride: bytes) -> bytes:
    """Rebuild a tensor, its shape and stride given as pickles."""
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage("Float") + b"K\0" + shape + stride + b"\x89NtR"


HUGE = b"\x8a\xff" + b"\xff" * 254 + b"\x7f"  # LONG1, 2^2039 - 1


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        # A tuple of two of the tuple before, thirty times: its text and its hash would never end.
        (b"})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(30)) + b"Ns.", "a key of kind tuple"),
        (b"}" + text("a") + b"Ns" + text("a") + b"Ns.", "the key 'a' twice"),
        (b"}" + text("a") + tensor_of_shape(b"(" + b"K\1" * 17 + b"t", b"(" + b"K\1" * 17 + b"t") + b"s.", "damaged"),
        (b"}" + text("a") + tensor_of_shape(b"(" + HUGE + b"t", b"(K\1t") + b"s.", "damaged"),
        (b"}" + text("a") + storage("A" * 21) + b"s.", "asks for 'torch AAAAAAAAAAAAAAAAAAAAA"),
        (b"}" + text("a\n") + tensor_of_shape(b"(K\x08t", b"(K\1t") + b"s.", "unprintable name"),
    ],
    ids=["endless key", "key twice", "dimensions", "huge number", "long name", "unprintable name"],
)
def test_what_only_an_attack_would_hold_is_refused_in_one_short_line(pickled: bytes, reason: str) -> None:
    said = refusal(zipped({"a/data.pkl": b"\x80\x02" + pickled, "a/data/0": bytes(32)}))
    assert reason in said
    assert said.isprintable()
    assert len(said) < 200


def test_a_pickle_of_too_many_steps_is_refused(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model.pt", {"a": torch.zeros(1)})
    assert "far more than tensors" in refusal(with_pickle(path, b"\x80\x02" + b"N" * 260_000 + b".").read_bytes())


@pytest.mark.parametrize("protocol", [0, 1, 3, 4, 5])
def test_another_pickle_protocol_is_refused(protocol: int) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1), "b": b"bytes"}, buffer, pickle_protocol=protocol)
    assert refusal(buffer.getvalue())


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02h\x00.",
        b"\x80\x02a.",
        b"\x80\x02}}s.",
        b"\x80\x02R.",
        b"\x80\x02Q.",
        b"\x80\x02t.",
    ],
)
def test_a_broken_pickle_is_refused(tmp_path: Path, pickled: bytes) -> None:
    path = save_zip(tmp_path / "model.pt", {"a": torch.zeros(1)})
    assert refusal(with_pickle(path, pickled).read_bytes())


@BRIEFLY
@given(st.data())
def test_a_pickle_with_changed_bytes_is_read_or_refused(data: st.DataObject) -> None:
    archive = zipfile.ZipFile(io.BytesIO(saved(OrderedDict(a=torch.zeros(3), b=torch.ones(2)))))
    records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    pickled = bytearray(records["archive/data.pkl"])
    for _ in range(3):
        pickled[data.draw(st.integers(2, len(pickled) - 1))] = data.draw(st.integers(0, 255))
    try:
        found, _ = read_torch_zip(zipped({**records, "archive/data.pkl": bytes(pickled)}), Limits(), "model.pt")
    except ArtifactError:
        return
    assert sum(tensor.numel() for tensor in found.values()) <= 5
