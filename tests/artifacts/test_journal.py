from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcaps.artifacts import journal as journal_module
from qcaps.artifacts.journal import Journal, content_key
from qcaps.errors import ArtifactError, UsageError

KEY = content_key("candidate", 1)
OTHER = content_key("candidate", 2)
# Files are slow on a busy machine; a deadline would fail there without a reason.
BRIEFLY = settings(deadline=None, max_examples=50)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


@pytest.fixture
def filled(path: Path) -> Path:
    with Journal.open(path) as journal:
        journal.append(KEY, 0, [3, 1, 4])
        journal.append(OTHER, 0, [9])
        journal.append(KEY, 3, [1, 5])
    return path


def contents(path: Path) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    with Journal.open(path) as journal:
        return journal.get(KEY), journal.get(OTHER)


def test_an_unknown_key_is_a_miss(path: Path) -> None:
    with Journal.open(path) as journal:
        assert journal.get(KEY) is None


def test_ranges_of_one_candidate_are_joined_in_memory(path: Path) -> None:
    with Journal.open(path) as journal:
        journal.append(KEY, 0, [7, 8])
        journal.append(KEY, 2, [9])
        assert journal.get(KEY) == (7, 8, 9)


def test_what_was_appended_is_there_after_reopening(filled: Path) -> None:
    assert contents(filled) == ((3, 1, 4, 1, 5), (9,))


def test_appending_goes_on_after_reopening(filled: Path) -> None:
    with Journal.open(filled) as journal:
        journal.append(KEY, 5, [9])
    assert contents(filled) == ((3, 1, 4, 1, 5, 9), (9,))


def test_a_line_is_on_disk_before_the_journal_is_closed(path: Path) -> None:
    with Journal.open(path) as journal:
        journal.append(KEY, 0, [1])
        assert path.read_bytes().count(b"\n") == 2


def test_a_line_is_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    with Journal.open(path) as journal:
        monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
        journal.append(KEY, 0, [1])
    assert sizes == [path.stat().st_size]


def test_every_line_is_json_and_the_first_names_the_schema(filled: Path) -> None:
    lines = [json.loads(line) for line in filled.read_text().splitlines()]
    assert lines[0] == {"schema": "qcaps.journal/1"}
    assert [(line["key"], line["first"]) for line in lines[1:]] == [(KEY, 0), (OTHER, 0), (KEY, 3)]


def test_the_form_of_a_line_is_frozen(path: Path) -> None:
    # The checksum is from `printf BODY | gzip -c | tail -c8 | od -An -tu4`, the base64 is of 01 00 ff ff.
    with Journal.open(path) as journal:
        journal.append("a", 0, [1, 65535])
    body = '"first": 0, "key": "a", "predictions": "AQD//w=="'
    assert path.read_text() == '{"schema": "qcaps.journal/1"}\n{"crc": 3555247995, ' + body + "}\n"


def test_a_thousand_predictions_take_below_three_bytes_each(path: Path) -> None:
    with Journal.open(path) as journal:
        before = path.stat().st_size
        journal.append(KEY, 0, [9] * 1000)
    assert path.stat().st_size - before < 3000


@BRIEFLY
@given(st.lists(st.lists(st.integers(0, 65535), min_size=1, max_size=9), min_size=1, max_size=4))
def test_any_predictions_come_back_exactly(tmp_path_factory: pytest.TempPathFactory, ranges: list[list[int]]) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    expected: list[int] = []
    with Journal.open(path) as journal:
        for predictions in ranges:
            journal.append(KEY, len(expected), predictions)
            expected += predictions
    assert contents(path) == (tuple(expected), None)


@pytest.mark.parametrize("first", [-1, 0, 2, 4])
def test_a_range_that_does_not_continue_the_known_one_is_refused(path: Path, first: int) -> None:
    with Journal.open(path) as journal:
        journal.append(KEY, 0, [1, 2, 3])
        with pytest.raises(ValueError, match="do not continue the 3 known"):
            journal.append(KEY, first, [1])


@pytest.mark.parametrize("predictions", [[], [-1], [65536], [0, 70000]])
def test_predictions_beyond_two_bytes_are_refused(path: Path, predictions: list[int]) -> None:
    with Journal.open(path) as journal, pytest.raises(ValueError, match="from 0 to 65535"):
        journal.append(KEY, 0, predictions)


@pytest.mark.parametrize("key", ["", 'a"b', "a\nb", "x" * 129])
def test_a_key_that_would_break_the_line_is_refused(path: Path, key: str) -> None:
    with Journal.open(path) as journal, pytest.raises(ValueError, match="not a content key"):
        journal.append(key, 0, [1])


def test_a_torn_last_line_is_dropped_wherever_it_was_cut(filled: Path) -> None:
    whole = filled.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last, len(whole)):
        filled.write_bytes(whole[:cut])
        assert contents(filled) == ((3, 1, 4), (9,))
        assert filled.read_bytes() == whole[:last]


