"""What networks make of the images of a split, as charts and tables of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcaps.reports.html.charts import Chart, Series, histogram, linear_axis
from qcaps.reports.image_facts import ImageFacts, NetworkFacts
from qcaps.reports.markdown_table import percent
from qcaps.reports.pictures import Pictures

# More classes than this make a matrix that nobody reads; the commonest confusions are listed in its place.
MOST_CLASSES, MOST_CONFUSIONS = 20, 20
# Images up to so many pixels high are shown at twice their size.
SMALL = 64


@dataclass(frozen=True)
class MatrixCell:
    """A cell of a confusion matrix: images, their share of the class, and whether they were recognised."""

    images: int
    share: float
    right: bool


def image_views(facts: ImageFacts, pictures: Pictures, *, name: str = "images", of: str = "") -> Mapping[str, object]:
    """Give what ``images.html`` speaks of.

    Parameters
    ----------
    facts, pictures
        Of the images.
    name
        Unique on the page.
    of
        What headings name behind a colon, if there are several networks.
    """
    last, times = facts.networks[-1], 2 if pictures.height <= SMALL else 1
    return {
        "name": name,
        "of": f": {of}" if of else "",
        "facts": facts,
        "pictures": pictures,
        "result": last,
        "width": times * pictures.width,
        "height": times * pictures.height,
        "mean_errors": {
            network: sum(one.errors[network] for one in facts.panel) / len(facts.panel)
            for network in (facts.panel[0].errors if facts.panel else ())
        },
        "lengths": [length_chart(one, facts, f"{name}-lengths-{place}") for place, one in enumerate(facts.networks)]
        if last.lengths is not None
        else [],
        "sentence": confusion_sentence(last, facts),
        "matrices": [(one.name, confusion_matrix(one, facts)) for one in reversed(facts.networks)]
        if len(facts.class_names) <= MOST_CLASSES
        else [],
        "confused": sorted(last.confusions, key=lambda one: -one.images)[:MOST_CONFUSIONS],
    }


def length_chart(network: NetworkFacts, facts: ImageFacts, name: str) -> Chart:
    """Draw how long the capsules of one network are."""
    lengths = network.lengths
    assert lengths is not None
    series = (
        Series("capsule of the label", "a", histogram(lengths.label), line="steps"),
        Series("strongest other capsule", "b", histogram(lengths.strongest_other), line="steps"),
        Series("all other capsules", "c", histogram(lengths.others), line="steps"),
    )
    shares = [point.y for one in series for point in one.points]
    middle = [_median(counts) for counts in (lengths.label, lengths.strongest_other)]
    return Chart(
        name=name,
        title=f"{network.name}, {facts.images:,} {facts.split} images",
        description=f"Half of the labels' capsules have a {facts.score_name} of {middle[0]:.2f} or more, and half of "
        f"the strongest other ones of {middle[1]:.2f} or more.",
        x=linear_axis(f"{facts.score_name} of a class capsule", (0, 1), text="{:.1f}".format),
        y=linear_axis("share of these capsules", shares, text="{:.0%}".format, low=0),
        series=series,
    )


def confusion_matrix(network: NetworkFacts, facts: ImageFacts) -> list[list[MatrixCell]]:
    """Give a row of cells for every class: the images of that class by what they were taken for."""
    classes = range(len(facts.class_names))
    wrong = {(one.label, one.prediction): one.images for one in network.confusions}
    rows = []
    for label in classes:
        missed = sum(wrong.get((label, other), 0) for other in classes)
        right = facts.class_sizes[label] - missed
        counts = [right if other == label else wrong.get((label, other), 0) for other in classes]
        total = max(facts.class_sizes[label], 1)
        rows.append([MatrixCell(count, count / total, other == label) for other, count in enumerate(counts)])
    return rows


def confusion_sentence(network: NetworkFacts, facts: ImageFacts) -> str:
    """Name the commonest confusion."""
    score = percent(network.correct / facts.images)
    if not network.confusions:
        return f"{network.name} recognises every one of {facts.images:,} images."
    most = max(network.confusions, key=lambda one: one.images)
    label, taken = (facts.class_names[place] for place in (most.label, most.prediction))
    times = "once" if most.images == 1 else f"{most.images:,} times"
    return f"{network.name} recognises {score}; most often it takes {label} for {taken}, {times}."


def _median(counts: Sequence[int]) -> float:
    """Give the lower end of the bin in which the upper half begins."""
    above, half = 0, sum(counts) / 2
    for place in range(len(counts) - 1, -1, -1):
        above += counts[place]
        if above >= half:
            return place / len(counts)
    return 0.0
