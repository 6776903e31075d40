"""Let a process of its own read what qcaps has no reader of its own for, with little memory and little time.

PyTorch's files from before version 1.6 go through torch's weights-only reader, Keras files through the HDF5
library. Should either be led astray by a file, it happens in there.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import qcaps
from qcaps.errors import QcapsError
from qcaps.importers.handover import Contents, write_contents, write_refusal

ConfinedFormat = Literal["pytorch-legacy", "keras-h5"]

# Beside twice the bytes of the file.
SPARE_MEMORY = 200_000_000
# Files are read at more than a hundred megabytes in a second; the rest is for starting, which may have to wait.
_LEAST_SECONDS = 60
_LEAST_CPU_SECONDS = 15
_BYTES_PER_SECOND = 5_000_000
# The same search path as here, and nothing of the surroundings: no working folder, no user's start-up files.
_START = f"import sys, json; sys.path[:] = json.loads(sys.argv[1]); from {__name__} import main; main(*sys.argv[2:])"


def run_confined(path: Path, found: ConfinedFormat, folder: Path) -> None:
    """Read a file in a process of its own, which leaves its contents or a refusal in `folder`.

    Raises
    ------
    subprocess.TimeoutExpired
        If it takes far too long. A crash leaves the folder incomplete.
    """
    search = [str(Path(qcaps.__file__).parents[1]), *(entry for entry in sys.path if entry)]
    command = [sys.executable, "-I", "-c", _START, json.dumps(search), str(path.absolute()), found, str(folder)]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HDF5_PLUGIN_PRELOAD": "::"}
    subprocess.run(  # noqa: S603  # the interpreter itself, with our own code
        command,
        cwd=folder,
        env=surroundings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=_LEAST_SECONDS + path.stat().st_size // _BYTES_PER_SECOND,
        check=False,
    )


def main(path: str, found: str, folder: str) -> None:
    """Read a file inside the confined process."""
    read = _reader(found)
    confine(Path(path).stat().st_size)
    try:
        write_contents(Path(folder), read(Path(path)))
    except QcapsError as error:
        write_refusal(Path(folder), error.what)
    except MemoryError:
        write_refusal(Path(folder), "the file asks for far more memory than its size allows")
    except Exception:
        write_refusal(Path(folder), "the file is damaged, or holds something else than plain tensors")


def _reader(found: str) -> Callable[[Path], Contents]:
    """Import the reader of a format, before the limits: libraries need more memory than files."""
    if found == "keras-h5":
        from qcaps.importers.keras_h5 import read_keras_h5

        return read_keras_h5
    from qcaps.importers.torch_legacy import read_torch_legacy

    return read_torch_legacy


def confine(file_bytes: int) -> None:
    """Limit this process for good: memory and time by the size of the file, no core dump, no large output."""
    seconds = _LEAST_CPU_SECONDS + file_bytes // _BYTES_PER_SECOND
    limits = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: file_bytes + SPARE_MEMORY}
    if sys.platform == "linux":  # elsewhere the kernel counts address space differently, or not at all
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + 2 * file_bytes + SPARE_MEMORY
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
