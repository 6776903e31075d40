from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qcaps.artifacts.writing import atomic_write
from qcaps.errors import UsageError


@contextmanager
def disk_of(limit: int) -> Iterator[None]:
    """Let no file grow beyond `limit` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_new_file_holds_exactly_the_bytes(tmp_path: Path) -> None:
    atomic_write(tmp_path / "model.pt", b"\x00\n\r\xff")
    assert (tmp_path / "model.pt").read_bytes() == b"\x00\n\r\xff"


def test_an_existing_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"a much longer old content")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["model.pt"]


def test_a_reader_of_the_old_file_keeps_the_old_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        atomic_write(path, b"new")
        assert reader.read() == b"old"


def test_permissions_follow_the_umask_like_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    atomic_write(tmp_path / "model.pt", b"")
    assert stat.S_IMODE((tmp_path / "model.pt").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_the_bytes_reach_the_disk_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        events.append("folder" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes")
        fsync(descriptor)

    def recording_replace(source: Path, target: Path) -> None:
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    atomic_write(tmp_path / "model.pt", b"12345")
    assert events == ["5 bytes", "rename", "folder"]


def test_a_full_disk_leaves_the_old_file_whole_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    with disk_of(4096), pytest.raises(UsageError):
        atomic_write(path, bytes(10_000))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.pt"]


def test_a_failing_rename_leaves_the_old_file_whole_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UsageError, match="Read-only file system"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.pt"]


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "model.pt", b"new")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_a_missing_folder_or_a_file_in_its_place_is_one_line_that_names_the_path(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / folder / "model.pt"
    with pytest.raises(UsageError) as caught:
        atomic_write(path, b"new")
    assert str(path) in str(caught.value)
    assert caught.value.do
    assert "\n" not in str(caught.value)


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").mkdir()
    with pytest.raises(UsageError):
        atomic_write(tmp_path / "model.pt", b"new")
    assert os.listdir(tmp_path) == ["model.pt"]
