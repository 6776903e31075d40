from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import warnings
import zipfile
from pathlib import Path

import pytest
from shell import COMMAND, call, spawn

import qcaps
from qcaps.errors import QcapsWarning, StoppedError
from qcaps.verbs.outcome import Outcome


@pytest.fixture
def given(monkeypatch):
    """Replace training and quantization by something that only notes what it was given."""
    noted = []

    def verb(*files, on_progress, **options):
        noted.append((files, options))
        return Outcome(0, (), {"schema": "qcaps.test/1"}, ("done",))

    monkeypatch.setattr("qcaps.verbs.train.train", verb)
    monkeypatch.setattr("qcaps.verbs.quantize.quantize", verb)
    return noted


@pytest.fixture
def failing(monkeypatch):
    """Give a way to let `qcaps train` raise an error."""

    def install(error: BaseException) -> None:
        def verb(**_):
            raise error

        monkeypatch.setattr("qcaps.verbs.train.train", verb)

    return install


def test_the_version_is_printed(capsys):
    answer = call(capsys, "--version")
    assert (answer.code, answer.out, answer.err) == (0, f"qcaps {qcaps.__version__}\n", "")


def test_nothing_typed_is_answered_with_the_help(capsys):
    answer = call(capsys)
    assert answer.code == 2
    assert "Usage: qcaps" in answer.out
    assert answer.err == ""


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["train", "--epohcs", "3"], "--epohcs"),
        (["train", "stray"], "stray"),
        (["train", "--epochs"], "--epochs"),
        (["trian"], "trian"),
        (["run"], "recipe"),
        (["list"], "kind"),
        (["verify"], "files"),
        (["verify", "nowhere.pt"], "nowhere.pt"),
        (["import", "a.pt"], "--from"),
        (["import", "a.pt", "--from", "q-capsnet"], "'q-capsnet' (--from); did you mean 'q-capsnets'"),
        (["import", "nowhere.pt", "--from", "q-capsnets"], "nowhere.pt"),
        (["inspect", "deepcap"], "did you mean 'deepcaps'"),
        (["inspect", "deepcaps", "--input", "28x28"], "--input"),
        (["inspect", "deepcaps", "--model-arg", "classes"], "--model-arg"),
        (["train", "--epochs", "many"], "--epochs"),
        (["quantize", "--rounding", "truncate"], "'truncate' (--rounding); did you mean 'truncation'?"),
        (["eval", "nowhere.pt"], "nowhere.pt"),
        (["eval", "no\x1b[2J\nwhere.pt"], "no [2J where.pt"),
        (["run", "nowhere"], "nowhere"),
        (["list", "modles"], "did you mean 'models'"),
    ],
)
def test_a_usage_error_is_one_line_on_stderr_and_exit_code_2(capsys, words, part):
    answer = call(capsys, *words)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert part in answer.err
    assert answer.err.endswith("\n")
    assert answer.err.count("\n") == 1
    assert "\x1b" not in answer.err


def in_order(pairs):
    keys = [key for key, _ in pairs]
    assert keys == sorted(keys)
    return dict(pairs)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["train", "--epohcs", "3"], 2),
        (["trian"], 2),
        (["eval", "nowhere.pt"], 2),
        (["eval", "b\udcffd.pt"], 2),
        (["list", "a" * 200], 2),
        (["quantize", "--memory-budget", "0.001"], 4),
        (["train", "--visible-gpus", "0"], 2),
    ],
)
def test_a_failure_with_json_is_exactly_one_document(capsys, words, code):
    answer = call(capsys, *words, "--json")
    document = json.loads(answer.out, object_pairs_hook=in_order)
    assert answer.code == code
    assert document.keys() == {"schema", "what", "where", "do", "exit_code"}
    assert (document["schema"], document["exit_code"]) == ("qcaps.error/1", code)
    assert answer.err.startswith("error: ")


def test_an_infeasible_budget_is_exit_code_4_and_leaves_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = call(capsys, "quantize", "--memory-budget", "0.001")
    assert (answer.code, answer.out) == (4, "")
    assert answer.err.startswith("error: memory budget 1.000 kB is below the minimum of ")
    assert os.listdir(tmp_path) == []


