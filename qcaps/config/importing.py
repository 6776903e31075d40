"""Options of ``qcaps import``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qcaps.config.option import option
from qcaps.registry import DATASETS


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
    divisor: int | None = option(
        None,
        "The network takes 8-bit pixels divided by this, 255 or 256 (default: as its source does).",
        least=255,
        most=256,
    )
    out: Path | None = option(None, "Output folder (default: runs/<file>-import).")
