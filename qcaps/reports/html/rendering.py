"""Templates filled with data: text is escaped wherever it comes from."""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qcaps.config.sizes import format_size
from qcaps.errors import one_line
from qcaps.reports.markdown_table import percent, points

# What every section of a page begins with, written by the macro of that name alone.
SECTION = re.compile(r'<section id="([^"]+)">\s*<h2>(.*?)</h2>', re.DOTALL)


def render(template: str, values: Mapping[str, object]) -> str:
    """Fill a template of ``qcaps/reports/html/templates``.

    Parameters
    ----------
    template
        Its file name.
    values
        What it speaks of; a name that is missing is an error.
    """
    return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("qcaps", "reports/html/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: one_line(value) if type(value) is str else value,
    )
    environment.filters |= {
        "size": lambda value: format_size(round(value)),
        "percent": percent,
        "points": points,
        "number": lambda value: f"{value:,}",
        "picture": _picture,
        "contents": _contents,
    }
    return environment


def _picture(png: bytes) -> str:
    """Write a picture so that the page holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _contents(page: Markup) -> list[tuple[str, Markup]]:
    """List the sections of a page: identifier and heading."""
    return [(name, Markup(heading.strip())) for name, heading in SECTION.findall(page)]  # noqa: S704  # from the page
