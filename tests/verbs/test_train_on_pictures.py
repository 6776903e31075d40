from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from made_pictures import write_folder, write_zip
from PIL import Image

import qcaps
from qcaps.artifacts.checkpoint import read_checkpoint
from qcaps.errors import UsageError

SHAPES = {"bar": (slice(8, 12), slice(2, 18)), "post": (slice(2, 18), slice(8, 12))}
TINY = {
    "dataset": "images",
    "model_arg": ["conv_channels=[4, 4, 4, 16]", "norm_momentum=0.1", "squash_eps=1e-12"],
    "decoder": "none",
    "lr": 0.005,
    "batch_size": 20,
    "device": "cpu",
}


def png(name: str, seed: int) -> bytes:
    """Draw a bar that lies or stands, on noise."""
    pixels = np.random.default_rng(seed).integers(0, 60, size=(20, 20), dtype=np.uint8)
    pixels[SHAPES[name]] = 230
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pictures(start: int, count: int) -> dict[str, bytes]:
    return {f"{name}/{seed}.png": png(name, seed) for name in SHAPES for seed in range(start, start + count)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pictures")
    write_zip(made / "train.zip", pictures(0, 60))
    write_folder(made / "test", pictures(1000, 10))
    return made


@pytest.fixture
def trained(folder: Path, tmp_path: Path) -> Path:
    qcaps.train(**TINY, data_dir=folder, epochs=3, limit_train=80, out=tmp_path / "out")
    return tmp_path / "out" / "checkpoint.pt"


def test_a_network_learns_from_own_pictures_and_is_evaluated_where_only_the_test_part_is(
    folder: Path, trained: Path
) -> None:
    checkpoint, _ = read_checkpoint(trained)
    elsewhere = write_folder(trained.parent / "elsewhere" / "test", pictures(2000, 10)).parent

    document = qcaps.evaluate(trained, data_dir=elsewhere, latency=False).document

    losses = [epoch["class_loss"] for epoch in checkpoint.record["history"]]
    assert losses[-1] < losses[0]
    assert checkpoint.data is not None
    assert checkpoint.data.content is not None
    assert checkpoint.data.content.class_names == ("bar", "post")
    assert document["files"][0]["images"] == 20
    assert [score["name"] for score in document["files"][0]["per_class"]] == ["bar", "post"]
    assert document["files"][0]["note"] == ""


def test_the_record_says_how_many_images_were_taken(trained: Path) -> None:
    record = read_checkpoint(trained)[0].record

    # 60 of each class, 6 of them validate.
    assert record["images"] == {"train": 80, "validation": 12, "note": ""}
    assert record["options"]["limit_train"] == 80


def test_pictures_of_another_data_set_are_refused_where_it_has_a_size_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="digits has images of its own size"):
        qcaps.train(**TINY | {"dataset": "digits"}, image_size=20, out=tmp_path)


def test_pictures_are_resized_for_the_network(folder: Path, tmp_path: Path) -> None:
    qcaps.train(**TINY, data_dir=folder, epochs=1, limit_train=20, image_size="24", out=tmp_path)

    assert read_checkpoint(tmp_path / "checkpoint.pt")[0].model.height == 24
    assert json.dumps(read_checkpoint(tmp_path / "checkpoint.pt")[0].record["options"]["image_size"]) == "[24, 24]"
