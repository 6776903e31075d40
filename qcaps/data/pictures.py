"""Pictures in files of the usual formats, decoded to one array of 8-bit images."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image

from qcaps.data.archives import count_of, files
from qcaps.errors import UsageError, quoted
from qcaps.progress import OnProgress, Step, silent

Pixels = npt.NDArray[np.uint8]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm")
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")
_MODES = {1: "L", 3: "RGB"}
LARGEST_FILE = 64 << 20
_LARGEST_SET = 32 << 30  # bytes of all decoded images
_STEPS = 500  # pictures between two reports of progress
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, OverflowError, struct.error)


@dataclass(frozen=True)
class Frame:
    """The size that pictures are read at.

    Parameters
    ----------
    channels
        1 for grey, 3 for colours; a picture of the other kind is converted.
    height, width
        In pixels.
    resize
        Whether a picture of another size is brought to this one, bilinear; otherwise it is an error.
    """

    channels: int
    height: int
    width: int
    resize: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Give ``(channels, height, width)``."""
        return self.channels, self.height, self.width


@dataclass(frozen=True, eq=False)
class Pictures:
    """All pictures of a folder or archive.

    Parameters
    ----------
    names
        Path of each inside of its source, ascending.
    pixels
        uint8, shape ``(n, channels, height, width)``, in the order of the names.
    quality
        What JPEG lost: ``JPEG q75`` after the quality of the first such picture; empty if no picture is a JPEG.
    """

    names: tuple[str, ...]
    pixels: Pixels
    quality: str


def is_picture(name: str) -> bool:
    """Tell whether a file is a picture by its name; hidden files and folders are not."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
    return not hidden and name.lower().endswith(SUFFIXES)


def read_pictures(
    source: Path,
    frame: Frame,
    *,
    check: Callable[[str], object],
    most: int | None,
    phase: str,
    on_progress: OnProgress = silent,
) -> Pictures:
    """Decode every picture of a folder or archive.

    Parameters
    ----------
    source
        See :func:`qcaps.data.archives.files`.
    frame
        The size of all images.
    check
        Told every name before its picture is decoded; may raise UsageError.
    most
        The number of pictures of a complete set, if that is known.
    phase, on_progress
        Told every 500 pictures, where their number is known beforehand.

    Raises
    ------
    UsageError
        If the source or a picture is damaged, or a picture does not fit the frame.
    """
    total = count_of(source, is_picture) or most
    found: dict[str, Pixels] = {}
    quality = ""
    for name, content in files(source, is_picture, file_bytes=LARGEST_FILE):
        check(name)
        if len(found) == most or len(found) * np.prod(frame.shape) > _LARGEST_SET:
            raise UsageError(f"there are more than {len(found):,} pictures", where=str(source), do="replace it")
        try:
            found[name] = decode(content, frame)
        except ValueError as error:
            raise UsageError(
                f"{quoted(name)} {error}", where=str(source), do="replace or remove the picture"
            ) from error
        quality = quality or jpeg_quality(content)
        if total and len(found) % _STEPS == 0 and len(found) < total:
            on_progress(Step(phase, len(found), total))
    on_progress(Step(phase, len(found), len(found)))
    names = tuple(sorted(found))
    pixels = np.empty((len(names), *frame.shape), dtype=np.uint8)
    for position, name in enumerate(names):
        pixels[position] = found.pop(name)
    return Pictures(names, pixels, quality)


def decode(content: bytes, frame: Frame) -> Pixels:
    """Decode one picture.

    Parameters
    ----------
    content
        The whole file.
    frame
        The size it must have, or is brought to.

    Returns
    -------
    ndarray
        uint8, shape ``(channels, height, width)``.

    Raises
    ------
    ValueError
        With the reason, after the name of the picture.
    """
    with _opened(content) as picture:
        size = frame.width, frame.height
        if picture.size != size and not frame.resize:
            raise ValueError(f"has {picture.height}x{picture.width} pixels instead of {frame.height}x{frame.width}")
        if picture.mode.startswith(("I", "F")):
            raise ValueError("has more than 8 bits per pixel")
        try:
            shown = picture.convert(_MODES[frame.channels])
        except _DAMAGE as error:
            raise ValueError("is damaged") from error
    if shown.size != size:
        shown = shown.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(shown, dtype=np.uint8).reshape(frame.height, frame.width, frame.channels)
    return pixels.transpose(2, 0, 1)


def frame_of(content: bytes) -> Frame:
    """Give the size of one picture, and whether it has colours; raises ValueError as `decode`."""
    with _opened(content) as picture:
        grey = picture.mode in ("1", "L", "LA")
        return Frame(1 if grey else 3, picture.height, picture.width)


def jpeg_quality(content: bytes) -> str:
    """Name the quality that a JPEG was saved with, for example ``JPEG q75``; nothing for another format.

    Notes
    -----
    A quality from 1 to 100 stands for a table of divisors; the one that Pillow writes for the same table is named.
    """
    if not content.startswith(b"\xff\xd8"):
        return ""
    with _opened(content) as picture:
        tables = getattr(picture, "quantization", {})
    for quality in range(100, 0, -1):
        trial = io.BytesIO()
        Image.new("L", (8, 8)).save(trial, "JPEG", quality=quality)
        if Image.open(trial).quantization[0] == tables.get(0):  # type: ignore[attr-defined]  # only JPEGs have it
            return f"JPEG q{quality}"
    return "JPEG"


def _opened(content: bytes) -> Image.Image:
    """Read the header of a picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(content), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError("claims too many pixels") from error
    except _DAMAGE as error:
        raise ValueError("is not a picture, or damaged") from error
