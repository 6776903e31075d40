"""What further options of ``qcaps train`` write and tell."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
from typing import ClassVar

import pytest
from few_digits import few_digits
from PIL import Image
from shell import after, call

import qcaps
import qcaps.training.step_losses
import qcaps.verbs.tracking
from qcaps.artifacts.checkpoint import read_checkpoint
from qcaps.errors import DivergedError, StoppedError, UsageError

# 150 training images in batches of 50: 3 steps an epoch.
TINY = {
    "dataset": "digits",
    "epochs": 2,
    "lr": 0.005,
    "batch_size": 50,
    "decoder": "none",
    "model_arg": ["conv_channels=[2, 2, 2, 8]", "norm_momentum=0.1"],
    "device": "cpu",
    "reproducible": True,
}


@pytest.fixture(autouse=True, scope="module")
def _few_images():
    with few_digits():
        yield


def read_bytes(outcome) -> list[bytes]:
    return [file.read_bytes() for file in outcome.files]


def test_the_history_tells_times_unless_it_shall_be_reproducible(tmp_path):
    outcome = qcaps.train(**TINY | {"reproducible": False}, out=tmp_path)
    document = json.loads((tmp_path / "history.json").read_text())
    assert [epoch["images"] for epoch in document["run"]["epochs"]] == [150, 150]
    told = outcome.document["run"]
    assert told["images"] == 300
    assert told["seconds"] == pytest.approx(sum(epoch["seconds"] for epoch in document["run"]["epochs"]))
    assert 0 < told["waiting"] < 1
    assert f"; {told['images_per_second']:,.0f} images/s, {100 * told['waiting']:.1f} % of the time" in outcome.lines[0]


def test_a_further_set_has_columns_of_its_own_and_a_line(tmp_path):
    # The same images again: both scores have to be the same.
    outcome = qcaps.train(**TINY, also_evaluate=("digits",), out=tmp_path)
    for row in json.loads((tmp_path / "history.json").read_text())["epochs"]:
        assert (row["digits_correct"], row["digits_images"]) == (row["validation_correct"], 300)
    assert outcome.document["also"] == {"digits": outcome.document["validation"]}
    assert outcome.lines[1].startswith("  digits: validation accuracy ")


def test_a_further_set_leaves_the_weights_as_they_are(tmp_path):
    plain = qcaps.train(**TINY, out=tmp_path / "plain")
    more = qcaps.train(**TINY, also_evaluate=["digits"], out=tmp_path / "more")
    found, expected = (read_checkpoint(outcome.files[0])[0].tensors for outcome in (more, plain))
    assert all(tensor.equal(expected[name]) for name, tensor in found.items())


def test_the_panel_is_drawn_every_so_many_epochs(tmp_path):
    qcaps.train(
        **TINY | {"epochs": 3, "decoder": "deconv28", "batch_size": 1137}, reconstructions_every=2, out=tmp_path
    )
    assert [name for name in sorted(os.listdir(tmp_path)) if name.endswith(".png")] == ["reconstructions-0002.png"]
    with Image.open(tmp_path / "reconstructions-0002.png") as picture:
        # 20 images of 28 pixels, doubled, ten in a line, each line with its reconstructions.
        assert picture.size == (10 * 58, 4 * 58)


def broken(monkeypatch, steps: int) -> None:
    """Let the loss of this and every later step be no number."""
    real, done = qcaps.training.step_losses.class_loss, [0]

    def loss(*args, **more):
        done[0] += 1
        return real(*args, **more) * (math.nan if done[0] >= steps else 1)

    monkeypatch.setattr(qcaps.training.step_losses, "class_loss", loss)


def test_a_training_that_diverges_leaves_the_best_epoch_and_its_state(tmp_path, monkeypatch):
    whole = qcaps.train(**TINY, out=tmp_path / "whole")
    broken(monkeypatch, steps=5)
    with pytest.raises(DivergedError) as raised:
        qcaps.train(**TINY, out=tmp_path / "broken")
    assert raised.value.exit_code == 1
    assert raised.value.where == "epoch 2, step 2"
    assert raised.value.do.endswith(f"epoch 1, the best so far, is in {tmp_path / 'broken' / 'checkpoint.pt'}")
    assert sorted(os.listdir(tmp_path / "broken")) == [
        *("checkpoint.pt", "history.csv", "history.json", "report.html", "resume.pt")
    ]
    record = read_checkpoint(tmp_path / "broken" / "checkpoint.pt")[0].record
    assert record["history"] == read_checkpoint(whole.files[0])[0].record["history"][:1]
    monkeypatch.undo()
    assert read_bytes(qcaps.train(**TINY, out=tmp_path / "broken")) == read_bytes(whole)


def test_a_training_that_diverges_at_once_writes_nothing(tmp_path, monkeypatch):
    broken(monkeypatch, steps=1)
    with pytest.raises(DivergedError, match="the loss is no longer a number"):
        qcaps.train(**TINY, out=tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_command_tells_of_a_divergence_in_one_line_with_1(tmp_path, capsys, monkeypatch):
    broken(monkeypatch, steps=1)
    words = ("train", "--dataset", "digits", "--device", "cpu", "--decoder", "none", "--out", tmp_path, "--quiet")
    answer = call(capsys, *words)
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith("error: the loss is no longer a number (epoch 1, step 1); lower --lr")
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"optimizer": "adan"}, "--optimizer"),
        ({"optimizer_arg": ("betas=hot",)}, "--optimizer-arg"),
        ({"also_evaluate": ("mnits",)}, ""),
        ({"reconstructions_every": 1}, "--reconstructions-every"),
        ({"tracker": "tensorbord"}, "--tracker"),
        ({"schedule": "decay"}, "--schedule"),
        ({"milestones": "later"}, "--milestones"),
        ({"runs": 0}, "--runs"),
    ],
)
def test_a_wrong_option_is_a_usage_error_before_anything_is_written(tmp_path, options, where):
    with pytest.raises(UsageError) as raised:
        qcaps.train(**TINY | options, out=tmp_path / "out")
    assert raised.value.where == where
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_a_usage_error_before_anything_is_written(tmp_path, monkeypatch, name):
    monkeypatch.setattr(qcaps.verbs.tracking, f"is_{name}_available", lambda: False)
    with pytest.raises(UsageError, match=f"the package {name} is not installed"):
        qcaps.train(**TINY, tracker=name, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Tracker:
    """Stands for a tracker of accelerate; keeps what it was told."""

    made: ClassVar[list[Tracker]] = []

    def __init__(self, name, *args, **numbers) -> None:
        self.name, self.args, self.numbers, self.points, self.open = name, args, numbers, [], False
        self.made.append(self)

    def start(self) -> None:
        self.open = True

    def log(self, values, step) -> None:
        assert self.open
        self.points.append((step, values))

    def finish(self) -> None:
        self.open = False


@pytest.fixture
def trackers(monkeypatch):
    monkeypatch.setattr(Tracker, "made", [])
    for name, kind in (("tensorboard", "TensorBoardTracker"), ("wandb", "WandBTracker")):
        monkeypatch.setattr(qcaps.verbs.tracking, f"is_{name}_available", lambda: True)
        monkeypatch.setattr(qcaps.verbs.tracking, kind, Tracker)
    return Tracker.made


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_is_given_every_epoch_once_with_its_scores_though_training_was_interrupted(tmp_path, trackers, name):
    listener = after(4, lambda: signal.raise_signal(signal.SIGTERM), phase="epoch")
    with pytest.raises(StoppedError):
        qcaps.train(**TINY, tracker=name, out=tmp_path, on_progress=listener)
    qcaps.train(**TINY, tracker=name, out=tmp_path)
    rows = json.loads((tmp_path / "history.json").read_text())["epochs"]
    points = [point for tracker in trackers for point in tracker.points]
    assert [len(tracker.points) for tracker in trackers] == [1, 1]
    assert [step for step, _ in points] == [1, 2]
    for (_, values), row in zip(points, rows, strict=True):
        assert values["validation_accuracy"] == row["validation_correct"] / 300
        assert values["class_loss"] == row["class_loss"]
        assert values["images_per_second"] > 0
    assert not any(tracker.open for tracker in trackers)
    if name == "tensorboard":
        assert [tracker.numbers for tracker in trackers] == [{"purge_step": 1}, {"purge_step": 2}]
    else:
        first, second = (tracker.numbers for tracker in trackers)
        assert first["id"] == second["id"]
        assert second["config"]["lr"] == 0.005


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Train twice, once for all tests that only look."""
    return qcaps.train(**TINY, runs=2, out=tmp_path_factory.mktemp("runs"))


