"""Files that ship with qcaps: recipes and pretrained checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import qcaps
from qcaps.errors import UsageError

DEFAULT_CHECKPOINT = "efficient_capsnet_digits.pt"


def bundled_folder(kind: Literal["recipes", "pretrained"]) -> Path:
    """Give the folder of the shipped files: inside an installed package, or at the top of a checkout."""
    package = Path(qcaps.__file__).resolve().parent
    installed = package / "bundled" / kind
    return installed if installed.is_dir() else package.parent / kind


def find_checkpoint(path: Path | None) -> Path:
    """Find a checkpoint: a path, else the name of a shipped one, else (for None) the shipped default.

    Raises
    ------
    UsageError
        If there is no such file.
    """
    # Unlike those of Path, these two answer no to a name that is too long or may not be looked up.
    if path is not None and os.path.exists(path):
        return path
    shipped = bundled_folder("pretrained")
    name = DEFAULT_CHECKPOINT if path is None else path.name
    # `pretrained/x.pt` names a shipped file from any folder.
    if (path is None or path.parent in {Path(), Path("pretrained")}) and os.path.isfile(shipped / name):
        return shipped / name
    known = ", ".join(sorted(p.name for p in shipped.glob("*.pt"))) or "none"
    raise UsageError("there is no such file", where=str(path), do=f"shipped checkpoints are: {known}")
