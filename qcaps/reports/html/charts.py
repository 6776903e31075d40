"""Charts as numbers that a template draws: in the colours of the page, with a title at every mark.

A chart of matplotlib has its colours burnt in; these follow the reader's colour scheme.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

# Pixels of the drawing, which scales with the page: the whole, and the room around the axes.
WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 72, 14, 12, 46
MOST_TICKS = 6

Look = Literal["a", "b", "c", "d"]
Mark = Literal["", "circle", "ring", "triangle", "square", "cross"]
Text = Callable[[float], str]


@dataclass(frozen=True)
class Axis:
    """One axis: what it shows, its ends, and the values that are written beside it."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Tell how far along the axis a value lies, from 0 to 1; what lies outside is drawn at the end."""
        if self.high <= self.low:  # one value alone has no range
            return 0.5
        low, high, at = self.low, self.high, value
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(max(value, self.low))
        return min(max((at - low) / (high - low), 0.0), 1.0)


@dataclass(frozen=True)
class Point:
    """One value; `title` is told to whoever points at its mark, `error` are the ends of its interval."""

    x: float
    y: float
    title: str = ""
    error: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    """Values of one kind: their look, their mark, and whether a line joins them, in steps perhaps."""

    name: str
    look: Look
    points: tuple[Point, ...]
    mark: Mark = ""
    line: Literal["", "straight", "steps"] = ""


@dataclass(frozen=True)
class Limit:
    """A line across the chart at a value of one axis."""

    name: str
    axis: Literal["x", "y"]
    value: float


@dataclass(frozen=True)
class Chart:
    """A chart.

    Parameters
    ----------
    name
        Unique on the page.
    title, description
        What it shows, and its main numbers for those who do not see it.
    x, y, series, limits
        What is drawn.
    allowed
        Upper end along x and lower end along y of what is asked for, shaded; None for nothing.
    """

    name: str
    title: str
    description: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    limits: tuple[Limit, ...] = ()
    allowed: tuple[float, float] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Give width and height of the drawing."""
        return WIDTH, HEIGHT

    @property
    def frame(self) -> tuple[int, int, int, int]:
        """Give the pixels from the left or the upper edge to the left, right, upper and lower end of the axes."""
        return LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM

    def left(self, value: float) -> float:
        """Give the pixels from the left edge to a value of x."""
        return round(LEFT + self.x.share(value) * (WIDTH - LEFT - RIGHT), 1)

    def top(self, value: float) -> float:
        """Give the pixels from the upper edge to a value of y."""
        return round(TOP + (1 - self.y.share(value)) * (HEIGHT - TOP - BOTTOM), 1)

    def path(self, series: Series) -> str:
        """Write the line of a series as the path of an SVG."""
        places = [(self.left(point.x), self.top(point.y)) for point in series.points]
        parts = [f"M{places[0][0]:g} {places[0][1]:g}"] if places else []
        for x, y in places[1:]:
            parts.append(f"H{x:g}V{y:g}" if series.line == "steps" else f"L{x:g} {y:g}")
        return "".join(parts)


def linear_axis(
    label: str, values: Iterable[float], *, text: Text = "{:g}".format, low: float | None = None, whole: bool = False
) -> Axis:
    """Make an axis that holds some values and ends at round numbers.

    Parameters
    ----------
    label, values
        What it shows; not finite values are left out.
    text
        Writes a tick.
    low
        Where it begins, if not at the round number below the least value.
    whole
        Whether only whole numbers have ticks.
    """
    known = [value for value in values if math.isfinite(value)] or [0.0]
    least, most = min([*known, *([] if low is None else [low])]), max(known)
    if least == most:
        least, most = least - (abs(least) * 0.1 or 1.0) * (low is None), most + (abs(most) * 0.1 or 1.0)
    step = _round_step((most - least) / MOST_TICKS)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
    ticks = tuple((number * step, text(round(number * step, 12))) for number in range(first, last + 1))
    return Axis(label, first * step, last * step, ticks)


def log_axis(label: str, values: Iterable[float], *, text: Text = "{:g}".format) -> Axis:
    """Make a logarithmic axis that holds some positive values, a little room around them."""
    known = [value for value in values if value > 0] or [1.0]
    low, high = min(known) / 1.15, max(known) * 1.15
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**decade for digit in (1, 3, 2, 5, 1.5, 7, 4, 6, 8) for decade in decades]
    room, shown = math.log(high / low) / MOST_TICKS, list[float]()
    for tick in ticks:  # the roundest first, others where there is room
        if low <= tick <= high and all(abs(math.log(tick / other)) >= room for other in shown):
            shown.append(tick)
    return Axis(label, low, high, tuple((tick, text(tick)) for tick in sorted(shown)), logarithmic=True)


def histogram(counts: Sequence[int]) -> tuple[Point, ...]:
    """Give the outline of a histogram on [0, 1], as shares of all that was counted, drawn in steps."""
    total, width = max(sum(counts), 1), 1 / len(counts)
    return tuple(Point(place * width, counts[min(place, len(counts) - 1)] / total) for place in range(len(counts) + 1))


def _round_step(least: float) -> float:
    """Give the least of 1, 2, 5, 10, … that is not below."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least * (1 - 1e-9))
