"""Run a recipe: one verb after the other, each in a folder of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from qcaps.artifacts.writing import atomic_write
from qcaps.config import RunConfig, configure
from qcaps.progress import OnProgress, silent
from qcaps.recipe.chain import Chain
from qcaps.recipe.foresight import check_names, check_promises, cost_lines, predicted_costs
from qcaps.recipe.reading import ReadRecipe, read_recipe
from qcaps.recipe.resolved import recipe_key, resolved
from qcaps.recipe.schema import Recipe
from qcaps.reports.ci import promises_of
from qcaps.reports.html.run import StepPage, run_page
from qcaps.reports.variants import VariantRow, variant_row, variants_csv, variants_lines, variants_markdown
from qcaps.verbs.junit import infeasible_told, write_junit
from qcaps.verbs.outcome import Outcome, make_folder

SCHEMA = "qcaps.run/1"
RESOLVED = "recipe.resolved.yaml"


def run(recipe: str, *changes: str, on_progress: OnProgress = silent, **options: object) -> Outcome:
    """Run every step of a recipe, or of every variant of its matrix.

    Parameters
    ----------
    recipe
        Name of a shipped recipe, or the path of a file.
    changes
        Overrides, ``STEP.KEY=VALUE``.
    on_progress
        Told by every step; phases carry the step's name.
    options
        The fields of :class:`~qcaps.config.RunConfig`.

    Returns
    -------
    Outcome
        Exit code 1 if any step says 1. Each step writes into a folder of its name, those that differ between variants
        into one of the variant; ``recipe.resolved.yaml`` beside them reproduces the run.

    Raises
    ------
    RecipeError
        With all that is wrong with the recipe; nothing was computed.
    InfeasibleError
        If a budget is below what arithmetic allows; nothing was computed.
    UsageError, ArtifactError, StoppedError
        From a step; later steps do not run.
    """
    config = configure(RunConfig, options)
    read = read_recipe(recipe, changes)
    text = resolved(read.base, read.matrix)
    document: dict[str, object] = {"schema": SCHEMA, "recipe": read.name}
    if config.print_key:
        key = recipe_key(text, read.base)
        return Outcome(0, (), {**document, "key": key}, (key,))
    check_names(read.variants.values(), source=read.name, data_dir=config.data_dir)
    with infeasible_told(config.out):
        for variant in read.variants.values():
            check_promises(variant, config.data_dir)
    if config.dry_run:
        costs = predicted_costs(read.variants, config)
        told = [dataclasses.asdict(cost) for cost in costs]
        return Outcome(0, (), {**document, "resolved": text, "cost": told}, (text, *cost_lines(costs)))
    return _ran(read, text, document, config, on_progress)


def _ran(
    read: ReadRecipe, text: str, document: Mapping[str, object], config: RunConfig, on_progress: OnProgress
) -> Outcome:
    """Run the steps, and put their outcomes together."""
    out = config.out or Path("runs") / read.name
    make_folder(out)
    atomic_write(out / RESOLVED, text.encode())
    with infeasible_told(out):
        outcomes, rows = _outcomes(read, config, out, on_progress)
    steps = [{"name": name, "exit_code": o.exit_code, "result": o.document} for name, o in outcomes.items()]
    document = {**document, "steps": steps}
    pages = [StepPage(name, o.exit_code, _page(out / name)) for name, o in outcomes.items()]
    atomic_write(out / "report.html", run_page(read.base.description, pages, text).encode())
    written = [out / "report.html"]
    if rows:
        document = {**document, "variants": [dataclasses.asdict(row) for row in rows]}
        written += [out / "report.md", out / "variants.csv"]
        atomic_write(out / "report.md", variants_markdown(read.name, rows).encode())
        atomic_write(out / "variants.csv", variants_csv(rows).encode())
    if promises_of(document):
        written.append(write_junit(out, document))
    files = (out / RESOLVED, *written, *(file for o in outcomes.values() for file in o.files))
    lines = [line for name, outcome in outcomes.items() for line in _named_lines(name, outcome.lines)]
    lines += variants_lines(rows)
    return Outcome(max(o.exit_code for o in outcomes.values()), files, document, tuple(lines))


def _page(folder: Path) -> str:
    """Read the page that a step wrote, now or when it was finished before."""
    page = folder / "report.html"
    return page.read_text(encoding="utf-8") if page.is_file() else ""


def _outcomes(
    read: ReadRecipe, config: RunConfig, out: Path, on_progress: OnProgress
) -> tuple[dict[str, Outcome], list[VariantRow]]:
    """Run what all variants begin with once, and then the rest of each in a folder of its own."""
    recipes = list(read.variants.values())
    shared = _shared_steps(recipes)
    start = recipes[0].checkpoint
    chain = Chain(config, out, on_progress, Path(start) if start else None)
    outcomes = {step.name: chain.run(step) for step in recipes[0].steps[:shared]}
    rows, before = [], None
    for name, variant in read.variants.items():
        if not name:
            break
        own = chain.branch(out / name, None if config.fresh else before)
        if not shared and variant.checkpoint:
            own.checkpoint = Path(variant.checkpoint)
        found = {step.name: own.run(step) for step in variant.steps[shared:]}
        outcomes |= {f"{name}/{step}": outcome for step, outcome in found.items()}
        rows.append(
            variant_row(name, [outcome.document for outcome in found.values()], [*found.values()][-1].exit_code)
        )
        before = out / name
    return outcomes, rows


def _named_lines(name: str, lines: Sequence[str]) -> list[str]:
    """Put the name of a step before its line, if it has one alone; indented lines only continue another."""
    own = [line for line in lines if not line.startswith(" ")]
    return [f"{name}: {line}" if own == [line] else line for line in lines]


def _shared_steps(recipes: list[Recipe]) -> int:
    """Count the steps that all variants begin with; of a single recipe all of them."""
    if len({recipe.checkpoint for recipe in recipes}) > 1:
        return 0
    together = list(zip(*(recipe.steps for recipe in recipes), strict=True))
    return next((i for i, steps in enumerate(together) if any(step != steps[0] for step in steps)), len(together))
