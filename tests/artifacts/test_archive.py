from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qcaps.artifacts.archive import Limits, check_archive
from qcaps.artifacts.container import container_bytes, read_container
from qcaps.errors import ArtifactError

HEADER = {"schema": "qcaps.checkpoint/1"}
# Files are slow on a busy machine; a deadline would fail there without a reason.
BRIEFLY = settings(deadline=None, max_examples=50)
Records = list[tuple[str, bytes]]


def records_of(data: bytes) -> Records:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def honest() -> bytes:
    return container_bytes(HEADER, {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])})


def zipped(records: Records, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the repeated names that some tests want
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            for name, content in records:
                archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return buffer.getvalue()


def with_record(name: str, content: bytes) -> bytes:
    """Take the honest file, and put other bytes into one record."""
    return zipped([(old, content if old == f"archive/{name}" else kept) for old, kept in records_of(honest())])


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def refusal(data: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(ArtifactError) as caught:
        check_archive(data, limits or Limits(), "model.pt")
    assert caught.value.where == "model.pt"
    return caught.value.what


def test_an_honest_file_passes_also_when_zipped_again(tmp_path: Path) -> None:
    check_archive(honest(), Limits(), "model.pt")
    (tmp_path / "again.pt").write_bytes(zipped(records_of(honest())))
    loaded = read_container(tmp_path / "again.pt", schema="qcaps.checkpoint").tensors
    assert loaded["b"].tolist() == [3.0, 4.0]


def test_a_file_saved_again_by_its_user_under_any_name_passes(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(honest())
    torch.save(torch.load(tmp_path / "a.pt", weights_only=True), tmp_path / "my model.pt")
    check_archive((tmp_path / "my model.pt").read_bytes(), Limits(), "model.pt")


def test_compressed_entries_are_refused() -> None:
    bomb = zipped([*records_of(honest()), ("archive/data/2", bytes(32_000_000))], zipfile.ZIP_DEFLATED)
    assert len(bomb) < 40_000
    assert "compressed zip entry" in refusal(bomb)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../archive/data/2",
        "archive/../data/2",
        "archive/data/../2",
        "archive/data/02",
        "archive/data/x",
        "archive/data/",
        "archive/constants.pkl",
        "archive/code/run.py",
        "other/data/2",
        "data.pkl",
        "ARCHIVE/data/2",
        "archive/DATA.PKL",
    ],
)
def test_an_entry_that_torch_would_not_write_is_refused(name: str) -> None:
    assert "unexpected zip entry" in refusal(zipped([*records_of(honest()), (name, b"")]))


@pytest.mark.parametrize("root", ["", "..", "."])
def test_a_root_folder_that_leads_elsewhere_is_refused(root: str) -> None:
    moved = [(name.replace("archive", root, 1), content) for name, content in records_of(honest())]
    assert "unexpected zip entry" in refusal(zipped(moved))


@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/data/0", "archive/version"])
def test_a_name_given_twice_is_refused(name: str) -> None:
    assert f"'{name}' twice" in refusal(zipped([*records_of(honest()), (name, b"")]))


def test_entries_that_overlap_are_refused() -> None:
    data = bytearray(honest())
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        first = archive.getinfo("archive/data/0").header_offset
        at = data.rindex(b"archive/data/1") - 4  # the offset field of its directory entry
    data[at : at + 4] = struct.pack("<L", first)
    assert "overlaps another" in refusal(bytes(data))


def test_an_entry_longer_than_the_file_is_refused() -> None:
    data = bytearray(honest())
    at = data.rindex(b"archive/data/1") - 26  # both size fields of its directory entry
    data[at : at + 8] = struct.pack("<LL", 10**9, 10**9)
    assert "does not fit" in refusal(bytes(data))


@pytest.mark.parametrize(("before", "after"), [(b"x", b""), (b"PK\3\4", b""), (b"", b"x"), (b"", b"\0" * 98)])
def test_bytes_before_or_after_the_archive_are_refused(before: bytes, after: bytes) -> None:
    assert "not a zip file as torch writes it" in refusal(before + honest() + after)


def test_a_second_archive_behind_the_first_is_refused() -> None:
    assert "not a zip file as torch writes it" in refusal(honest() + zipped(records_of(honest())))


def test_an_archive_comment_is_refused() -> None:
    data = honest()
    assert "not a zip file as torch writes it" in refusal(data[:-2] + struct.pack("<H", 22) + data[-22:])


@pytest.mark.parametrize("field", [-22 - 12, -22 - 20 - 56 + 24, -22 - 20 - 56 + 40, -22 - 20 - 56 + 48])
def test_a_64_bit_trailer_that_says_something_else_is_refused(field: int) -> None:
    # Locator offset, entry count, directory size and directory offset: torch and zipfile read different ones.
    data = bytearray(honest())
    data[field] ^= 1
    assert "not a zip file as torch writes it" in refusal(bytes(data))


def test_a_directory_with_more_entries_than_it_counts_is_refused() -> None:
    data = bytearray(zipped(records_of(honest())))
    count = struct.unpack_from("<H", data, len(data) - 12)[0]
    struct.pack_into("<HH", data, len(data) - 14, count - 1, count - 1)
    assert "contradicts itself" in refusal(bytes(data))


def test_a_directory_too_long_for_its_entries_is_refused_unread() -> None:
    directory = bytes(100_000)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(directory), 4, 0)
    assert "1 zip entries in 100000 bytes" in refusal(b"PK\3\4" + directory + end)


