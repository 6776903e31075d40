"""The report of a recipe as a page: the pages of its steps, one after the other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from qcaps.reports.html.rendering import render

# What pages name by an identifier: themselves, or others.
NAMED = re.compile(r'(?<= )(id|aria-labelledby)="([^"]*)"')
# Parts of a page, between two comments each.
PARTS = ("lead", "promises", "summary", "sections")
HEADING = re.compile(r"<(/?)h([1-3])>")


@dataclass(frozen=True)
class StepPage:
    """A step of a recipe: its name, its exit code, and the page that it wrote, or nothing."""

    name: str
    exit_code: int
    page: str


def run_page(description: str, steps: Sequence[StepPage], resolved: str) -> str:
    """Write the page of a run.

    Parameters
    ----------
    description
        Of the recipe; its name is that of a file, which another run of the same recipe need not share.
    steps
        With the pages that :func:`~qcaps.reports.html.rendering.render` made, which are trusted.
    resolved
        The recipe with every default.
    """
    broken = [step.name for step in steps if step.exit_code]
    promised = broken or any("<!-- promises -->" in step.page for step in steps)
    kept = "Not every promise is kept" if broken else "Every promise is kept"
    return render(
        "run.html",
        {
            "title": description or "Run of a recipe",
            "kind": "Run of a recipe",
            "good": not broken,
            "heading": kept if promised else "Done",
            "message": f"{description} {'See ' + ', '.join(broken) + '.' if broken else ''}".strip(),
            "steps": [
                {
                    "name": step.name,
                    "good": step.exit_code == 0,
                    **{part: _part(step.page, part, f"step{number}") for part in PARTS},
                }
                for number, step in enumerate(steps, start=1)
            ],
            "resolved": resolved,
        },
    )


def _part(page: str, part: str, prefix: str) -> Markup:
    """Take a part out of a page: its identifiers unlike those of other steps, its headings two levels down.

    Text of a page holds neither tags nor quotation marks as they are, so that none of it can be taken for one.
    """
    found = page.partition(f"<!-- {part} -->")[2].partition(f"<!-- /{part} -->")[0]
    found = NAMED.sub(lambda m: f'{m[1]}="{" ".join(f"{prefix}-{name}" for name in m[2].split())}"', found)
    lower = 2 if part == "summary" else 1
    return Markup(HEADING.sub(lambda m: f"<{m[1]}h{int(m[2]) + lower}>", found))  # noqa: S704  # a page of ours
