"""The picture of a pruning: what is kept of every layer, and whether scores foresaw what fine-tuning made of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from qcaps.reports.pruning import FinalistRow, PruningReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Apart for colour-blind readers and in grey print (Okabe and Ito).
WON, OTHERS, GONE = "#0072b2", "#e69f00", "#d9d9d9"
MARKERS = "osD^vP*X"
FONT_SIZE = 8.0
INCHES_PER_UNIT, LEAST_INCHES, SECOND_INCHES, HEIGHT = 0.22, 5.5, 3.5, 4.2


def strategies_svg(report: PruningReport) -> bytes:
    """Draw the kept share of every kind of unit, and scores against accuracies of the finalists: ``strategies.svg``.

    Notes
    -----
    The numbers are those of report.json and candidates.csv. The same report gives the same bytes.
    """
    import matplotlib as mpl

    buffer = io.BytesIO()
    style = {"svg.hashsalt": "qcaps", "svg.fonttype": "none", "font.size": FONT_SIZE, "text.parse_math": False}
    with mpl.rc_context(cast("Any", style)):
        draw_strategies(report).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def draw_strategies(report: PruningReport) -> Figure:
    """Draw one chart, or two where finalists can be compared."""
    from matplotlib.figure import Figure

    several = len(report.finalists) > 1
    inches = (max(LEAST_INCHES, INCHES_PER_UNIT * len(report.widths)), SECOND_INCHES)[: 1 + several]
    figure = Figure(figsize=(sum(inches), HEIGHT), layout="constrained")
    axes = figure.subplots(1, len(inches), squeeze=False, width_ratios=inches)[0]
    _draw_shares(axes[0], report)
    if several:
        _draw_scores(axes[1], report)
    figure.suptitle(report.message, fontsize=FONT_SIZE)
    return figure


def _draw_shares(axes: Axes, report: PruningReport) -> None:
    """Draw a bar for every kind of unit, and a line for every other finalist."""
    places = range(len(report.widths))
    winner = next(row for row in report.finalists if row.won)
    axes.bar(places, [1.0] * len(report.widths), color=GONE, label="before")
    kept = [width.kept / width.before for width in report.widths]
    axes.bar(places, kept, color=WON, width=0.6, label=f"candidate {winner.number}, the winner")
    for marker, row in zip(MARKERS, _others(report.finalists), strict=False):
        shares = [row.widths[width.unit] / width.before for width in report.widths]
        label = f"candidate {row.number}"
        axes.plot(places, shares, color=OTHERS, marker=marker, markersize=4, linewidth=0.8, label=label)
    for place, width in zip(places, report.widths, strict=True):
        axes.text(place, 1.03, f"{width.kept}/{width.before}", ha="center", va="bottom", rotation=90, fontsize=6)
    axes.set_xticks(places, [width.unit for width in report.widths], rotation=90)
    axes.set_xlim(-0.6, len(report.widths) - 0.4)
    axes.set_ylim(0, 1.3)
    axes.set_ylabel("share of the units kept")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=7, frameon=False)


def _draw_scores(axes: Axes, report: PruningReport) -> None:
    """Draw the score of every finalist against its accuracy after fine-tuning."""
    scores = {row.number: row.score for row in report.search.ranked}
    (winner,) = (row for row in report.finalists if row.won)
    for marker, row in [*zip(MARKERS, _others(report.finalists), strict=False), ("p", winner)]:
        accuracy = 100 * row.correct / row.images
        axes.plot(scores[row.number], accuracy, color=WON if row.won else OTHERS, marker=marker, linestyle="none")
        axes.annotate(str(row.number), (scores[row.number], accuracy), xytext=(4, 4), textcoords="offset points")
    axes.margins(0.15)
    axes.ticklabel_format(useOffset=False)
    axes.locator_params(axis="x", nbins=4)
    found = report.rank_correlation
    axes.set_title("no order to compare" if found is None else f"rank correlation {found:+.2f}", fontsize=FONT_SIZE)
    axes.set_xlabel(f"score before fine-tuning ({report.search.criterion}, less is better)")
    axes.set_ylabel("validation accuracy after it [%]")


def _others(rows: Sequence[FinalistRow]) -> list[FinalistRow]:
    return [row for row in rows if not row.won]
