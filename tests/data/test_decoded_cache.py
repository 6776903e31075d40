from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from qcaps.data.decoded_cache import Decoded, decoded_once
from qcaps.errors import QcapsWarning


class Maker:
    """Decodes the same images every time, and counts how often."""

    def __init__(self, groups: bool = False) -> None:
        self.calls = 0
        self.groups = np.array([4, 5]) if groups else None

    def __call__(self) -> Decoded:
        self.calls += 1
        pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
        return Decoded(pixels, np.array([1, 0]), "JPEG q75", self.groups)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QCAPS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "train.zip"
    file.write_bytes(b"packed images")
    return file


def caches(source: Path) -> list[Path]:
    return sorted((source.parent / "cache" / "images").iterdir())


@pytest.mark.parametrize("groups", [False, True])
def test_the_second_call_gives_the_same_without_decoding(source: Path, groups: bool) -> None:
    make = Maker(groups)

    first, second = (decoded_once(source, "way", make) for _ in range(2))

    assert make.calls == 1
    assert np.array_equal(first.pixels, second.pixels)
    assert second.pixels.dtype == np.uint8
    assert second.labels.tolist() == [1, 0]
    assert second.note == "JPEG q75"
    assert (second.groups is None) is not groups
    assert not groups or second.groups.tolist() == [4, 5]


def test_a_renamed_file_of_the_same_content_is_not_decoded_again(source: Path) -> None:
    make = Maker()
    decoded_once(source, "way", make)

    decoded_once(source.rename(source.with_name("other.zip")), "way", make)

    assert make.calls == 1


def test_another_content_of_the_same_length_and_time_is_decoded(source: Path) -> None:
    make = Maker()
    decoded_once(source, "way", make)
    before = source.stat()
    source.write_bytes(b"packed imageZ")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))

    decoded_once(source, "way", make)

    assert make.calls == 2


def test_another_way_is_decoded(source: Path) -> None:
    make = Maker()

    for way in ("one", "two"):
        decoded_once(source, way, make)

    assert make.calls == 2


def test_a_folder_is_decoded_again_when_a_file_changes_or_is_added(source: Path) -> None:
    make, folder = Maker(), source.parent / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"a")
    decoded_once(folder, "way", make)
    decoded_once(folder, "way", make)
    assert make.calls == 1

    os.utime(folder / "a.png", ns=(1, 1))
    decoded_once(folder, "way", make)
    assert make.calls == 2

    (folder / "b.png").write_bytes(b"b")
    decoded_once(folder, "way", make)
    assert make.calls == 3


@pytest.mark.parametrize("place", [0, 40, 200, -200, -1])
def test_a_cache_with_a_changed_byte_is_made_again(source: Path, place: int) -> None:
    make = Maker()
    decoded_once(source, "way", make)
    (cache,) = caches(source)
    content = bytearray(cache.read_bytes())
    content[place] ^= 0xFF
    cache.write_bytes(content)

    found = decoded_once(source, "way", make)

    assert found.pixels.flatten().tolist() == list(range(24))
    assert found.labels.tolist() == [1, 0]


@pytest.mark.parametrize("length", [0, 100, 500])
def test_a_truncated_cache_is_made_again(source: Path, length: int) -> None:
    make = Maker()
    decoded_once(source, "way", make)
    (cache,) = caches(source)
    cache.write_bytes(cache.read_bytes()[:length])

    decoded_once(source, "way", make)
    decoded_once(source, "way", make)

    assert make.calls == 2


def test_a_cache_that_holds_a_pickle_is_not_loaded(source: Path) -> None:
    make = Maker()
    decoded_once(source, "way", make)
    (cache,) = caches(source)
    with cache.open("wb") as file:
        np.savez(file, pixels=np.array([{}], dtype=object), labels=np.zeros(1), note=np.array(""))

    assert decoded_once(source, "way", make).pixels.shape == (2, 3, 2, 2)


def test_many_at_once_leave_one_whole_cache(source: Path) -> None:
    make = Maker()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: decoded_once(source, "way", make), range(32)))

    assert {tuple(one.labels.tolist()) for one in found} == {(1, 0)}
    assert len(caches(source)) == 1


def test_nothing_half_written_stays_behind(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)

    with pytest.warns(QcapsWarning, match="not kept in .*: No space left on device"):
        found = decoded_once(source, "way", Maker())

    assert found.labels.tolist() == [1, 0]
    assert caches(source) == []


def test_a_cache_folder_that_cannot_be_made_costs_a_warning(source: Path) -> None:
    (source.parent / "cache").write_bytes(b"in the way")

    with pytest.warns(QcapsWarning, match="decoded images are not kept"):
        assert decoded_once(source, "way", Maker()).labels.tolist() == [1, 0]
