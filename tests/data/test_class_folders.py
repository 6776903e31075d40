from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_pictures import picture, pixels_of, two_classes, write_folder, write_tar, write_zip

from qcaps.data import decoded_cache
from qcaps.data.class_folders import of_classes, read_class_folders
from qcaps.data.decoded_cache import Decoded
from qcaps.data.pictures import Frame
from qcaps.errors import UsageError

FRAME = Frame(3, 4, 6)


def read(source: Path, per_class: int | None = None, **options: object) -> Decoded:
    decoded = read_class_folders(source, FRAME, phase="decode")
    return of_classes(decoded, ("cat", "dog"), per_class=per_class, where=str(source), **options)


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
    decoded = read_class_folders(write_zip(tmp_path / "x.zip", two_classes(1)), FRAME, phase="decode")

    assert decoded.class_names == ("cat", "dog")
    assert of_classes(decoded, ("dog", "cat"), where="x").labels.tolist() == [1, 0]


def test_classes_left_out_take_their_images_with_them(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", two_classes(2) | {"bird/1.png": picture(7), "cow/1.png": picture(8)})

    found = read(source, left_out={"bird", "cow"})

    assert found.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(found.pixels, np.stack([pixels_of(seed) for seed in (0, 1, 100, 101)]))


def test_classes_may_come_from_elsewhere_than_the_folders(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", {"1.png": picture(1), "2.png": picture(2)})

    decoded = read_class_folders(source, FRAME, class_of=lambda name: "ba"[int(name[0]) - 1], way="list", phase="x")

    assert decoded.class_names == ("a", "b")
    assert decoded.labels.tolist() == [1, 0]


def test_pictures_may_lie_deeper_in_a_class_folder(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", {"cat/images/1.png": picture(1), "dog/1.png": picture(2)})

    assert read(source).labels.tolist() == [0, 1]


def test_what_is_no_picture_is_passed_over(tmp_path: Path) -> None:
    extra = {"cat/Thumbs.db": b"x", "readme.txt": b"x", "__MACOSX/cat/._1.png": b"x"}

    assert len(read(write_zip(tmp_path / "x.zip", two_classes() | extra)).labels) == 6


def test_the_note_tells_of_jpeg(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", {"cat/1.jpg": picture(1, form="JPEG", quality=75), "dog/1.png": picture(2)})

    assert read(source).note == "JPEG q75"


def test_an_unknown_class_is_named(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", two_classes() | {"bird/1.png": picture(5)})

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


def test_a_class_without_a_picture_is_named_unless_it_may_lack_them(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", {"cat/1.png": picture(1)})

    with pytest.raises(UsageError, match="class 'dog' has 0 pictures"):
        read(source)
    assert read(source, may_lack=True).labels.tolist() == [0]


def test_a_source_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no pictures"):
        read(write_zip(tmp_path / "x.zip", {"readme.txt": b"x"}))


def test_the_cache_is_used_for_the_same_size_alone(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "folder", two_classes())
    read(source)

    resized = read_class_folders(source, Frame(1, 8, 8, resize=True), phase="x")

    assert resized.pixels.shape == (6, 1, 8, 8)


def test_a_folder_that_cannot_be_listed_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(decoded_cache, "walk", refuse)

    with pytest.raises(UsageError, match="cannot read the images: Permission denied"):
        read(tmp_path)