@pytest.mark.parametrize("name", ["version", "byteorder", ".data/serialization_id"])
def test_an_oversized_side_record_is_refused(name: str) -> None:
    assert "oversized zip entry" in refusal(with_record(name, b"3" * 65))


def test_an_oversized_pickle_is_refused_unread() -> None:
    assert "oversized pickle" in refusal(with_record("data.pkl", bytes(200_000)), Limits(header_bytes=100_000))


def test_a_big_endian_file_is_refused() -> None:
    assert "big-endian" in refusal(with_record("byteorder", b"big"))


def test_a_file_without_a_pickle_is_refused() -> None:
    assert "not a zip file" in refusal(zipped([("archive/version", b"3\n")]))


def test_an_archive_without_entries_is_refused() -> None:
    assert "not a zip file" in refusal(zipped([]))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, 4, 0)
    assert "not a zip file" in refusal(b"PK\3\4" + end)


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("inside", [False, True], ids=["whole", "as a tensor"])
def test_a_pickle_that_calls_a_function_is_refused_without_the_call(tmp_path: Path, inside: bool) -> None:
    trap = Call(os.mkdir, str(tmp_path / "trap"))
    content = {"header": "{}", "tensors": {"a": trap}} if inside else trap
    evil = with_record("data.pkl", pickle.dumps(content, protocol=2))
    assert "asks for 'posix mkdir' on loading" in refusal(evil)
    assert not (tmp_path / "trap").exists()
    pickle.loads(pickle.dumps(trap))  # noqa: S301, the trap does work
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    "bomb",
    [
        Call(bytearray, 10**11),
        Call(torch.Tensor, 10**11),
        Call(torch.UntypedStorage, 10**11),
        Call(OrderedDict, {i: i for i in range(9)}),
        Call(OrderedDict),
        Call(torch._utils._rebuild_tensor_v2, torch.ones(2)),
    ],
    ids=["bytearray", "tensor", "storage", "copied dictionary", "dictionary", "rebuild"],
)
def test_a_call_that_torch_allows_but_never_writes_here_is_refused(bomb: Call) -> None:
    pickled = pickle.dumps({"header": "{}", "tensors": {"a": bomb}}, protocol=2)
    assert refusal(with_record("data.pkl", pickled))


def test_a_tuple_nested_too_deep_to_hash_is_refused() -> None:
    key = b")" + b"\x85" * 1_000_000  # (((...),),) in one million steps
    assert "something else" in refusal(with_record("data.pkl", b"\x80\x02}" + key + b"Ns."))


def test_a_pickle_of_too_many_steps_is_refused_early() -> None:
    assert "something else" in refusal(with_record("data.pkl", b"\x80\x02" + b"(" * 1_000_000))


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(2),
        [torch.zeros(2)],
        {"weight": torch.zeros(2)},
        OrderedDict(header="{}", tensors={"a": torch.zeros(2)}),
        {"header": "{}", "tensors": OrderedDict(a=torch.zeros(2))},
        {"header": b"{}", "tensors": {"a": torch.zeros(2)}},
        {"header": "{}", "tensors": {1: torch.zeros(2)}},
        {"header": "{}", "tensors": {"a": 1.5}},
        {"header": "{}", "tensors": {"a": [torch.zeros(2)]}},
        {"header": "{}", "tensors": {"a": torch.zeros(2)}, "more": 1},
        {"header": "{}", "tensors": {"a": None}},
        {"header": "{}"},
        nn.Linear(2, 2).state_dict(),
    ],
)
def test_another_structure_than_a_header_and_tensors_is_refused(content: object) -> None:
    assert refusal(saved(content))


@pytest.mark.parametrize(
    "tensor",
    [
        nn.Parameter(torch.zeros(2)),
        torch.zeros(2, requires_grad=True),
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(2, dtype=torch.float16),
        torch.zeros(2, dtype=torch.bfloat16),
        torch.zeros(2, dtype=torch.bool),
        torch.zeros(2, dtype=torch.uint16),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, dtype=torch.complex64).conj(),
        torch.zeros(2, device="meta"),
        torch.zeros(2).to_sparse(),
    ],
    ids=str,
)
def test_another_kind_of_tensor_is_refused(tensor: Tensor) -> None:
    assert refusal(saved({"header": "{}", "tensors": {"a": tensor}}))


