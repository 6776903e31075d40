from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy_pruning
from toy_pruning import plain, searched

SCRIPT = Path(toy_pruning.__file__).with_name("spread_pruning.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Search in two processes, once for all tests."""
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
