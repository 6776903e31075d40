from __future__ import annotations

import io
import zipfile

import pytest
import torch

from qcaps.artifacts.records import Limits, Record, stored_records
from qcaps.errors import ArtifactError


def saved() -> bytearray:
    buffer = io.BytesIO()
    torch.save({"a": torch.tensor([1.0, 2.0])}, buffer)
    return bytearray(buffer.getvalue())


def entry_at(data: bytearray, name: bytes) -> tuple[int, int]:
    """Find where the local and the directory entry of a name begin."""
    return data.index(name) - 30, data.rindex(name) - 46


def test_every_record_is_found_by_its_name_with_its_bytes() -> None:
    records = stored_records(bytes(saved()), Limits(), "model.pt")
    assert {"data.pkl", "data/0", "version", "byteorder"} <= records.keys()
    assert records["data/0"].read() == torch.tensor([1.0, 2.0]).numpy().tobytes()


def test_changed_bytes_are_noticed_when_they_are_read() -> None:
    data = saved()
    data[data.index(torch.tensor([1.0, 2.0]).numpy().tobytes())] ^= 1
    record = stored_records(bytes(data), Limits(), "model.pt")["data/0"]
    assert isinstance(record, Record)
    with pytest.raises(zipfile.BadZipFile, match="data/0"):
        record.read()


def test_a_local_entry_of_another_name_than_in_the_directory_is_refused() -> None:
    data = saved()
    local, _ = entry_at(data, b"archive/data/0")
    data[local + 30 : local + 44] = b"archive/data/7"
    with pytest.raises(ArtifactError, match="not a zip file as torch writes it"):
        stored_records(bytes(data), Limits(), "model.pt")


def test_an_encrypted_entry_is_refused() -> None:
    data = saved()
    local, listed = entry_at(data, b"archive/data/0")
    data[local + 6] |= 1
    data[listed + 8] |= 1
    with pytest.raises(ArtifactError, match="not a zip file as torch writes it"):
        stored_records(bytes(data), Limits(), "model.pt")
