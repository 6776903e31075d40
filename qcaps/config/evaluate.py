"""Options of ``qcaps eval``."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

from qcaps.config.option import option, parse_percent
from qcaps.registry import DATASETS


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Every option of an evaluation, with its default."""

    dataset: str | None = option(None, "Images to score (default: those it was trained on).", names=DATASETS)
    split: Literal["test", "validation", "train"] = option("test", "Part of the data set.")
    data_dir: Path | None = option(None, "Folder of the data sets (QCAPS_DATA, else ~/.cache/qcaps/data).")
    test_batch_size: int = option(200, "Images per batch; changes speed and memory only.", least=1)
    seed: int | None = option(None, "Seed of stochastic rounding (default: the artifact's own).", least=0)
    threads: int | None = option(None, "Compute threads (default: PyTorch's choice).", least=1)
    fast: bool = option(
        False,
        "Fold the batch norms of a checkpoint and convolve in bfloat16 where the processor does; a few predictions "
        "may change.",
    )
    min_accuracy: Decimal | None = option(
        None, "Exit 1 if a file recognises less than this, in percent.", parse=parse_percent, metavar="PERCENT"
    )
    predictions: Path | None = option(
        None, "CSV file to write, a line for every image: index, label, prediction, scores.", metavar="FILE"
    )
    ensemble: bool = option(False, "Score the files together as well, by the mean of their class scores.")
    latency: bool = option(True, "Measure the latency of one image and of a batch.")
    decoder_from: Path | None = option(
        None, "Checkpoint whose decoder draws what the capsules still hold (default: the network's own)."
    )
    out: Path | None = option(None, "Folder to write report.html into (default: nothing is written).")
