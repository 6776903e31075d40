"""Make capsule networks small, and prove it.

One call per verb, with the option names of the command: ``qcaps.train(dataset="digits", epochs=5)``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qcaps.quantization.loading import load
    from qcaps.recipe.runner import run
    from qcaps.verbs.compare import compare
    from qcaps.verbs.evaluate import evaluate
    from qcaps.verbs.importing import import_checkpoint
    from qcaps.verbs.inspect import inspect
    from qcaps.verbs.prune import prune
    from qcaps.verbs.quantize import quantize
    from qcaps.verbs.train import train
    from qcaps.verbs.verify import verify

__version__ = "0.1.0"

# Loaded on first use, so that `import qcaps` and `qcaps --help` need no torch.
_TARGETS = {
    "compare": "qcaps.verbs.compare",
    "evaluate": "qcaps.verbs.evaluate",
    "import_checkpoint": "qcaps.verbs.importing",
    "inspect": "qcaps.verbs.inspect",
    "load": "qcaps.quantization.loading",
    "prune": "qcaps.verbs.prune",
    "quantize": "qcaps.verbs.quantize",
    "run": "qcaps.recipe.runner",
    "train": "qcaps.verbs.train",
    "verify": "qcaps.verbs.verify",
}

__all__ = ["compare", "evaluate", "import_checkpoint", "inspect", "load", "prune", "quantize", "run", "train", "verify"]


def __getattr__(name: str) -> object:
    if name not in _TARGETS:
        raise AttributeError(f"module 'qcaps' has no attribute {name!r}")
    return getattr(importlib.import_module(_TARGETS[name]), name)
