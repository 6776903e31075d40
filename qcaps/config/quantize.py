"""Options of ``qcaps quantize``."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal

from qcaps.config.option import LARGEST_SEED, option
from qcaps.config.sizes import parse_size
from qcaps.registry import DATASETS, ROUNDINGS, SEARCHES


def parse_percent(value: object) -> Decimal:
    """Read a percentage exactly as typed.

    Raises
    ------
    ValueError
        If it is not a number from 0 to 100 with at most 20 decimals.
    """
    text = str(value)
    try:
        percent = Decimal("NaN" if "_" in text else text)  # Decimal reads 0_2 as 2
    except InvalidOperation:
        percent = Decimal("NaN")
    exponent = percent.as_tuple().exponent
    if not isinstance(exponent, int) or abs(exponent) > 20 or not 0 <= percent <= 100:
        raise ValueError(f"'{text[:40]}' is not a percentage from 0 to 100 with at most 20 decimals")
    return percent


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """Every option of a bit-width search, with its default."""

    accuracy_tolerance: Decimal = option(
        Decimal("0.2"),
        "Accuracy that may be lost, in percent of the float accuracy.",
        parse=parse_percent,
        metavar="PERCENT",
    )
    tolerance_kind: Literal["relative", "absolute"] = option(
        "relative", "relative: percent of the float accuracy; absolute: percentage points."
    )
    memory_budget: int | None = option(
        None,
        "Largest artifact in MB = 1,000,000 bytes; B, kB, MB, KiB, MiB are understood (default: as small as it gets).",
        parse=parse_size,
        metavar="SIZE",
    )
    budget_on: Literal["file", "payload"] = option(
        "file", "What the budget limits: the file on disk, or its weight payload alone."
    )
    rounding: str = option("round_to_nearest", "How numbers are rounded.", names=ROUNDINGS)
    search: str = option("common-width", "How widths are searched.", names=SEARCHES)
    min_bits: int = option(2, "Smallest width tried; 1 is legal.", least=1, most=16)
    calibration_images: int = option(1024, "Training images that choose the scales.", least=1)
    margin: int = option(
        10,
        "Percent of the allowed losses the search keeps in reserve for the report split.",
        least=0,
        most=100,
    )
    dataset: str | None = option(
        None,
        "Images to choose scales and widths on, and to prove them (default: those it was trained on).",
        names=DATASETS,
    )
    data_dir: Path | None = option(None, "Folder of the data sets (QCAPS_DATA, else ~/.cache/qcaps/data).")
    test_batch_size: int = option(200, "Images per batch; changes speed and memory only.", least=1)
    seed: int = option(42, "Seed of calibration images and of stochastic rounding.", least=0, most=LARGEST_SEED)
    threads: int | None = option(None, "Compute threads (default: PyTorch's choice).", least=1)
    out: Path | None = option(None, "Output folder (default: runs/<input>-quantize).")
    fresh: bool = option(False, "Ignore the measurements in the output folder and start again.")
    reproducible: bool = option(False, "Leave times and the machine out of report.json.")
    exit_zero: bool = option(False, "Exit 0 even where a promise is not kept.")
