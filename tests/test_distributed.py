from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch.distributed as dist
from spread_search import search
from two_processes import in_two_processes

from qcaps.distributed import from_all, from_first, joined, process_count, process_index


def test_alone_there_is_nothing_to_join() -> None:
    with joined():
        assert not dist.is_initialized()
        assert (process_count(), process_index()) == (1, 0)


def test_alone_everything_is_one_s_own() -> None:
    value = [3, 4]
    assert from_first(value) is value
    assert from_all(value) == [[3, 4]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def written(folder: Path) -> list[dict]:
    """Search in two processes, once for all tests."""
    return in_two_processes("spread_search.py", folder)


def test_two_processes_meet_and_part(written: list[dict]) -> None:
    for process in written:
        assert process["met"] == {"count": 2, "first": "from 0", "all": ["from 0", "from 1"]}
        assert process["alone again"] == 1


def test_two_processes_find_what_one_finds(written: list[dict], tmp_path: Path) -> None:
    alone = json.loads(json.dumps(search(tmp_path)))
    assert written[0]["found"] == alone
    assert written[1]["found"] == alone
    assert set(alone["files"]) == {"satisfied.pt"}


def test_one_process_goes_on_where_two_stopped(written: list[dict], folder: Path) -> None:
    before = (folder / "journal.jsonl").read_bytes()
    assert json.loads(json.dumps(search(folder))) == written[0]["found"]
    assert (folder / "journal.jsonl").read_bytes() == before