def test_runs_are_trainings_with_seeds_in_a_row(runs, tmp_path):
    out = runs.files[0].parent
    assert sorted(os.listdir(out)) == ["run-1", "run-2", "runs.json"]
    alone = qcaps.train(**TINY | {"seed": 43}, out=tmp_path)
    assert read_bytes(alone) == [(out / "run-2" / file.name).read_bytes() for file in alone.files]


def test_the_mean_and_deviation_of_runs_are_told(runs):
    scores = [run["validation"]["correct"] / 300 for run in runs.document["runs"]]
    assert runs.document["seeds"] == [42, 43]
    validation = runs.document["validation"]
    assert validation["mean"] == pytest.approx(sum(scores) / 2)
    assert validation["standard_deviation"] == pytest.approx(statistics.stdev(scores))
    assert validation["standard_deviation"] == pytest.approx(abs(scores[0] - scores[1]) / math.sqrt(2))
    assert json.loads(runs.files[0].read_text()) == runs.document
    told = f"{100 * validation['mean']:.2f} ± {100 * validation['standard_deviation']:.2f} %"
    assert runs.lines[-1] == f"2 runs, seeds 42 to 43: validation accuracy {told} (mean ± deviation)"


# A run tells of two epochs with three steps and two batches of validation images each.
@pytest.mark.parametrize("steps", [2, 12, 16])
def test_interrupted_runs_continue_where_they_were(tmp_path, runs, steps):
    listener = after(steps, lambda: signal.raise_signal(signal.SIGTERM), phase="run")
    with pytest.raises(StoppedError) as raised:
        qcaps.train(**TINY, runs=2, out=tmp_path, on_progress=listener)
    assert raised.value.where == str(tmp_path)
    told = []
    continued = qcaps.train(**TINY, runs=2, out=tmp_path, on_progress=told.append)
    assert read_bytes(continued) == read_bytes(runs)
    assert any(step.phase.startswith("run 1") for step in told) == (steps == 2)


