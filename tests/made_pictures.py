"""Small pictures made by tests, in class folders, zips and tars."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

Files = Mapping[str, bytes]


def picture(seed: int, shape: tuple[int, int, int] = (3, 4, 6), form: str = "PNG", **options: int) -> bytes:
    """Draw a picture of random pixels, shape ``(channels, height, width)``."""
    pixels = pixels_of(seed, shape).transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(pixels if shape[0] == 3 else pixels[..., 0]).save(file, form, **options)
    return file.getvalue()


def pixels_of(seed: int, shape: tuple[int, int, int] = (3, 4, 6)) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Give the pixels that `picture` draws."""
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


def two_classes(per_class: int = 3, shape: tuple[int, int, int] = (3, 4, 6)) -> dict[str, bytes]:
    """Make pictures of cats (seeds 0, 1, ...) and of dogs (seeds 100, 101, ...)."""
    return {
        f"{name}/{number}.png": picture(start + number, shape)
        for name, start in (("cat", 0), ("dog", 100))
        for number in range(per_class)
    }


def write_folder(folder: Path, files: Files) -> Path:
    """Write files below a folder."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def write_zip(path: Path, files: Files) -> Path:
    """Pack files as a zip, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: Files) -> Path:
    """Pack files as a tar, compressed as its name says, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}.get(path.suffix, "w:")
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