def test_a_torn_line_is_gone_before_the_next_one_is_appended(filled: Path) -> None:
    whole = filled.read_bytes()
    filled.write_bytes(whole[:-9])
    with Journal.open(filled) as journal:
        journal.append(KEY, 3, [1, 5])
    assert filled.read_bytes() == whole


@pytest.mark.parametrize("cut", [0, 1, 15, 29])
def test_a_torn_first_line_starts_an_empty_journal(filled: Path, cut: int) -> None:
    first_line = filled.read_bytes().split(b"\n")[0] + b"\n"
    filled.write_bytes(first_line[:cut])
    assert contents(filled) == (None, None)
    assert filled.read_bytes() == first_line


def test_every_flipped_bit_in_a_finished_line_is_an_error_with_its_number(filled: Path) -> None:
    lines = filled.read_bytes().splitlines(keepends=True)
    for at in range(len(lines[1]) - 1):
        damaged = bytearray(lines[1])
        damaged[at] ^= 1 << at % 8
        filled.write_bytes(lines[0] + damaged + b"".join(lines[2:]))
        with pytest.raises(ArtifactError) as caught:
            contents(filled)
        assert caught.value.where == f"{filled}:2"


def test_a_missing_line_of_a_candidate_is_an_error(filled: Path) -> None:
    lines = filled.read_bytes().splitlines(keepends=True)
    filled.write_bytes(lines[0] + lines[2] + lines[3])
    with pytest.raises(ArtifactError, match="does not continue its candidate") as caught:
        contents(filled)
    assert caught.value.where == f"{filled}:3"


@pytest.mark.parametrize(
    "text", [b"notes of another tool", b"notes\n", b'{"schema": "qcaps.journal/2"}\n', b"\n", b"\x00\xff\n"]
)
def test_a_file_that_is_no_journal_is_refused_and_left_alone(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    with pytest.raises(ArtifactError) as caught:
        contents(path)
    assert caught.value.where == f"{path}:1"
    assert path.read_bytes() == text


@BRIEFLY
@given(st.binary(max_size=200))
def test_random_bytes_after_the_first_line_give_a_journal_or_an_artifact_error(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    path.write_bytes(b'{"schema": "qcaps.journal/1"}\n' + noise)
    if b"\n" in noise:
        with pytest.raises(ArtifactError):
            contents(path)
    else:
        assert contents(path) == (None, None)


def test_fresh_forgets_even_a_damaged_journal(path: Path) -> None:
    path.write_bytes(b"rubbish\n")
    with Journal.open(path, fresh=True) as journal:
        assert journal.get(KEY) is None
        journal.append(KEY, 0, [2])
    assert contents(path) == ((2,), None)


def test_a_second_run_is_kept_out_by_one_line_and_destroys_nothing(filled: Path) -> None:
    before = filled.read_bytes()
    with (
        Journal.open(filled),
        pytest.raises(UsageError, match="another run") as caught,
        Journal.open(filled, fresh=True),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert filled.read_bytes() == before


def test_another_process_is_kept_out(path: Path) -> None:
    attempt = f"import fcntl; fcntl.flock(open({str(path) + '.lock'!r}), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with Journal.open(path):
        held = subprocess.run([sys.executable, "-c", attempt], capture_output=True, check=False)
    released = subprocess.run([sys.executable, "-c", attempt], capture_output=True, check=False)
    assert b"BlockingIOError" in held.stderr
    assert released.returncode == 0


def test_the_lock_is_released_after_an_error_in_the_block(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Journal.open(path) as journal:
        journal.append(KEY, 0, [1 // 0])
    assert contents(path) == (None, None)


def test_a_full_disk_is_a_usage_error_and_leaves_no_half_line(filled: Path) -> None:
    before = filled.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal.open(filled) as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
        try:
            with pytest.raises(UsageError, match="cannot write"):
                journal.append(KEY, 5, [9])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert journal.get(KEY) == (3, 1, 4, 1, 5)
    assert filled.read_bytes() == before


def test_a_missing_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError), Journal.open(tmp_path / "missing" / "journal.jsonl"):
        pass


def test_a_pipe_in_place_of_the_journal_is_refused(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(ArtifactError, match="regular file"):
        contents(path)


def test_a_journal_above_the_size_limit_is_refused(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_FILE_BYTES", filled.stat().st_size - 1)
    with pytest.raises(ArtifactError, match="regular file below"):
        contents(filled)


def test_a_content_key_is_the_sha256_of_the_canonical_json() -> None:
    # printf '["a",{"b":1,"c":[2.5,null]}]' | sha256sum
    assert (
        content_key("a", {"c": [2.5, None], "b": 1})
        == "df93b7630f63c62e4534d0eef943bf2f67e4219441ae9ba17a82e1f00703b3f5"
    )


def test_content_keys_differ_when_any_part_does() -> None:
    keys = {content_key(*parts) for parts in [(), (1,), (1, 2), ([1, 2],), ("1",), (1.0,), (True,), ({},)]}
    assert len(keys) == 8


@pytest.mark.parametrize("part", [float("nan"), float("inf")])
def test_a_content_key_of_nan_is_refused(part: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_key(part)
