from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import pytest
import qcaps_cli.output
from qcaps_cli.output import Output, print_to_stderr

from qcaps.errors import ArtifactError, Problem, RecipeError
from qcaps.progress import Step
from qcaps.verbs.outcome import Outcome

OUTCOME = Outcome(1, (Path("a/b.pt"), Path("c.json")), {"z": 1, "a": float("nan")}, ("verdict", "  figure"))
ERROR = ArtifactError("file is damaged", where="a.pt", do="copy it again")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (Output(), "verdict\n  figure\nwrote a/b.pt\nwrote c.json\n"),
        (Output(quiet=True), "a/b.pt\nc.json\n"),
        (Output(json=True), '{\n  "a": null,\n  "z": 1\n}\n'),
        (Output(json=True, quiet=True), '{\n  "a": null,\n  "z": 1\n}\n'),
    ],
)
def test_a_result_goes_to_stdout_in_every_mode(capsys, output, expected):
    output.show(OUTCOME)
    assert tuple(capsys.readouterr()) == (expected, "")


def test_an_error_goes_to_stderr_in_one_line(capsys):
    Output().error(ERROR)
    assert tuple(capsys.readouterr()) == ("", "error: file is damaged (a.pt); copy it again\n")


def test_an_error_with_json_goes_to_both(capsys):
    Output(json=True).error(ERROR)
    out, err = capsys.readouterr()
    assert err == "error: file is damaged (a.pt); copy it again\n"
    assert json.loads(out) == {
        "schema": "qcaps.error/1",
        "what": "file is damaged",
        "where": "a.pt",
        "do": "copy it again",
        "exit_code": 3,
    }


def test_every_problem_of_a_recipe_has_a_line(capsys):
    error = RecipeError([Problem(9, "b", "is wrong\nreally"), Problem(3, "", "is odd")], source="r")
    Output(json=True).error(error)
    out, err = capsys.readouterr()
    assert err == "error: 2 problems in r:\n  line 3: is odd\n  line 9, b: is wrong really\n"
    assert json.loads(out)["problems"] == [
        {"line": 3, "path": "", "message": "is odd", "source": ""},
        {"line": 9, "path": "b", "message": "is wrong\nreally", "source": ""},
    ]


def ascii_stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)


def test_what_a_stream_cannot_show_falls_back():
    with contextlib.redirect_stdout(ascii_stream()) as out, contextlib.redirect_stderr(ascii_stream()) as err:
        Output().show(Outcome(0, (), {}, ("über … \udcff",)))
        print_to_stderr("Maß")
    assert (out.buffer.getvalue(), err.buffer.getvalue()) == (b"?ber ? ?\n", b"Ma?\n")


def test_json_that_a_stream_cannot_show_is_escaped_and_still_json():
    document = {"name": 'über "…" \U0001f600 \udcff'}
    with contextlib.redirect_stdout(ascii_stream()) as out:
        Output(json=True).show(Outcome(0, (), document, ()))
    assert json.loads(out.buffer.getvalue()) == document


def test_json_is_readable_where_the_stream_can_show_it(capsys):
    Output(json=True).show(Outcome(0, (), {"name": "über"}, ()))
    assert capsys.readouterr().out == '{\n  "name": "über"\n}\n'


@pytest.fixture
def clock(monkeypatch):
    """Give a clock that stands still until it is set."""
    now = [0.0]
    monkeypatch.setattr(qcaps_cli.output.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_every_phase_ends_with_a_plain_line(capsys, clock):
    with Output().progress() as told:
        for done in range(1, 4):
            told(Step("train", done, 3, f"loss 0.{done}"))
        told(Step("check", 5, 5))
    assert tuple(capsys.readouterr()) == ("", "train: 3/3  loss 0.3\ncheck: 5/5\n")


def test_without_a_terminal_a_long_phase_gives_a_sign_of_life_every_30_seconds(capsys, clock):
    with Output().progress() as told:
        for done in range(1, 100):
            clock[0] = 10.0 * done
            told(Step("train", done, 1000))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"train: {done}/1000" for done in range(3, 100, 3)]


def test_quiet_progress_says_nothing(capsys):
    with Output(quiet=True).progress() as told:
        told(Step("train", 3, 3))
    assert tuple(capsys.readouterr()) == ("", "")


@pytest.mark.parametrize(
    ("variables", "terminal", "bars"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "xterm", "CI": "true"}, True, False),
        ({"TERM": "xterm", "CI": ""}, True, True),
    ],
)
def test_bars_are_drawn_on_a_capable_terminal_only(monkeypatch, variables, terminal, bars):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    bar_listener, line_listener = object(), object()
    monkeypatch.setattr(qcaps_cli.output, "_bars", lambda: contextlib.nullcontext(bar_listener))
    monkeypatch.setattr(qcaps_cli.output, "_lines", lambda: line_listener)
    with Output().progress() as told:
        assert told is (bar_listener if bars else line_listener)


def test_bars_show_every_phase_on_stderr(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Output().progress() as told:
        told(Step("train", 1, 2, "loss 0.5"))
        told(Step("train", 2, 2, "loss 0.4"))
        told(Step("check", 7, 7))
    out, err = capsys.readouterr()
    assert out == ""
    assert all(part in err for part in ("train", "2/2", "loss 0.4", "check", "7/7"))
