from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from spread_search import search

from qcaps.distributed import from_all, from_first, joined, process_count, process_index

SCRIPT = Path(__file__).with_name("spread_search.py")


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
    """Run a search in two processes, once for all tests."""
    place = tmp_path_factory.mktemp("two")
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", SCRIPT, place],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(SCRIPT.parent), os.environ.get("PYTHONPATH", "")))},
        check=True,
        timeout=300,
        capture_output=True,
    )
    return place


@pytest.fixture(scope="module")
def written(folder: Path) -> list[dict]:
    return [json.loads((folder / f"{place}.json").read_text()) for place in (0, 1)]


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