def test_two_tensors_on_one_record_are_refused() -> None:
    shared = torch.zeros(1000)
    both = saved({"header": "{}", "tensors": {"a": shared, "b": shared[:]}})
    assert "one whole record of its own" in refusal(both)


def test_a_record_loaded_again_under_another_key_is_refused() -> None:
    # torch finds the record data/0 for the text "0" as well as for the number 0.
    pickled = dict(records_of(honest()))["archive/data.pkl"]
    assert pickled.count(b"X\x01\x00\x00\x001") == 1
    assert "something else" in refusal(with_record("data.pkl", pickled.replace(b"X\x01\x00\x00\x001", b"K\x00")))


def test_a_giant_storage_declared_on_a_small_record_is_refused() -> None:
    pickled = dict(records_of(honest()))["archive/data.pkl"]
    declared = pickled.replace(b"K\x02tq", b"J" + struct.pack("<i", 2**31 - 1) + b"tq", 1)
    assert declared != pickled
    assert "one whole record of its own" in refusal(with_record("data.pkl", declared))


def test_a_tensor_that_declares_more_elements_than_its_storage_is_refused(tmp_path: Path) -> None:
    pickled = dict(records_of(honest()))["archive/data.pkl"]
    declared = pickled.replace(b"K\x02\x85", b"K\x09\x85", 1)
    assert declared != pickled
    (tmp_path / "model.pt").write_bytes(with_record("data.pkl", declared))
    with pytest.raises(ArtifactError, match="cannot be loaded by torch"):
        read_container(tmp_path / "model.pt", schema="qcaps.checkpoint")


def test_an_object_fetched_from_the_memo_does_not_count_as_the_operation_that_made_it() -> None:
    pickled = dict(records_of(honest()))["archive/data.pkl"]
    first, second = re.finditer(rb"t(q.)Q", pickled, re.DOTALL)
    fetched = b"h" + first[1][1:]  # the tuple of the first storage, in place of making the second
    assert "something else" in refusal(
        with_record("data.pkl", pickled[: second.start()] + fetched + pickled[second.start() + 1 :])
    )


@pytest.mark.parametrize("content", [b"", bytes(4), bytes(7), bytes(9), bytes(800)])
def test_a_record_of_another_length_than_declared_is_refused(content: bytes) -> None:
    assert "one whole record of its own" in refusal(with_record("data/1", content))


def test_a_record_that_belongs_to_no_tensor_is_refused() -> None:
    assert "belong to no tensor" in refusal(zipped([*records_of(honest()), ("archive/data/2", b"hidden")]))


def test_a_tensor_without_a_record_is_refused() -> None:
    assert "one whole record of its own" in refusal(
        zipped([r for r in records_of(honest()) if r[0] != "archive/data/1"])
    )


def test_a_repeated_tensor_name_is_refused(tmp_path: Path) -> None:
    pickled = dict(records_of(honest()))["archive/data.pkl"]
    repeated = pickled.replace(b"X\x01\x00\x00\x00b", b"X\x01\x00\x00\x00a")
    assert repeated != pickled
    (tmp_path / "model.pt").write_bytes(with_record("data.pkl", repeated))
    with pytest.raises(ArtifactError, match="'a' with another"):
        read_container(tmp_path / "model.pt", schema="qcaps.checkpoint")


def test_a_changed_pickle_is_noticed_by_its_checksum() -> None:
    data = honest()
    at = data.index(b"qcaps.checkpoint")
    assert "not a zip file" in refusal(data[:at] + b"Q" + data[at + 1 :])


@pytest.mark.parametrize("protocol", [0, 1, 3, 4, 5])
def test_another_pickle_protocol_is_refused(protocol: int) -> None:
    buffer = io.BytesIO()
    torch.save({"header": json.dumps(HEADER), "tensors": {}}, buffer, pickle_protocol=protocol)
    assert refusal(buffer.getvalue())


@pytest.mark.parametrize(
    "pickled",
    [b"", b".", b"\x80", b"\x80\x02", b"\x80\x02q\x00.", b"\x80\x02h\x00.", b"\x80\x02X\xff\xff\xff\xff."],
)
def test_a_broken_pickle_is_refused(pickled: bytes) -> None:
    assert refusal(with_record("data.pkl", pickled))


@BRIEFLY
@given(st.binary(max_size=200))
def test_random_bytes_as_pickle_are_refused(pickled: bytes) -> None:
    assert refusal(with_record("data.pkl", pickled))


@BRIEFLY
@given(st.lists(st.tuples(st.text(max_size=12), st.binary(max_size=40)), max_size=6), st.booleans())
def test_random_zip_files_are_refused(records: Records, rooted: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert refusal(zipped([(f"archive/{name}" if rooted else name, content) for name, content in records]))


@BRIEFLY
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    assert refusal(data)
    assert refusal(b"PK\3\4" + data)
