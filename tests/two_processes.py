"""Run one of the scripts beside this file as `torchrun` does, in two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def in_two_processes(script: str, folder: Path) -> list[dict]:
    """Give what each process wrote down: ``0.json`` and ``1.json`` in the folder."""
    here = Path(__file__).parent
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", here / script, folder],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(here), os.environ.get("PYTHONPATH", "")))},
        check=True,
        timeout=300,
        capture_output=True,
    )
    return [json.loads((folder / f"{place}.json").read_text()) for place in (0, 1)]
