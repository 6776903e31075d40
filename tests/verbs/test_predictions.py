from __future__ import annotations

import csv

import pytest
import torch
from shell import call

import qcaps
from qcaps.data.load import load_split
from qcaps.quantization.loading import load


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def written(tiny_checkpoint, tmp_path_factory):
    """Evaluate the tiny network once, into a folder that is not there yet."""
    path = tmp_path_factory.mktemp("predictions") / "deeper" / "test.csv"
    outcome = qcaps.evaluate(tiny_checkpoint, latency=False, predictions=path, test_batch_size=70)
    return path, outcome


def test_every_image_has_a_line(written, tiny_checkpoint):
    path, outcome = written
    images, rows = load_split(load(tiny_checkpoint).data, "test"), rows_of(path)
    assert outcome.files == (path,)
    assert [int(row["index"]) for row in rows] == images.indices.tolist()
    assert [int(row["label"]) for row in rows] == images.labels.tolist()
    assert sum(int(row["correct"]) for row in rows) == outcome.document["files"][0]["correct"]
    assert all((row["label"] == row["prediction"]) == (row["correct"] == "1") for row in rows)


def test_scores_are_the_lengths_of_the_class_capsules(written, tiny_checkpoint):
    network, images = load(tiny_checkpoint).network, load_split(load(tiny_checkpoint).data, "test")
    with torch.inference_mode():
        lengths = network(images.subset(torch.arange(5)).prepared()).capsules.norm(dim=-1)
    for row, image, label in zip(rows_of(written[0])[:5], lengths, images.labels[:5], strict=True):
        assert float(row["score"]) == pytest.approx(float(image.max()), abs=1e-4)
        assert float(row["score_of_label"]) == pytest.approx(float(image[label]), abs=1e-4)


def test_a_fast_form_tells_its_scores_as_well(written, tiny_checkpoint, tmp_path):
    qcaps.evaluate(tiny_checkpoint, latency=False, fast=True, predictions=tmp_path / "p.csv")
    for fast, plain in zip(rows_of(tmp_path / "p.csv"), rows_of(written[0]), strict=True):
        assert float(fast["score"]) == pytest.approx(float(plain["score"]), abs=0.05)


def test_an_accuracy_that_is_reached_exactly_is_kept(written, tiny_checkpoint, capsys):
    correct = written[1].document["files"][0]["correct"]
    words = ("eval", tiny_checkpoint, "--no-latency", "--min-accuracy")
    assert correct < 360
    for least, code in ((0, 0), (100 * (correct - 1) / 360, 0), (100, 1)):
        answer = call(capsys, *words, f"{least:.10f}")
        assert answer.code == code
        assert answer.out.count("not kept: accuracy of checkpoint.pt on digits test, at least") == code


def test_the_least_accuracy_is_a_promise_of_the_document(tiny_checkpoint):
    document = qcaps.evaluate(tiny_checkpoint, latency=False, min_accuracy=100).document
    (promise,) = document["promises"]
    assert (promise["limit"], promise["unit"], promise["kept"]) == (100, "%", False)
    assert promise["found"] == 100 * document["files"][0]["accuracy"]


def test_a_file_that_cannot_be_written_is_a_usage_error(tiny_checkpoint, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    answer = call(capsys, "eval", tiny_checkpoint, "--no-latency", "--predictions", tmp_path / "file" / "p.csv")
    assert (answer.code, answer.err.count("error: ")) == (2, 1)
