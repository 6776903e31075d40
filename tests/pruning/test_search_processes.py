from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_pruning import plain, searched
from two_processes import in_two_processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def written(folder: Path) -> list[dict]:
    """Search in two processes, once for all tests."""
    return in_two_processes("spread_pruning.py", folder)


def test_two_processes_find_what_one_finds(written: list[dict]) -> None:
    alone = json.loads(json.dumps(plain(searched(candidates=5))))
    assert written == [alone, alone]
    assert len(alone["candidates"]) == 15


def test_one_process_goes_on_where_two_stopped(written: list[dict], folder: Path) -> None:
    before = (folder / "journal.jsonl").read_bytes()
    found = searched(folder=folder, candidates=5)
    assert found.scored_now == 0
    assert json.loads(json.dumps(plain(found))) == written[0]
    assert (folder / "journal.jsonl").read_bytes() == before
