"""Options of ``qcaps run``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qcaps.config.option import option


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Every option of running a recipe, with its default."""

    data_dir: Path | None = option(None, "Folder of the data sets, for every step.")
    threads: int | None = option(None, "Compute threads, for every step (default: PyTorch's choice).", least=1)
    out: Path | None = option(None, "Output folder (default: runs/<recipe>).")
    fresh: bool = option(False, "Start every step again, even one that was interrupted.")
    reproducible: bool = option(False, "Leave times and the machine out of the reports.")
    dry_run: bool = option(
        False, "Check the recipe, print it with every default and what it will cost, and write nothing."
    )
    print_key: bool = option(False, "Print the key of the recipe and of the files it begins with, for a cache.")
