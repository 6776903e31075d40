from __future__ import annotations

import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from made_pictures import write_folder, write_tar, write_zip

from qcaps.data import archives
from qcaps.data.archives import count_of, files, folder_or_packed
from qcaps.errors import UsageError

FILES = {"b/2.png": b"two", "a/1.png": b"one", "a/notes.txt": b"none"}
TARS = [".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2"]


def wanted(name: str) -> bool:
    return name.endswith(".png")


def content(source: Path, largest: int = 1000) -> list[tuple[str, bytes]]:
    return list(files(source, wanted, file_bytes=largest))


def test_a_folder_gives_the_wanted_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    assert content(write_folder(tmp_path, FILES)) == [("a/1.png", b"one"), ("b/2.png", b"two")]


def test_a_zip_gives_the_same(tmp_path: Path) -> None:
    assert content(write_zip(tmp_path / "x.zip", FILES)) == [("a/1.png", b"one"), ("b/2.png", b"two")]


@pytest.mark.parametrize("ending", TARS)
def test_a_tar_gives_the_same_in_its_own_order(tmp_path: Path, ending: str) -> None:
    assert content(write_tar(tmp_path / f"x{ending}", FILES)) == [("b/2.png", b"two"), ("a/1.png", b"one")]


def test_names_that_begin_with_a_dot_and_a_slash_are_taken_without(tmp_path: Path) -> None:
    assert content(write_tar(tmp_path / "x.tar", {"./a/1.png": b"one"})) == [("a/1.png", b"one")]


def test_wanted_files_are_counted_without_reading_them_but_not_in_a_tar(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", FILES)

    assert count_of(folder, wanted) == 2
    assert count_of(write_zip(tmp_path / "x.zip", FILES), wanted) == 2
    assert count_of(write_tar(tmp_path / "x.tar", FILES), wanted) is None


@pytest.mark.parametrize("ending", [".zip", *TARS])
def test_a_packed_set_is_found_by_its_name(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"train{ending}").touch()

    assert folder_or_packed(tmp_path, "train") == tmp_path / f"train{ending}"
    assert folder_or_packed(tmp_path, "test") is None


def test_an_unpacked_set_goes_before_the_packed_one(tmp_path: Path) -> None:
    (tmp_path / "train.zip").touch()
    (tmp_path / "train").mkdir()

    assert folder_or_packed(tmp_path, "train") == tmp_path / "train"


@pytest.mark.parametrize("name", ["../a.png", "a/../../b.png", "/a.png", "..\\a.png"])
@pytest.mark.parametrize("ending", ["zip", "tar.xz"])
def test_a_name_that_leads_out_of_the_archive_is_refused(tmp_path: Path, name: str, ending: str) -> None:
    write = write_zip if ending == "zip" else write_tar
    source = write(tmp_path / f"x.{ending}", {name: b"x"})

    with pytest.raises(UsageError, match="leads out of the archive") as caught:
        content(source)

    assert caught.value.where == str(source)
    assert os.listdir(tmp_path) == [source.name]


@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
def test_a_file_larger_than_allowed_is_refused(tmp_path: Path, ending: str) -> None:
    write = write_zip if ending == "zip" else write_tar
    source = write(tmp_path / f"x.{ending}", {"a/1.png": bytes(1001)})

    with pytest.raises(UsageError, match=r"'a/1\.png' has 1,001 bytes, more than 1,000"):
        content(source)


def test_a_zip_that_declares_terabytes_is_refused_before_unpacking(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", {f"{number}.png": b"x" for number in range(300)})
    packed = bytearray(source.read_bytes())
    start = 0
    while (start := packed.find(b"PK\x01\x02", start)) >= 0:
        packed[start + 24 : start + 28] = struct.pack("<I", 4_000_000_000)
        start += 4
    source.write_bytes(packed)

    with pytest.raises(UsageError, match="unpacks to more than 200 times its size"):
        list(files(source, wanted, file_bytes=1 << 40))


def test_a_tar_that_unpacks_to_gigabytes_is_refused_on_the_way(tmp_path: Path) -> None:
    source = tmp_path / "x.tar"
    member = tarfile.TarInfo("a.bin")
    member.size = 3 << 30
    with source.open("wb") as file:  # a file with a hole: nothing of it lies on the disk
        file.write(member.tobuf())
        file.truncate(512 + member.size + 1024)

    with pytest.raises(UsageError, match="has 3,221,225,472 bytes, more than 1,000"):
        content(source)


def test_a_tar_of_endless_headers_is_refused_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_ALWAYS_ALLOWED_BYTES", 1000)
    source = write_tar(tmp_path / "x.tar.xz", dict.fromkeys(map(str, range(500)), b""))

    with pytest.raises(UsageError, match="unpacks to more than 200 times its size"):
        content(source)


def test_a_header_of_a_tar_that_declares_gigabytes_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 4 << 30
    source = tmp_path / "x.tar"
    source.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))

    with pytest.raises(UsageError, match="'a header' has 4,294,967,296 bytes"):
        content(source)


@pytest.mark.parametrize("ending", ["zip", *[tar[1:] for tar in TARS]])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_truncated_archive_is_one_clear_line(tmp_path: Path, ending: str, share: float) -> None:
    write = write_zip if ending == "zip" else write_tar
    noise = {f"a/{number}.png": os.urandom(900) for number in range(30)}
    source = write(tmp_path / f"x.{ending}", noise)
    packed = source.read_bytes()
    source.write_bytes(packed[: int(share * len(packed))])

    with pytest.raises(UsageError, match="cannot read the images") as caught:
        content(source)

    assert caught.value.where == str(source)
    assert "complete copy" in caught.value.do
    assert "\n" not in str(caught.value)


def test_a_changed_byte_in_a_zip_is_found(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", {"a/1.png": b"some content"})
    source.write_bytes(source.read_bytes().replace(b"some content", b"same content", 1))

    with pytest.raises(UsageError, match="Bad CRC-32"):
        content(source)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", {"a/1.png": b"x"})
    packed = bytearray(source.read_bytes())
    packed[packed.find(b"PK\x01\x02") + 8] |= 1
    source.write_bytes(packed)

    with pytest.raises(UsageError, match="encrypted"):
        content(source)


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    source = tmp_path / "x.tar"
    with tarfile.open(source, "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo("a/1.png")
            member.type, member.linkname = kind, str(tmp_path / "secret.png")
            archive.addfile(member)

    assert content(source) == []


def test_a_pipe_in_a_folder_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")

    assert content(tmp_path) == []


def test_a_missing_source_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        content(tmp_path / "x.tar")


def test_random_bytes_raise_nothing_but_usage_errors(tmp_path: Path) -> None:
    good = io.BytesIO()
    with zipfile.ZipFile(good, "w") as archive:
        archive.writestr("a/1.png", b"content" * 20)
    tar = write_tar(tmp_path / "good.tar", {"a/1.png": b"content" * 20}).read_bytes()[:2048]
    generator = np.random.default_rng(5)
    refused = 0
    for trial in range(100):
        whole = bytearray(good.getvalue() if trial % 2 else tar)
        for _ in range(4):
            whole[generator.integers(len(whole))] = generator.integers(256)
        source = tmp_path / ("x.zip" if trial % 2 else "x.tar")
        source.write_bytes(whole)
        try:
            content(source)
        except UsageError:
            refused += 1

    assert refused > 20
