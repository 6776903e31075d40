"""Options of ``qcaps compare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qcaps.config.option import option
from qcaps.registry import DATASETS


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Every option of a comparison, with its default."""

    format: Literal["text", "markdown", "csv", "latex"] = option("text", "How the tables are written.")
    flips: bool = option(False, "Score every file, and count the images that it loses and gains against the first.")
    max_lost: int | None = option(
        None,
        "Exit 1 if a file loses more images against the first than this, those gained taken off; scores them all.",
    )
    max_growth: float | None = option(
        None, "Exit 1 if a file on disk is larger than the first by more than this, in percent.", metavar="PERCENT"
    )
    dataset: str | None = option(None, "Images to score (default: those it was trained on).", names=DATASETS)
    split: Literal["test", "validation", "train"] = option("test", "Part of the data set.")
    data_dir: Path | None = option(None, "Folder of the data sets (QCAPS_DATA, else ~/.cache/qcaps/data).")
    test_batch_size: int = option(200, "Images per batch; changes speed and memory only.", least=1)
    threads: int | None = option(None, "Compute threads (default: PyTorch's choice).", least=1)
