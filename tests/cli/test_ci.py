from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from shell import call, spawn

import qcaps.data.idx
from qcaps.errors import InfeasibleError
from qcaps.verbs.outcome import Outcome

BROKEN = {
    "schema": "qcaps.report/1",
    "verdict": "not satisfied",
    "warnings": ["50% of, all:\nlost"],
    "promises": [
        {"name": "a,b: 100%", "limit": 9, "found": 12, "unit": "images lost", "kept": False},
        {"name": "memory budget (file)", "limit": 1000, "found": 900, "unit": "bytes", "kept": True},
    ],
    "result": [
        {"file": "memory.pt", "file_bytes": 900, "weight_ratio": 7.5, "report": {"score": {"accuracy": 0.912345678}}}
    ],
}


@pytest.fixture
def verb(monkeypatch, tmp_path):
    """Replace quantization by an outcome of one's choice."""

    def install(code: int = 1, document=BROKEN, report: str = "# Report\n"):
        (tmp_path / "report.md").write_text(report)
        files = (tmp_path / "memory.pt", tmp_path / "accuracy.pt", tmp_path / "report.md")
        outcome = Outcome(code, files, document, ("not satisfied: too much",))
        monkeypatch.setattr("qcaps.verbs.quantize.quantize", lambda *_, **__: outcome)

    return install


def test_a_report_is_appended_to_the_summary_of_the_job(capsys, verb, tmp_path, monkeypatch):
    verb()
    (tmp_path / "summary").write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    call(capsys, "quantize")
    assert (tmp_path / "summary").read_text() == "before\n# Report\n\n"
    call(capsys, "quantize", "--summary", tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "# Report\n\n"


def test_a_verb_without_a_report_tells_what_it_printed(capsys, tmp_path, tiny_checkpoint):
    words = ("compare", tiny_checkpoint, tiny_checkpoint, "--max-growth", 5, "--summary", tmp_path / "s.md")
    assert call(capsys, *words).code == 0
    text = (tmp_path / "s.md").read_text()
    assert text.startswith("# compare: done\n\n| promise | limit | found | kept |\n")
    assert "| growth of checkpoint.pt | 5 % | 0 % | yes |" in text


def test_a_report_that_is_too_long_for_a_summary_is_left_out_as_a_whole(capsys, verb, tmp_path):
    verb(report="x" * 1_000_001)
    call(capsys, "quantize", "--summary", tmp_path / "s.md")
    assert (tmp_path / "s.md").read_text() == ""


def test_later_steps_of_a_job_get_five_values(capsys, verb, tmp_path, monkeypatch):
    verb()
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "values"))
    call(capsys, "quantize")
    assert (tmp_path / "values").read_text().splitlines() == [
        "verdict=not satisfied",
        "accuracy=0.912346",
        "bytes=900",
        "ratio=7.5",
        f"artifact={tmp_path / 'memory.pt'}",
    ]


def test_annotations_stand_on_stderr_one_per_broken_promise_and_cannot_be_broken_out_of(capsys, verb, monkeypatch):
    verb()
    assert "::" not in call(capsys, "quantize").err
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert call(capsys, "quantize").err.splitlines() == [
        "::error title=a%2Cb%3A 100%25::limit 9 images lost, found 12 images lost",
        "::warning title=qcaps::50%25 of, all:%0Alost",
    ]


