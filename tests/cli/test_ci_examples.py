"""The examples for CI systems: they are what their systems read, and their commands work as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "docs" / "ci"
RECIPE = """\
schema: qcaps.recipe/1
model: {checkpoint: start.pt}
steps: [{step: quantize, search: common-width, prepare: false, calibration-images: 20}]
promises: {accuracy-tolerance: 100}
"""


def github_commands() -> list[str]:
    (job,) = yaml.safe_load((FOLDER / "github-workflow.yml").read_text())["jobs"].values()
    return [step["run"] for step in job["steps"] if "run" in step]


def gitlab_commands() -> list[str]:
    return yaml.safe_load((FOLDER / "gitlab-ci.yml").read_text())["compress"]["script"]


def jenkins_commands() -> list[str]:
    text = (FOLDER / "Jenkinsfile").read_text()
    assert text.count("{") == text.count("}")
    return re.findall(r"\bsh '([^']+)'", text)


EXAMPLES = {"github-workflow.yml": github_commands, "gitlab-ci.yml": gitlab_commands, "Jenkinsfile": jenkins_commands}


def test_every_example_is_tested_and_named_in_the_readme():
    readme = (FOLDER.parents[1] / "README.md").read_text()
    assert {path.name for path in FOLDER.iterdir()} == set(EXAMPLES)
    assert all(f"docs/ci/{name}" in readme for name in EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_installs_and_runs_a_recipe(name):
    commands = EXAMPLES[name]()
    assert commands[0] == "pip install ."
    assert 'qcaps run "$RECIPE" --out runs/ci --reproducible' in commands


def test_the_github_job_has_a_cache_by_the_key_of_the_recipe():
    text = (FOLDER / "github-workflow.yml").read_text()
    (job,) = yaml.safe_load(text)["jobs"].values()
    (cache,) = (step for step in job["steps"] if "cache" in step.get("uses", ""))
    assert cache["with"]["key"] == "qcaps-${{ steps.key.outputs.key }}"
    assert any(step.get("id") == "key" for step in job["steps"])


@pytest.fixture
def shell(tiny_checkpoint, tmp_path):
    """Run commands as a runner of GitHub does, in a folder that holds a small recipe."""
    shutil.copy(tiny_checkpoint, tmp_path / "start.pt")
    (tmp_path / "r.yaml").write_text(RECIPE)
    command = tmp_path / "bin" / "qcaps"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m qcaps_cli.main "$@"\n')
    command.chmod(0o755)
    files = {name: str(tmp_path / name.lower()) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"

    def run(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | files | {"PATH": path, "RECIPE": "r.yaml", "GITHUB_ACTIONS": "true"} | variables
        words = ["bash", "-e", "-o", "pipefail", "-c", script]
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_the_commands_of_the_github_job_work_as_they_stand_there(shell, tmp_path):
    commands = [command for command in github_commands() if command.startswith(("echo", "qcaps run"))]
    done = shell("\n".join(commands))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    values = dict(line.split("=", 1) for line in (tmp_path / "github_output").read_text().splitlines())
    assert values.keys() == {"key", "verdict", "accuracy", "bytes", "ratio", "artifact"}
    assert (tmp_path / values["artifact"]).is_file()
    assert (tmp_path / "github_step_summary").read_text().count("# Satisfied") == 1
    assert (tmp_path / "runs" / "ci" / "junit.xml").is_file()
