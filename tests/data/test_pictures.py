from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from made_pictures import picture, pixels_of, write_folder, write_tar, write_zip
from PIL import Image

from qcaps.data.pictures import Frame, decode, frame_of, is_picture, jpeg_quality, read_pictures
from qcaps.errors import UsageError
from qcaps.progress import Step

COLOURS = Frame(3, 4, 6)


def saved(image: Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM"])
def test_a_picture_is_decoded_channel_by_channel(form: str) -> None:
    assert np.array_equal(decode(picture(1, form=form), COLOURS), pixels_of(1))


def test_a_grey_picture_becomes_three_equal_channels_where_colours_are_wanted() -> None:
    pixels = decode(picture(1, (1, 4, 6)), COLOURS)

    assert np.array_equal(pixels, np.repeat(pixels_of(1, (1, 4, 6)), 3, axis=0))


def test_colours_become_their_luminance_where_grey_is_wanted() -> None:
    # ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B.
    pixels = decode(saved(Image.new("RGB", (6, 4), (255, 0, 0))), Frame(1, 4, 6))

    assert pixels.shape == (1, 4, 6)
    assert pixels.max() == pixels.min() == 76


def test_a_palette_is_looked_up() -> None:
    palette = Image.new("RGB", (6, 4), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE)

    assert decode(saved(palette), COLOURS)[:, 0, 0].tolist() == [10, 20, 30]


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="has 4x6 pixels instead of 6x4"):
        decode(picture(1), Frame(3, 6, 4))


def test_a_picture_is_resized_where_that_is_asked_for() -> None:
    # Halves beside each other: bilinear to half the size keeps the flat ends.
    wide = Image.new("L", (16, 4), 200)
    wide.paste(40, (0, 0, 8, 4))

    pixels = decode(saved(wide), Frame(1, 2, 8, resize=True))

    assert pixels.shape == (1, 2, 8)
    assert pixels[0, 0, [0, 1, 6, 7]].tolist() == [40, 40, 200, 200]


def test_sixteen_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 8 bits"):
        decode(saved(Image.fromarray(np.zeros((4, 6), dtype=np.uint16))), Frame(1, 4, 6))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_every_truncated_picture_is_a_value_error(form: str) -> None:
    content = picture(1, (3, 16, 16), form)
    whole = decode(content, Frame(3, 16, 16))

    for length in range(0, len(content) - 20, 7):
        with pytest.raises(ValueError, match="damaged"):
            decode(content[:length], Frame(3, 16, 16))
    assert whole.shape == (3, 16, 16)


def test_a_picture_that_claims_too_many_pixels_is_refused_unread() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")

    with pytest.raises(ValueError, match="too many pixels"):
        decode(bomb, Frame(3, 4, 6, resize=True))


@pytest.mark.parametrize("shape", [(1, 4, 6), (3, 5, 7)])
def test_the_frame_of_a_picture_is_its_size_and_whether_it_has_colours(shape: tuple[int, int, int]) -> None:
    assert frame_of(picture(1, shape)).shape == shape


@pytest.mark.parametrize("quality", [1, 30, 75, 95, 100])
def test_the_quality_of_a_jpeg_is_told(quality: int) -> None:
    assert jpeg_quality(picture(1, form="JPEG", quality=quality)) == f"JPEG q{quality}"


def test_other_formats_have_no_such_quality() -> None:
    assert jpeg_quality(picture(1)) == ""


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("cat/1.JPEG", True),
        ("1.png", True),
        ("cat/readme.txt", False),
        ("cat/.1.png", False),
        (".cat/1.png", False),
        ("__MACOSX/cat/1.png", False),
    ],
)
def test_pictures_are_known_by_their_names(name: str, answer: bool) -> None:
    assert is_picture(name) is answer


def read(source: Path, most: int | None = None, **options: object) -> tuple[str, ...]:
    return read_pictures(source, COLOURS, check=lambda name: None, most=most, phase="decode", **options).names


def test_pictures_come_in_the_order_of_their_names_from_any_source(tmp_path: Path) -> None:
    files = {"b.png": picture(2), "a.png": picture(1)}
    sources = (
        write_folder(tmp_path / "folder", files),
        write_zip(tmp_path / "x.zip", files),
        write_tar(tmp_path / "x.tar.xz", files),
    )

    for source in sources:
        found = read_pictures(source, COLOURS, check=lambda name: None, most=None, phase="decode")
        assert found.names == ("a.png", "b.png")
        assert np.array_equal(found.pixels, np.stack([pixels_of(1), pixels_of(2)]))
        assert found.quality == ""


def test_a_damaged_picture_is_named_with_its_source(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", {"a.png": picture(1)[:-30]})

    with pytest.raises(UsageError, match=r"'a.png' is .*damaged") as caught:
        read(source)

    assert caught.value.where == str(source)


def test_more_pictures_than_a_set_has_are_refused(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", {"a.png": picture(1), "b.png": picture(1)})

    with pytest.raises(UsageError, match="more than 1 pictures"):
        read(source, most=1)


def test_progress_is_told_on_the_way_and_at_the_end(tmp_path: Path) -> None:
    content = picture(1)
    source = write_zip(tmp_path / "x.zip", {f"{number}.png": content for number in range(1100)})
    steps: list[Step] = []

    read(source, on_progress=steps.append)

    assert [(step.done, step.total) for step in steps] == [(500, 1100), (1000, 1100), (1100, 1100)]
