from __future__ import annotations

import csv
import dataclasses
import hashlib
import os
import signal
import subprocess
import time

import pytest
import torch
from shell import COMMAND, after, call

import qcaps
import qcaps.data.digits
from qcaps.artifacts.checkpoint import read_checkpoint
from qcaps.data.digits import DIGITS
from qcaps.errors import ArtifactError, StoppedError, UsageError
from qcaps.models.spec import initialised

# 1,137 training images in batches of 100: 12 steps an epoch, some hundredths of a second each.
TINY = {
    "dataset": "digits",
    "epochs": 2,
    "lr": 0.005,
    "batch_size": 100,
    "decoder": "none",
    "model_arg": ["conv_channels=[4, 4, 4, 16]", "norm_momentum=0.1", "squash_eps=1e-12"],
    "device": "cpu",
    "reproducible": True,
}
WORDS = (
    *("train", "--dataset", "digits", "--lr", "0.005", "--batch-size", "100", "--decoder", "none", "--device", "cpu"),
    *("--model-arg", "conv_channels=[4, 4, 4, 16]", "--model-arg", "norm_momentum=0.1"),
    *("--model-arg", "squash_eps=1e-12"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train without interruption, once for all tests that only look."""
    return qcaps.train(**TINY, out=tmp_path_factory.mktemp("trained"))


@pytest.fixture
def interrupt():
    """Give a listener that sends this process a SIGTERM after some steps."""
    return lambda steps: after(steps, lambda: signal.raise_signal(signal.SIGTERM), phase="epoch")


def test_training_writes_a_checkpoint_and_its_history_and_nothing_else(trained):
    names = [file.name for file in trained.files]
    assert trained.exit_code == 0
    assert names == ["checkpoint.pt", "history.csv", "history.json", "report.html"]
    assert sorted(os.listdir(trained.files[0].parent)) == names


def test_the_document_identifies_the_checkpoint(trained):
    file = trained.files[0]
    assert trained.document["checkpoint"] == str(file)
    assert trained.document["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_numbers_of_the_network_are_read_as_typed(trained):
    model = read_checkpoint(trained.files[0])[0].model
    assert (model.conv_channels, model.norm_momentum, model.squash_eps) == ((4, 4, 4, 16), 0.1, 1e-12)


def test_the_parameters_are_counted(trained):
    tensors = read_checkpoint(trained.files[0])[0].tensors
    learned = [t for name, t in tensors.items() if "running" not in name]
    assert trained.document["parameters"] == sum(t.numel() for t in learned)


def test_the_history_table_tells_what_the_record_tells(trained):
    record = read_checkpoint(trained.files[0])[0].record
    with trained.files[1].open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert rows == [{key: str(value) for key, value in epoch.items()} for epoch in record["history"]]


def test_the_best_validation_score_is_what_an_evaluation_finds(trained):
    found = qcaps.evaluate(trained.files[0], split="validation", latency=False).document["files"][0]
    validation = trained.document["validation"]
    assert (validation["correct"], validation["images"]) == (found["correct"], found["images"])
    assert f"({found['correct']} of 300)" in trained.lines[0]


def test_the_record_names_the_best_epoch(trained):
    record = read_checkpoint(trained.files[0])[0].record
    scores = [epoch["validation_correct"] for epoch in record["history"]]
    assert record["best_epoch"] == trained.document["best_epoch"] == 1 + scores.index(max(scores))


def test_the_test_images_are_never_read(tmp_path, monkeypatch):
    parts = []

    def read(part, *where):
        parts.append(part)
        return DIGITS.read(part, *where)

    monkeypatch.setattr(qcaps.data.digits, "DIGITS", dataclasses.replace(DIGITS, read=read))
    qcaps.train(**TINY | {"epochs": 1}, out=tmp_path)
    assert set(parts) == {"train"}


def test_the_same_call_in_another_folder_gives_the_same_bytes(tmp_path, trained):
    again = qcaps.train(**TINY, out=tmp_path)
    assert [file.read_bytes() for file in again.files] == [file.read_bytes() for file in trained.files]


@pytest.mark.parametrize("steps", [1, 12, 17, 24])
def test_an_interrupted_training_continues_to_the_same_bytes(tmp_path, trained, interrupt, steps):
    with pytest.raises(StoppedError) as raised:
        qcaps.train(**TINY, out=tmp_path, on_progress=interrupt(steps))
    assert raised.value.where == str(tmp_path)
    assert os.listdir(tmp_path) == ["resume.pt"]
    continued = qcaps.train(**TINY, out=tmp_path)
    assert [file.read_bytes() for file in continued.files] == [file.read_bytes() for file in trained.files]
    assert not (tmp_path / "resume.pt").exists()


def test_a_continued_training_makes_only_the_steps_that_are_left(tmp_path, interrupt):
    with pytest.raises(StoppedError):
        qcaps.train(**TINY, out=tmp_path, on_progress=interrupt(17))
    told = []
    qcaps.train(**TINY, out=tmp_path, on_progress=told.append)
    assert [step.done for step in told if step.phase.startswith("epoch")] == [6, 7, 8, 9, 10, 11, 12]


@pytest.fixture
def interrupted(tmp_path, interrupt):
    """Give a folder with the resume file of an interrupted run."""
    with pytest.raises(StoppedError):
        qcaps.train(**TINY, out=tmp_path, on_progress=interrupt(1))
    return tmp_path


def test_an_interrupted_run_with_other_options_is_not_overwritten(interrupted):
    before = (interrupted / "resume.pt").read_bytes()
    with pytest.raises(UsageError, match="other options") as raised:
        qcaps.train(**TINY | {"lr": 0.006}, out=interrupted)
    assert "--fresh" in raised.value.do
    assert (interrupted / "resume.pt").read_bytes() == before


def test_the_command_refuses_other_options_with_2_and_one_line(interrupted, capsys):
    answer = call(capsys, *WORDS, "--epochs", 3, "--out", interrupted)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: an interrupted run with other options lies in the output folder")
    assert answer.err.count("\n") == 1


def test_options_that_change_only_speed_continue_an_interrupted_run(interrupted, trained):
    continued = qcaps.train(**TINY | {"test_batch_size": 100}, out=interrupted)
    assert continued.files[0].read_bytes() == trained.files[0].read_bytes()


def test_fresh_ignores_an_interrupted_run(interrupted):
    told = []
    qcaps.train(**TINY | {"lr": 0.006, "epochs": 1}, out=interrupted, fresh=True, on_progress=told.append)
    assert [step.done for step in told if step.phase == "epoch 1/1"] == list(range(1, 13))


def test_a_damaged_resume_file_is_refused(interrupted):
    data = (interrupted / "resume.pt").read_bytes()
    (interrupted / "resume.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError) as raised:
        qcaps.train(**TINY, out=interrupted)
    assert raised.value.where == str(interrupted / "resume.pt")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_command_with_130_and_one_line(tmp_path, capsys, monkeypatch, number):
    listener = after(3, lambda: signal.raise_signal(getattr(signal, number)), phase="epoch")
    monkeypatch.setattr("qcaps_cli.output._lines", lambda: listener)
    answer = call(capsys, *WORDS, "--epochs", 2, "--out", tmp_path)
    assert answer.code == 130
    assert answer.out == ""
    assert answer.err == (
        f"error: training was interrupted; its state is saved ({tmp_path}); the same command continues\n"
    )
    assert (tmp_path / "resume.pt").is_file()


def start(out) -> subprocess.Popen[str]:
    """Start a training of three epochs, and come back when the first is over and saved."""
    process = subprocess.Popen(
        [*COMMAND, *WORDS, "--epochs", "3", "--out", str(out)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (out / "resume.pt").exists():
        assert process.poll() is None
        time.sleep(0.002)
    return process


def test_a_killed_training_continues_to_the_same_bytes(tmp_path):
    process = start(tmp_path / "killed")
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()
    continued = qcaps.train(**TINY | {"epochs": 3}, out=tmp_path / "killed")
    whole = qcaps.train(**TINY | {"epochs": 3}, out=tmp_path / "whole")
    assert [file.read_bytes() for file in continued.files] == [file.read_bytes() for file in whole.files]


def test_a_terminated_process_saves_and_exits_with_130(tmp_path):
    process = start(tmp_path)
    process.terminate()
    out, err = process.communicate()
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1].endswith("the same command continues")
    assert "Traceback" not in err
    assert (tmp_path / "resume.pt").is_file()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("conv_channels", "'conv_channels' is not KEY=VALUE"),
        ("conv_chanels=[8]", "no number 'conv_chanels'"),
        ("conv_channels=[8, 8, 8, many]", "not a list of whole numbers"),
        ("norm_momentum=fast", "norm_momentum of efficient-capsnet is 'fast'"),
        ("norm_momentum=NaN", "norm_momentum of efficient-capsnet is 'nan'"),
        ("conv_channels=[&a [8, 8], *a]", "not a list of whole numbers"),
        ("conv_channels=" + 10_000 * "[", "not a list of whole numbers"),
        ("norm=batsh", "not one of none, batch, instance; did you mean 'batch'"),
    ],
)
def test_a_number_that_the_network_does_not_have_is_a_usage_error(tmp_path, argument, message):
    with pytest.raises(UsageError) as raised:
        qcaps.train(**TINY | {"model_arg": [argument]}, out=tmp_path / "out")
    assert message in raised.value.what
    assert raised.value.where == "--model-arg"
    assert len(str(raised.value)) < 500
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"dataset": "digit"}, "--dataset"),
        ({"model": "capsnet"}, "--model"),
        ({"decoder": "fcc"}, "--decoder"),
        ({"augmentation": "shfit"}, "--augmentation"),
        ({"epochs": 0}, "--epochs"),
        ({"lr": "quick"}, "--lr"),
        ({"mixed_precision": "fp8"}, "--mixed-precision"),
    ],
)
def test_a_wrong_option_is_a_usage_error_before_anything_is_written(tmp_path, options, where):
    with pytest.raises(UsageError) as raised:
        qcaps.train(**TINY | options, out=tmp_path / "out")
    assert raised.value.where == where
    assert not (tmp_path / "out").exists()


def test_a_network_that_cannot_be_built_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError):
        qcaps.train(**TINY | {"model_arg": ["conv_kernels=[29, 3, 3, 3]"]}, out=tmp_path)


def test_a_file_in_the_place_of_the_output_folder_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="output folder"):
        qcaps.train(**TINY, out=tmp_path / "file")


def test_the_first_weights_are_drawn_from_the_seed(tmp_path):
    outcome = qcaps.train(**TINY | {"epochs": 1, "lr": 0, "seed": 7}, out=tmp_path)
    checkpoint, _ = read_checkpoint(outcome.files[0])
    for name, parameter in initialised(checkpoint.model, 7).named_parameters():
        assert torch.equal(checkpoint.tensors[name], parameter.detach())


def test_training_leaves_the_global_generator_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    qcaps.train(**TINY | {"epochs": 1}, out=tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_training_starts_from_a_checkpoint_and_leaves_frozen_stages_as_they_are(tmp_path, trained):
    outcome = qcaps.train(**TINY, init=trained.files[0], freeze=("conv1", "conv2"), out=tmp_path)
    start, found = (read_checkpoint(file)[0] for file in (trained.files[0], outcome.files[0]))
    same = {name.split(".")[1] for name, tensor in found.tensors.items() if tensor.equal(start.tensors[name])}
    assert {"conv1", "conv2"} <= same
    assert not found.tensors["stages.class_caps.weight"].equal(start.tensors["stages.class_caps.weight"])
    assert found.record["taken_over"]["stages"] == ["conv1", "conv2", "conv3", "conv4", "primary", "class_caps"]
    assert outcome.document["validation"]["images"] == 300


def test_a_checkpoint_to_start_from_that_does_not_exist_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        qcaps.train(**TINY, init=tmp_path / "nothing.pt", out=tmp_path / "out")


def test_two_names_of_a_decoder_are_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="--decoder names another decoder"):
        qcaps.train(**TINY | {"decoder": "fc", "model_arg": ["decoder=deconv28"]}, out=tmp_path / "out")