def test_a_promise_that_is_not_kept_is_exit_code_1(capsys, tiny_checkpoint, tmp_path):
    words = ("quantize", tiny_checkpoint, "--accuracy-tolerance", 0, "--memory-budget", "11kB", "--out", tmp_path)
    answer = call(capsys, *words)
    assert answer.code == 1
    assert answer.out.splitlines()[0].startswith("not satisfied: memory.pt (")
    assert call(capsys, *words, "--exit-zero").code == 0


def deflated(path: Path, data: Path) -> None:
    with zipfile.ZipFile(data) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))


def flipped(path: Path, data: Path) -> None:
    with zipfile.ZipFile(data) as source:
        largest = source.read(max(source.infolist(), key=lambda entry: entry.file_size))  # the weights of one layer
    content = bytearray(data.read_bytes())
    content[content.index(largest) + len(largest) // 2] ^= 1
    path.write_bytes(content)


def run_code(path: Path, _: Path) -> None:
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(path) + ".executed",)

    path.write_bytes(pickle.dumps(Evil()))


HOSTILE = {
    "empty": lambda path, _: path.write_bytes(b""),
    "text": lambda path, _: path.write_text("not a network\n" * 100),
    "truncated": lambda path, data: path.write_bytes(data.read_bytes()[:-100]),
    "beginning": lambda path, data: path.write_bytes(data.read_bytes()[:1000]),
    "folder": lambda path, _: path.mkdir(),
    "deflated": deflated,
    "one bit flipped": flipped,
    "pickle that runs code": run_code,
}


@pytest.mark.parametrize("verb", ["eval", "quantize", "verify"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_with_exit_code_3_and_one_line(capsys, tiny_checkpoint, tmp_path, verb, kind):
    file, out = tmp_path / "bad.pt", tmp_path / "out"
    HOSTILE[kind](file, tiny_checkpoint)
    words = (verb, file, *(("--out", out) if verb == "quantize" else ()))
    answer = call(capsys, *words)
    assert (answer.code, answer.out) == (3, "")
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    assert str(file) in answer.err
    document = json.loads(call(capsys, *words, "--json").out)
    assert (document["schema"], document["exit_code"], document["where"]) == ("qcaps.error/1", 3, str(file))
    assert {path.name for path in tmp_path.iterdir()} == {"bad.pt"}


def test_the_real_command_refuses_a_hostile_file(tiny_checkpoint, tmp_path):
    flipped(tmp_path / "bad.pt", tiny_checkpoint)
    answer = spawn("eval", "bad.pt", "--json", cwd=tmp_path)
    assert answer.code == 3
    assert json.loads(answer.out)["exit_code"] == 3
    assert answer.err.count("\n") == 1


def test_an_unexpected_exception_is_a_bug_and_never_a_broken_promise(capsys, failing):
    failing(RuntimeError("boom\n\x1b[2J"))
    answer = call(capsys, "train")
    assert (answer.code, answer.out) == (70, "")
    assert answer.err == "error: unexpected RuntimeError: boom  [2J; this is a bug; --debug shows the traceback\n"


def test_an_unexpected_exception_is_told_in_json_as_well(capsys, failing):
    failing(ZeroDivisionError("x" * 500))
    document = json.loads(call(capsys, "train", "--json").out)
    assert document["exit_code"] == 70
    assert len(document["what"]) < 130


@pytest.mark.parametrize("by", ["option", "variable"])
@pytest.mark.parametrize(("error", "code"), [(RuntimeError("boom"), 70), (StoppedError("boom"), 130)])
def test_debugging_shows_the_traceback(capsys, failing, monkeypatch, by, error, code):
    failing(error)
    if by == "variable":
        monkeypatch.setenv("QCAPS_DEBUG", "1")
    answer = call(capsys, "train", *(["--debug"] if by == "option" else []))
    assert answer.code == code
    assert answer.err.startswith("Traceback (most recent call last):")
    assert "verb\n    raise error" in answer.err
    assert answer.err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("variable", ["0", ""])
def test_without_debugging_there_is_no_traceback(capsys, failing, monkeypatch, variable):
    failing(RuntimeError("boom"))
    monkeypatch.setenv("QCAPS_DEBUG", variable)
    assert call(capsys, "train").err.count("\n") == 1


def test_a_second_ctrl_c_is_exit_code_130_without_a_traceback(capsys, failing):
    failing(KeyboardInterrupt())
    answer = call(capsys, "train", "--json")
    assert answer.code == 130
    assert json.loads(answer.out)["exit_code"] == 130
    assert answer.err == "error: interrupted\n"


def into_closed_pipe(*words: str, stderr: bool = False) -> subprocess.CompletedProcess[bytes]:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [*COMMAND, *words], stdout=writer, stderr=writer if stderr else subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize("words", [["list", "models"], ["list", "models", "--json"], ["--help"], ["train", "--help"]])
def test_a_closed_pipe_is_exit_code_141_without_a_traceback(words):
    done = into_closed_pipe(*words)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_error_that_nobody_can_read_is_exit_code_141_as_well():
    assert into_closed_pipe("list", "modles", stderr=True).returncode == 141


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--quantization_method", "nearest"], {"rounding": "round_to_nearest"}),
        (["--quantization_method=stochastic"], {"rounding": "stochastic_rounding"}),
        (["--quantization-method", "truncation"], {"rounding": "truncation"}),
        (["--rounding", "nearest"], {"rounding": "round_to_nearest"}),
        (["--rounding=stochastic"], {"rounding": "stochastic_rounding"}),
        (["--memory_budget", "1", "--accuracy_tolerance=2"], {"memory_budget": "1", "accuracy_tolerance": "2"}),
        (["--test_batch_size", "7"], {"test_batch_size": "7"}),
        (["--out", "nearest"], {"out": "nearest"}),
        (["--out=a_b=c_d"], {"out": "a_b=c_d"}),
    ],
)
def test_old_names_and_values_are_understood(capsys, given, words, options):
    answer = call(capsys, "quantize", *words)
    assert (answer.code, answer.out) == (0, "done\n")
    assert given == [((None,), options)]


