"""A search that ``torchrun`` spreads over processes: each writes down what it has in the end."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from toy_search import toy_bench, toy_subject, toy_task

from qcaps.distributed import from_all, from_first, joined, process_count, process_index
from qcaps.quantization.search.pareto import search_pareto
from qcaps.quantization.search.task import run_search


def search(folder: Path) -> dict[str, object]:
    """Search with a journal in a folder; give plain data of everything that comes out."""
    with toy_bench(folder if process_index() == 0 else None, memory_bytes=10**8) as bench:
        task = toy_task(bench, toy_subject(rounding="stochastic_rounding"), allowed=30, widths=(2, 4, 8))
        found = run_search(search_pareto, task)
    return {
        "tried": [[t.phase, dict(t.widths), repr(t.judgement)] for t in found.tried],
        "scores": {group: {str(bits): s for bits, s in of_group.items()} for group, of_group in found.scores.items()},
        "files": {name: hashlib.sha256(trial.file).hexdigest() for name, trial in found.by_file().items()},
        "image-forwards": bench.ledger.image_forwards,
    }


def main(folder: Path) -> None:
    """Work together, and write a file for every process."""
    with joined():
        place, count = process_index(), process_count()
        met = {"count": count, "first": from_first(f"from {place}"), "all": from_all(f"from {place}")}
        found = search(folder)
    (folder / f"{place}.json").write_text(json.dumps({"met": met, "alone again": process_count(), "found": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
