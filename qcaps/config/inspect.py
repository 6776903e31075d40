"""Options of ``qcaps inspect``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from qcaps.config.option import option
from qcaps.registry import DATASETS


def parse_image(value: object) -> tuple[int, ...]:
    """Read the size of an image, ``1x28x28``, or three numbers in a list.

    Raises
    ------
    ValueError
        If it is not three positive whole numbers.
    """
    text = "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if not re.fullmatch(r"[1-9][0-9]{0,5}(x[1-9][0-9]{0,5}){2}", text):
        raise ValueError(f"'{text[:40]}' is not channels x height x width such as 3x32x32")
    return tuple(map(int, text.split("x")))


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Every option of an inspection, with its default."""

    input: tuple[int, int, int] | None = option(
        None,
        "Size of the images a named network is built for (default: its own).",
        parse=parse_image,
        metavar="CxHxW",
    )
    model_arg: tuple[str, ...] = option(
        (), "A number of a named network, KEY=VALUE, for example classes=5; may be repeated.", metavar="KEY=VALUE"
    )
    sites: bool = option(False, "List every site, where a number may be rounded.")
    units: bool = option(False, "List every kind of unit that can be pruned.")
    ranges: bool = option(False, "Run training images, and list every site with its smallest and largest value.")
    calibration_images: int = option(1024, "Training images that --ranges runs.", least=1)
    dataset: str | None = option(
        None, "Images that --ranges runs (default: those the network was trained on).", names=DATASETS
    )
    data_dir: Path | None = option(None, "Folder of the data sets (QCAPS_DATA, else ~/.cache/qcaps/data).")