def test_a_value_keeps_its_underscores(capsys, given):
    call(capsys, "train", "--batch_size", "64", "--model-arg=conv_channels=[8]", "--model-arg", "norm_eps=1")
    assert given == [((), {"batch_size": "64", "model_arg": ["conv_channels=[8]", "norm_eps=1"]})]


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("--no-training", "give the checkpoint as an argument"),
        ("--no_training", "give the checkpoint as an argument"),
        ("--trained-weights-path=a.pt", "give the checkpoint as an argument"),
        ("--visible_gpus", "use --device"),
    ],
)
def test_a_retired_option_says_what_replaces_it(capsys, given, word, instead):
    answer = call(capsys, "quantize", word, "1")
    assert answer.code == 2
    assert answer.err == f"error: {word.split('=')[0].replace('_', '-')} is retired; {instead}\n"
    assert given == []


def test_our_own_warnings_are_one_line_and_those_of_libraries_are_not_shown(capsys, monkeypatch):
    def verb(**_):
        warnings.warn(QcapsWarning("fewer bits\nthan asked"), stacklevel=1)
        warnings.warn(UserWarning("a library speaks"), stacklevel=1)
        return Outcome(0, (), {}, ())

    monkeypatch.setattr("qcaps.verbs.train.train", verb)
    assert call(capsys, "train").err == "warning: fewer bits than asked\n"


def test_an_output_folder_that_cannot_be_made_is_exit_code_2(capsys, tiny_checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    answer = call(capsys, "quantize", tiny_checkpoint, "--out", tmp_path / "file")
    assert answer.code == 2
    assert str(tmp_path / "file") in answer.err


def test_another_file_under_the_name_of_the_resume_file_is_exit_code_3(capsys, tmp_path, tiny_checkpoint):
    shutil.copy(tiny_checkpoint, tmp_path / "resume.pt")
    answer = call(capsys, "train", "--dataset", "digits", "--out", tmp_path)
    assert answer.code == 3
    assert "resume.pt" in answer.err
