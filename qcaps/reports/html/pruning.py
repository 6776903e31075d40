"""The report of a pruning as a page."""

from __future__ import annotations

from qcaps.reports.html.charts import Chart, Look, Mark, Point, Series, linear_axis
from qcaps.reports.html.images import image_views
from qcaps.reports.html.rendering import render
from qcaps.reports.html.training import epoch_row, option_text, training_charts
from qcaps.reports.pictures import Pictures
from qcaps.reports.pruning import FinalistRow, PruningReport
from qcaps.reports.pruning_figures import (
    COST_HEAD,
    FINALIST_HEAD,
    LATENCY_HEAD,
    accuracy_head,
    accuracy_rows,
    cost_rows,
    finalist_rows,
    input_rows,
    latency_rows,
    search_facts_rows,
)


def pruning_page(report: PruningReport, pictures: Pictures) -> str:
    """Write the page of a report.

    Parameters
    ----------
    report
        All numbers.
    pictures
        Of the images that it names.
    """
    winner = next(row for row in report.finalists if row.won)
    return render(
        "pruning.html",
        {
            "title": report.message,
            "kind": f"Pruning of {report.inputs.get('checkpoint', 'a checkpoint')}",
            "good": None,
            "heading": "Pruned",
            "message": report.message.removeprefix("pruned: "),
            "report": report,
            "before": report.milestones[0].test,
            "after": report.milestones[-1].test,
            "accuracy_head": accuracy_head(report),
            "accuracy": list(accuracy_rows(report)),
            "cost_head": COST_HEAD,
            "cost": list(cost_rows(report.cost)),
            "latency_head": LATENCY_HEAD,
            "latency": latency_rows(report),
            "winner": winner,
            "others": [row for row in report.finalists if not row.won],
            "most_macs": max(layer.macs.before for layer in report.layers),
            "finalist_head": FINALIST_HEAD,
            "finalists": list(finalist_rows(report)),
            "scores": score_chart(report) if len(report.finalists) > 1 else None,
            "charts": training_charts(report.history, winner.best_epoch),
            "epochs": [epoch_row(epoch) for epoch in report.history],
            "images": image_views(report.images, pictures),
            "finetuning": {name.replace("_", " "): option_text(value) for name, value in report.finetuning.items()},
            "search": search_facts_rows(report),
            "inputs": input_rows(report),
        },
    )


def score_chart(report: PruningReport) -> Chart:
    """Draw the score of every finalist against what fine-tuning made of it."""
    scores = {row.number: row.score for row in report.search.ranked}

    def series(name: str, look: Look, mark: Mark, *, won: bool) -> Series:
        points = (_finalist(row, scores[row.number]) for row in report.finalists if row.won is won)
        return Series(name, look, tuple(points), mark=mark)

    found = report.rank_correlation
    drawn = (series("the winner", "a", "square", won=True), series("other finalists", "b", "circle", won=False))
    points = [point for one in drawn for point in one.points]
    return Chart(
        name="score-chart",
        title="Finalists: score before fine-tuning against accuracy after it",
        description="There is no order to compare." if found is None else f"The rank correlation is {found:+.2f}.",
        x=linear_axis(f"score ({report.search.criterion}), less is better", [point.x for point in points]),
        y=linear_axis("validation accuracy [%]", [point.y for point in points]),
        series=drawn,
    )


def _finalist(row: FinalistRow, score: float) -> Point:
    accuracy = 100 * row.correct / row.images
    return Point(score, accuracy, f"candidate {row.number}: score {score:.6g}, {accuracy:.2f} % after fine-tuning")
