"""The table of all candidates of a pruning for other programs, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from qcaps.pruning.candidates import Candidate

COLUMNS = ("number", "origin", "rank", "score", "error", "top1", "choosing_correct")


def candidates_csv(ranked: Sequence[Candidate], correct: Mapping[int, int]) -> str:
    """List every candidate, best first, with its strategy: ``candidates.csv``.

    Parameters
    ----------
    ranked
        Best first; `error` is the standard error of a score's difference to the first.
    correct
        Number of a candidate that was fine-tuned → choosing images that it then recognises.
    """
    kinds = sorted({kind for one in ranked for kind in one.shares})
    units = tuple(ranked[0].widths) if ranked else ()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COLUMNS, *kinds, *units))
    for rank, one in enumerate(ranked, start=1):
        error = one.score.error_against(ranked[0].score)
        scored = (one.number, one.origin, rank, f"{one.score.mean:.6g}", f"{error:.3g}", f"{one.score.top1:.6g}")
        shares = (f"{one.shares[kind]:.6g}" for kind in kinds)
        writer.writerow((*scored, correct.get(one.number, ""), *shares, *(one.widths[unit] for unit in units)))
    return text.getvalue()