def test_finished_runs_are_not_repeated_and_fresh_repeats_them(tmp_path, runs):
    first = qcaps.train(**TINY, runs=2, out=tmp_path)
    told = []
    again = qcaps.train(**TINY, runs=2, out=tmp_path, on_progress=told.append)
    assert told == []
    assert read_bytes(again) == read_bytes(first) == read_bytes(runs)
    qcaps.train(**TINY | {"epochs": 1}, runs=2, out=tmp_path, fresh=True, on_progress=told.append)
    assert {step.phase for step in told if "epoch" in step.phase} == {"run 1/2: epoch 1/1", "run 2/2: epoch 1/1"}


def test_images_are_read_once_for_all_runs(tmp_path, monkeypatch):
    specs, real = [], qcaps.verbs.train.load_training_splits

    def load(spec, **more):
        specs.append(spec)
        return real(spec, **more)

    monkeypatch.setattr(qcaps.verbs.train, "load_training_splits", load)
    qcaps.train(**TINY | {"epochs": 1}, runs=3, out=tmp_path)
    assert len(specs) == 1


def test_training_stops_early_and_says_how_many_epochs_it_took(tmp_path):
    outcome = qcaps.train(**TINY | {"epochs": 9, "lr": 0}, patience=1, out=tmp_path)
    assert outcome.document["epochs"] == outcome.document["best_epoch"] + 1 < 9
