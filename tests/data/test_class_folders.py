from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_pictures import picture, pixels_of, two_classes, write_folder, write_tar, write_zip

from qcaps.data.class_folders import read_class_folders
from qcaps.data.decoded_cache import Decoded
from qcaps.data.pictures import Frame
from qcaps.errors import UsageError

FRAME = Frame(3, 4, 6)


def read(source: Path, per_class: int | None = None) -> Decoded:
    return read_class_folders(source, ("cat", "dog"), FRAME, per_class=per_class, phase="decode")


def test_folder_zip_and_tar_give_the_same_images_in_the_same_order(tmp_path: Path) -> None:
    files = dict(reversed(two_classes().items()))
    sources = (
        write_folder(tmp_path / "folder", files),
        write_zip(tmp_path / "x.zip", files),
        write_tar(tmp_path / "x.tar.gz", files),
    )

    for source in sources:
        found = read(source)
        assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert np.array_equal(found.pixels, np.stack([pixels_of(seed) for seed in (0, 1, 2, 100, 101, 102)]))


def test_labels_follow_the_order_of_the_classes_asked_for(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", two_classes(1))

    found = read_class_folders(source, ("dog", "cat"), FRAME, phase="decode")

    assert found.labels.tolist() == [1, 0]


def test_pictures_may_lie_deeper_in_a_class_folder(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", {"cat/images/1.png": picture(1), "dog/1.png": picture(2)})

    assert read(source).labels.tolist() == [0, 1]


def test_what_is_no_picture_is_passed_over(tmp_path: Path) -> None:
    extra = {"cat/Thumbs.db": b"x", "readme.txt": b"x", "__MACOSX/cat/._1.png": b"x"}

    assert len(read(write_zip(tmp_path / "x.zip", two_classes() | extra)).labels) == 6


def test_the_note_tells_of_jpeg(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", {"cat/1.jpg": picture(1, form="JPEG", quality=75), "dog/1.png": picture(2)})

    assert read(source).note == "JPEG q75"


def test_an_unknown_class_is_named_before_its_picture_is_decoded(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", two_classes() | {"bird/1.png": b"no picture"})

    with pytest.raises(UsageError, match="unknown class 'bird'") as caught:
        read(source)

    assert caught.value.where == str(source)
    assert caught.value.do == "known are cat, dog"


def test_a_picture_beside_the_class_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'1.png' lies in no class folder"):
        read(write_zip(tmp_path / "x.zip", two_classes() | {"1.png": picture(1)}))


@pytest.mark.parametrize("count", [2, 4])
def test_a_known_set_must_be_complete(tmp_path: Path, count: int) -> None:
    files = two_classes(3)
    if count == 2:
        del files["dog/1.png"]
        files["cat/9.png"] = picture(9)
    else:
        files["dog/9.png"] = picture(9)
        del files["cat/1.png"]

    with pytest.raises(UsageError, match=r"class '(cat|dog)' has [24] pictures instead of 3"):
        read(write_zip(tmp_path / "x.zip", files), per_class=3)


def test_a_class_without_a_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="class 'dog' has 0 pictures"):
        read(write_zip(tmp_path / "x.zip", {"cat/1.png": picture(1)}))


def test_the_cache_is_used_for_the_same_classes_and_size_alone(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "folder", two_classes())
    read(source)

    assert read_class_folders(source, ("dog", "cat"), FRAME, phase="x").labels.tolist() == [1, 1, 1, 0, 0, 0]
    resized = read_class_folders(source, ("cat", "dog"), Frame(1, 8, 8, resize=True), phase="x")
    assert resized.pixels.shape == (6, 1, 8, 8)
