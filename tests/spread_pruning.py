"""A search for a pruned network that ``torchrun`` spreads over processes: each writes down what it has in the end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from toy_pruning import plain, searched

from qcaps.distributed import joined, process_index


def main(folder: Path) -> None:
    """Work together, and write a file for every process."""
    with joined():
        place = process_index()
        # An odd number of draws, so that the last of them finds one process without any.
        found = searched(folder=None if place else folder, candidates=5)
    (folder / f"{place}.json").write_text(json.dumps(plain(found)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
