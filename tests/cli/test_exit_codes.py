"""Every exit code of the contract, through the real command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from shell import COMMAND, spawn


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, ("compare", "{file}", "{file}", "--max-growth", "0")),
        (1, ("compare", "{file}", "{file}", "--max-growth", "-50")),
        (2, ("compare", "{file}", "nowhere.pt")),
        (3, ("verify", "{broken}")),
        (4, ("quantize", "{file}", "--memory-budget", "1kB")),
    ],
)
def test_the_real_command_ends_with_the_code_of_the_contract(tiny_checkpoint, tmp_path, code, words):
    broken = tmp_path / "broken.pt"
    broken.write_bytes(tiny_checkpoint.read_bytes()[:-100])
    answer = spawn(*(word.format(file=tiny_checkpoint, broken=broken) for word in words), "--json", cwd=tmp_path)
    document = json.loads(answer.out)
    assert answer.code == code
    assert document.get("exit_code", code) == code
    assert "Traceback" not in answer.err


def test_a_bug_is_70(tmp_path):
    program = (
        "import sys, qcaps.verbs.environment as e, qcaps_cli.main as m\n"
        "e.environment = lambda: [][1]\nsys.exit(m.main(['env', '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["exit_code"]) == (70, 70)
    assert done.stderr.startswith("error: unexpected IndexError: ")


def test_an_interrupt_is_130_and_the_same_command_continues(tmp_path):
    words = ("train", "--dataset", "digits", "--epochs", "50", "--decoder", "none", "--out", str(tmp_path), "-vv")
    with subprocess.Popen([*COMMAND, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ) as run:
        assert "epoch" in run.stderr.readline()
        run.send_signal(signal.SIGINT)
        rest = run.stderr.read()
    assert run.returncode == 130
    assert rest.splitlines()[-1].startswith("error: ")
    assert "the same command continues" in rest
