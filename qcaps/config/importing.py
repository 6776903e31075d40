"""Options of ``qcaps import``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qcaps.config.option import option
from qcaps.registry import DATASETS, PREPARATIONS


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Every option of an import, with its default."""

    model_arg: tuple[str, ...] = option(
        (),
        "A number of the network that its file does not tell, KEY=VALUE, for example height=32; may be repeated.",
        metavar="KEY=VALUE",
    )
    dataset: str | None = option(
        None, "Images the network was trained on (default: no data set of ours).", names=DATASETS
    )
    preparation: str | None = option(
        None, "What is done to the images of the network (default: what its source does).", names=PREPARATIONS
    )
    data_dir: Path | None = option(
        None, "Folder of the data sets, for a preparation with their statistics (QCAPS_DATA, else ~/.cache/qcaps/data)."
    )
    out: Path | None = option(None, "Output folder (default: runs/<file>-import).")
