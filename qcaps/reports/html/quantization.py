"""The report of a quantization as a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from qcaps.config.sizes import format_size
from qcaps.reports.figures import (
    class_rows,
    figure_rows,
    routing_rows,
    search_facts_rows,
    search_rows,
    uniform_sentence,
)
from qcaps.reports.html.charts import Chart, Limit, Point, Series, linear_axis, log_axis
from qcaps.reports.html.images import image_views
from qcaps.reports.html.rendering import render
from qcaps.reports.pictures import Pictures
from qcaps.reports.promises import promise_row
from qcaps.reports.quantization import Layer, QuantizationReport
from qcaps.reports.search_facts import Sensitivity, TriedPlan

# Of an image; less than that is shown as 0.
LEAST_SHOWN = 0.05
GROUPS = {"weights": "Weights", "activations": "Activations", "routing": "Routing"}


@dataclass(frozen=True)
class LayerBars:
    """The sites of one group, with the widest of them and the largest in float as measures of their bars."""

    title: str
    layers: tuple[Layer, ...]
    bytes: float
    float_bytes: float
    most_bits: int
    most_bytes: int


@dataclass(frozen=True)
class HeatCell:
    """What a width does to a group alone: images lost, how hot that is from 0 to 1, measured or not, chosen or not."""

    losses: float | None
    heat: float
    measured: bool
    chosen: bool


def quantization_page(report: QuantizationReport, pictures: Pictures) -> str:
    """Write the page of a report.

    Parameters
    ----------
    report
        All numbers.
    pictures
        Of the images that it names.
    """
    model = report.result[0]
    return render(
        "quantization.html",
        {
            "title": f"{report.verdict}: {model.file}",
            "kind": f"Quantization of {report.inputs.get('checkpoint', 'a checkpoint')}",
            "good": report.verdict == "satisfied",
            "heading": report.verdict[:1].upper() + report.verdict[1:],
            "message": report.message.removeprefix(f"{report.verdict}: "),
            "report": report,
            "model": model,
            "files": [one.file for one in report.result],
            "promises": [promise_row(one) for one in report.promises],
            "figures": figure_rows(report),
            "bars": layer_bars(report.layers),
            "rest": float(model.payload_bytes - sum(one.bytes for one in report.layers if one.group == "weights")),
            "pareto": pareto_chart(report),
            "widths": shown_widths(report.sensitivity),
            "heat": [(one, heat_cells(report.sensitivity, one)) for one in report.sensitivity],
            "uniform": uniform_sentence(report.uniform_routing),
            "routing": routing_rows(report.routing),
            "classes": class_rows(report.result),
            "searches": search_rows(report),
            "search": search_facts_rows(report.search),
            "images": image_views(report.images, pictures),
        },
    )


def layer_bars(layers: Sequence[Layer]) -> list[LayerBars]:
    """Group the sites: weights, activations, routing."""
    found = []
    for group, title in GROUPS.items():
        mine = tuple(one for one in layers if one.group == group)
        if mine:
            sizes = [4 * one.values for one in mine]
            total = sum(one.bytes for one in mine)
            most_bits = max(one.bits for one in mine)
            found.append(LayerBars(title, mine, total, sum(sizes), most_bits, max(sizes)))
    return found


def shown_widths(rows: Sequence[Sensitivity]) -> list[int]:
    """List the widths up to the last one that matters: that is chosen somewhere, or still loses something."""
    every = sorted({bits for one in rows for bits in one.losses})
    matter = [bits for one in rows for bits, loss in one.losses.items() if bits in one.chosen or loss >= LEAST_SHOWN]
    return [bits for bits in every if bits <= max(matter, default=every[-1])] if every else []


def heat_cells(rows: Sequence[Sensitivity], row: Sensitivity) -> list[HeatCell]:
    """Give the cells of one group, hot as in no other."""
    most = max((loss for one in rows for loss in one.losses.values()), default=0.0) or 1.0

    def cell(bits: int) -> HeatCell:
        losses = row.losses.get(bits)
        heat = 0.0 if losses is None else (max(losses, 0.0) / most) ** 0.5
        return HeatCell(losses, heat, bits in row.measured, bits in row.chosen)

    return [cell(bits) for bits in shown_widths(rows)]


def pareto_chart(report: QuantizationReport) -> Chart | None:
    """Draw accuracy over bytes of every plan that was tried; None if there is none."""
    plans, base = report.candidates, report.baseline["search"]
    if not plans:
        return None
    floor = base.correct - report.result[0].search.allowed / len(report.search.seeds)
    points = [(plan, _point(report, plan)) for plan in plans]
    whole = [(plan, point) for plan, point in points if plan.seen == base.images]
    front = _front([point for plan, point in whole])
    chosen = tuple(point for plan, point in points if plan.chosen)[-1:]
    budgets = [one.limit for one in report.promises if one.unit == "bytes" and one.name.startswith("memory")]
    on_file = any(one.name == "memory budget (file)" for one in report.promises)
    beside = report.result[0].file_bytes - report.result[0].payload_bytes if on_file else 0
    x_values = [float(plan.payload_bytes) for plan in plans] + [max(limit - beside, 1) for limit in budgets]
    lowest = 100 * floor / base.images
    limits = [Limit("accuracy asked for", "y", lowest), *(Limit("budget", "x", max(b - beside, 1)) for b in budgets)]
    x = log_axis("weight payload", x_values, text=lambda value: format_size(round(value)).replace(".000", ""))
    y = linear_axis(f"accuracy, {base.split} [%]", [lowest, 100 * base.accuracy, *(point.y for _, point in points)])
    series = (
        Series("all images seen, passed", "a", _of(whole, passed=True), mark="circle"),
        Series("all images seen, failed", "b", _of(whole, passed=False), mark="cross"),
        Series(
            "ended early: at most this accuracy",
            "d",
            tuple(point for plan, point in points if plan.seen < base.images),
            mark="triangle",
        ),
        Series("nothing smaller is as accurate", "a", tuple(front), line="steps"),
        Series(f"{report.result[0].file}, with its 95 % interval", "c", _with_interval(report, chosen), mark="square"),
    )
    return Chart(
        name="pareto-chart",
        title=f"{len(plans):,} plans tried on {base.images:,} {base.split} images",
        description=f"{sum(plan.passed for plan in plans)} plans passed; the smallest front point has "
        f"{format_size(round(min((point.x for point in front), default=0)))}.",
        x=x,
        y=y,
        series=tuple(one for one in series if one.points),
        limits=tuple(limits),
        allowed=(min([x.high, *(limit.value for limit in limits if limit.axis == "x")]), lowest),
    )


def _point(report: QuantizationReport, plan: TriedPlan) -> Point:
    """Place a plan; where not all images were seen, the rest counts as unchanged."""
    base, model = report.baseline["search"], report.result[0]
    seeds = len(report.search.seeds)
    accuracy = 100 * (seeds * base.correct - plan.lost + plan.gained) / (seeds * base.images)
    weight_bits = model.weight_bits * plan.payload_bytes / model.payload_bytes
    array_bits = model.activation_bits * plan.activation_bytes / model.activation_bytes
    title = (
        f"{plan.rounding}, {plan.phase}: {format_size(plan.payload_bytes)}, {weight_bits:.2f} bits a weight, "
        f"{array_bits:.2f} an activation; -{plan.lost} / +{plan.gained} in {plan.seen:,} images"
    )
    return Point(plan.payload_bytes, accuracy, title)


def _of(points: Sequence[tuple[TriedPlan, Point]], *, passed: bool) -> tuple[Point, ...]:
    return tuple(point for plan, point in points if plan.passed is passed)


def _front(points: Sequence[Point]) -> list[Point]:
    """Leave the points that no other one beats in both, from the smallest to the most accurate."""
    found: list[Point] = []
    for point in sorted(points, key=lambda one: (one.x, -one.y)):
        if not found or point.y > found[-1].y:
            found.append(dataclasses.replace(point, title=""))
    return found


def _with_interval(report: QuantizationReport, chosen: tuple[Point, ...]) -> tuple[Point, ...]:
    low, high = report.result[0].search.score.interval
    return tuple(dataclasses.replace(point, error=(100 * low, 100 * high)) for point in chosen)
