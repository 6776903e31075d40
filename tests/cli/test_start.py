from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

import pytest
from shell import COMMAND

HEAVY = {"torch", "torchvision", "torch_pruning", "accelerate", "sklearn", "matplotlib", "pydantic", "numpy", "jinja2"}
VERBS = ("train", "quantize", "eval", "run", "inspect", "compare", "verify", "import", "list", "env")
LISTS = [["list", "decoders"], ["list", "models", "--quiet"], ["list", "importers", "--json"], ["list", "recipes"]]
ANSWERS = [["--version"], *LISTS, ["trian"], ["train", "--epohcs", "3"]]


def heavy_after(program: str) -> set[str]:
    """Run a program in a new process, and give the heavy modules that it imported."""
    program += "\nimport sys; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return HEAVY & set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_the_first_answers_import_nothing_heavy(words):
    assert heavy_after(f"from qcaps_cli.main import main\nmain({words})") == set()


def test_helping_with_a_verb_and_listing_import_nothing_heavy():
    answers = [*([verb, "--help"] for verb in VERBS), *ANSWERS]
    # Typer itself imports pydantic to check what was typed.
    assert heavy_after(f"from qcaps_cli.main import main\nfor words in {answers}: main(words)") <= {"pydantic"}


@pytest.mark.parametrize("module", ["qcaps", "qcaps.errors", "qcaps.config", "qcaps.registry", "qcaps_cli.main"])
def test_light_modules_import_nothing_heavy(module):
    assert heavy_after(f"import {module}") == set()


def test_the_heavy_modules_are_found_where_they_are_imported():
    assert "torch" in heavy_after("import qcaps; qcaps.train")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in VERBS), *LISTS])
def test_an_answer_without_computing_takes_less_than_0_3_seconds(words):
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([*COMMAND, *words], capture_output=True, check=True, env=os.environ)
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 0.3
