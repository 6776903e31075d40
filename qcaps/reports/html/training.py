"""The record of a training as charts, and as a page of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcaps.evaluation.cost import StageCost
from qcaps.reports.html.charts import Chart, Mark, Point, Series, linear_axis
from qcaps.reports.html.rendering import render
from qcaps.reports.inspection import shape_text
from qcaps.training.state import EpochRecord

# So many epochs have a mark each.
MOST_MARKS = 40


@dataclass(frozen=True)
class TrainingFacts:
    """What is known of a training.

    Parameters
    ----------
    file, model, dataset
        The checkpoint, its architecture and its images.
    parameters, stages
        Values to train, and the cost of every stage.
    history, best_epoch
        All epochs, and which of them the checkpoint is.
    options, versions
        Of the run.
    """

    file: str
    model: str
    dataset: str
    parameters: int
    stages: tuple[StageCost, ...]
    history: tuple[EpochRecord, ...]
    best_epoch: int
    options: Mapping[str, object]
    versions: Mapping[str, str]


def training_page(facts: TrainingFacts) -> str:
    """Write the page of a training."""
    best = next(epoch for epoch in facts.history if epoch.epoch == facts.best_epoch)
    return render(
        "training.html",
        {
            "title": f"Trained: {facts.model} on {facts.dataset}",
            "kind": "Training",
            "good": None,
            "heading": f"{facts.model} on {facts.dataset}",
            "message": f"Epoch {best.epoch} of {len(facts.history)} recognises {best.validation_correct:,} of "
            f"{best.validation_images:,} validation images. The test images stay unseen.",
            "facts": facts,
            "best": best,
            "charts": training_charts(facts.history, facts.best_epoch),
            "epochs": [epoch_row(epoch) for epoch in facts.history],
            "options": {name.replace("_", "-"): option_text(value) for name, value in facts.options.items()},
            "stages": [
                (one.name, " + ".join(map(shape_text, one.outputs)), f"{one.parameters:,}", f"{one.macs:,}")
                for one in facts.stages
            ],
        },
    )


def option_text(value: object) -> str:
    """Write the value of an option as people do; what was not given is left empty."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def epoch_row(epoch: EpochRecord) -> Sequence[str]:
    """Give the figures of an epoch as text."""
    accuracy = f"{100 * epoch.validation_correct / epoch.validation_images:.2f} %"
    losses = f"{epoch.class_loss:.5f}", f"{epoch.reconstruction_loss:.3f}"
    return str(epoch.epoch), *losses, accuracy, f"{epoch.lr:.3g}"


def training_charts(history: Sequence[EpochRecord], best_epoch: int) -> list[Chart]:
    """Draw accuracy, losses and learning rate against epochs; a loss that is always 0 is left out."""
    if not history:
        return []
    curves: dict[str, tuple[str, list[float]]] = {
        "accuracy": (
            "validation accuracy [%]",
            [100 * epoch.validation_correct / epoch.validation_images for epoch in history],
        ),
        "class-loss": ("class loss of an image", [epoch.class_loss for epoch in history]),
        "reconstruction-loss": (
            "reconstruction loss of an image",
            [epoch.reconstruction_loss for epoch in history],
        ),
        "learning-rate": ("learning rate", [epoch.lr for epoch in history]),
    }
    epochs = [epoch.epoch for epoch in history]
    further = {"accuracy": tuple(_accuracy(name, history) for name in history[0].also)}
    return [
        _curve(name, label, epochs, values, best_epoch, further.get(name, ()))
        for name, (label, values) in curves.items()
        if any(values)
    ]


def _accuracy(name: str, history: Sequence[EpochRecord]) -> Series:
    """Draw the accuracy on a further data set, which chooses nothing."""
    scores = [(epoch.epoch, 100 * epoch.also[name].correct / epoch.also[name].images) for epoch in history]
    points = tuple(Point(epoch, score, f"epoch {epoch}, {name}: {score:.2f}") for epoch, score in scores)
    return Series(name, "b", points, mark="ring", line="straight")


def _curve(
    name: str,
    label: str,
    epochs: Sequence[int],
    values: Sequence[float],
    best_epoch: int,
    further: Sequence[Series],
) -> Chart:
    points = tuple(
        Point(epoch, value, f"epoch {epoch}: {value:.6g}") for epoch, value in zip(epochs, values, strict=True)
    )
    mark: Mark = "circle" if len(points) <= MOST_MARKS else ""
    series = [Series(label.split(" [")[0], "a", points, mark=mark, line="straight")]
    if name == "accuracy":
        best = tuple(point for point in points if point.x == best_epoch)
        series.append(Series("epoch that is kept", "c", best, mark="square"))
    shown = [*values, *(point.y for one in further for point in one.points)]
    return Chart(
        name=f"{name}-chart",
        title=label.split(" [")[0].capitalize(),
        description=f"From {values[0]:.4g} in epoch {epochs[0]} to {values[-1]:.4g} in epoch {epochs[-1]}.",
        x=linear_axis("epoch", epochs, whole=True),
        y=linear_axis(label, shown, low=None if name == "accuracy" else 0),
        series=(*(one for one in series if one.points), *further),
    )