def test_an_error_is_an_annotation_as_well(capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    answer = call(capsys, "eval", "no%0Awhere\n::error::x")
    assert answer.code == 2
    line, note = answer.err.splitlines()
    assert line.startswith("error: there is no such file")
    assert note.startswith("::error title=qcaps::there is no such file (no%250Awhere ::error::x)")


def test_a_summary_that_cannot_be_written_is_a_usage_error(capsys, verb, tmp_path):
    verb()
    assert call(capsys, "quantize", "--summary", tmp_path / "no" / "folder").code == 2


def test_junit_has_a_case_for_every_promise(capsys, tiny_checkpoint, tmp_path):
    words = ("quantize", tiny_checkpoint, "--accuracy-tolerance", 0, "--memory-budget", "11kB", "--out", tmp_path)
    answer = call(capsys, *words, "--json")
    promises = json.loads(answer.out)["promises"]
    suite = ET.parse(tmp_path / "junit.xml").getroot()
    assert [case.get("name") for case in suite] == [promise["name"] for promise in promises]
    assert [case.find("failure") is None for case in suite] == [promise["kept"] for promise in promises]
    assert suite.get("tests") == str(len(promises))
    assert int(suite.get("failures")) == sum(not promise["kept"] for promise in promises) > 0


def test_an_infeasible_budget_is_an_error_in_the_folder_that_was_named(capsys, tiny_checkpoint, tmp_path):
    answer = call(capsys, "quantize", tiny_checkpoint, "--memory-budget", "1kB", "--out", tmp_path / "out")
    assert answer.code == InfeasibleError.exit_code
    (case,) = ET.parse(tmp_path / "out" / "junit.xml").getroot()
    assert case.find("error").get("message") in answer.err
    assert os.listdir(tmp_path / "out") == ["junit.xml"]


@pytest.mark.parametrize(("code", "turned"), [(0, 0), (1, 0), (3, 3)])
def test_exit_zero_turns_a_broken_promise_and_nothing_else(capsys, verb, code, turned):
    verb(code)
    assert (call(capsys, "quantize").code, call(capsys, "quantize", "--exit-zero").code) == (code, turned)


def test_offline_downloads_nothing(capsys, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(qcaps.data.idx, "_download", lambda *_: asked.append(1) or "")
    words = ("eval", "efficient_capsnet_mnist.pt", "--data-dir", tmp_path, "--no-latency")
    assert call(capsys, *words).code == 2
    assert asked == [1]
    assert call(capsys, *words, "--offline").code == 2
    assert asked == [1]
    monkeypatch.delenv("QCAPS_OFFLINE")


def test_times_are_told_on_request_and_every_step_on_a_second_one(capsys, tiny_checkpoint):
    words = ("eval", tiny_checkpoint, "--no-latency", "--test-batch-size", 120)
    (line,) = call(capsys, *words, "-v").err.splitlines()
    assert line.split()[1:] == ["s", "evaluate", "checkpoint.pt:", "360/360"]
    assert [line.split()[-1] for line in call(capsys, *words, "-vv").err.splitlines()] == [
        "120/360",
        "240/360",
        "360/360",
    ]


def test_the_environment_names_versions_and_folders_and_no_machine(capsys, monkeypatch, tmp_path):
    (tmp_path / "MNIST").mkdir()
    monkeypatch.setenv("QCAPS_DATA", str(tmp_path))
    document = json.loads(call(capsys, "env", "--json").out)
    assert document["schema"] == "qcaps.env/1"
    assert document["qcaps"] == qcaps.__version__
    assert document["packages"]["torch"]
    assert (document["data_dir"], document["data_sets"]) == (str(tmp_path), ["MNIST"])
    assert document["devices"][0]["name"] == "cpu"
    page = call(capsys, "env").out
    assert f"qcaps          {qcaps.__version__}" in page
    assert os.uname().nodename not in page


def completions(*words: str, cwd: Path) -> list[str]:
    """Ask what a shell asks when Tab is pressed behind some words."""
    answer = spawn(cwd=cwd, _QCAPS_COMPLETE="complete_bash", COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1))
    return answer.out.split()


def test_names_are_completed(tmp_path):
    assert completions("qcaps", "qu", cwd=tmp_path) == ["quantize"]
    assert completions("qcaps", "quantize", "--rounding", "tr", cwd=tmp_path) == ["truncation"]
    assert completions("qcaps", "train", "--schedule", "cos", cwd=tmp_path) == ["cosine"]
    assert "efficient_capsnet_digits" in completions("qcaps", "run", "eff", cwd=tmp_path)
    assert completions("qcaps", "list", "mod", cwd=tmp_path) == ["models"]


def test_the_script_of_the_completion_is_shown(tmp_path):
    answer = spawn("--show-completion", "bash", cwd=tmp_path)
    assert (answer.code, answer.err) == (0, "")
    assert "_QCAPS_COMPLETE" in answer.out


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1", "GITHUB_ACTIONS": "true"}, {"GITHUB_ACTIONS": "true"}, {}])
def test_without_a_terminal_no_escape_code_is_written(tmp_path, variables):
    for words in (["--help"], ["quantize", "--help"], ["eval", "nowhere"]):
        answer = spawn(*words, cwd=tmp_path, **variables)
        assert "\x1b" not in answer.out + answer.err


def test_colour_is_on_where_it_is_forced_and_off_where_it_is_refused(tmp_path):
    assert "\x1b" in spawn("--help", cwd=tmp_path, FORCE_COLOR="1").out
    assert "\x1b" not in spawn("--help", cwd=tmp_path, FORCE_COLOR="1", NO_COLOR="1").out


def test_help_is_as_wide_on_every_machine(tmp_path):
    pages = {spawn("eval", "--help", cwd=tmp_path, TERM=term).out for term in ("dumb", "xterm")}
    assert len(pages) == 1
    assert max(map(len, pages.pop().splitlines())) == 100
