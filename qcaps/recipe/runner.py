"""Run a recipe: one verb after the other, each in a folder of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from decimal import Decimal
from pathlib import Path
from typing import cast

import torch
import yaml

import qcaps
from qcaps.artifacts.bundled import find_checkpoint
from qcaps.artifacts.journal import content_key
from qcaps.artifacts.writing import atomic_write
from qcaps.config import RunConfig, configure, shell_name
from qcaps.errors import UsageError
from qcaps.progress import OnProgress, Step, silent
from qcaps.recipe.lookup import find_recipe
from qcaps.recipe.overrides import override
from qcaps.recipe.schema import NOT_IN_STEPS, SCHEMA, VERBS, Recipe, StepPlan, check_recipe
from qcaps.recipe.yaml_reader import read_yaml
from qcaps.reports.documents import json_text
from qcaps.verbs.evaluate import evaluate
from qcaps.verbs.outcome import Outcome, make_folder
from qcaps.verbs.prune import prune
from qcaps.verbs.quantize import quantize
from qcaps.verbs.train import train


def run(recipe: str, *changes: str, on_progress: OnProgress = silent, **options: object) -> Outcome:
    """Run every step of a recipe.

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
        Exit code 1 if any step says 1. Each step writes into a folder of its name; ``recipe.resolved.yaml``
        beside them reproduces the run.

    Raises
    ------
    RecipeError
        With all that is wrong with the recipe; nothing was computed.
    UsageError, ArtifactError, InfeasibleError, StoppedError
        From a step; later steps do not run.
    """
    config = configure(RunConfig, options)
    name, path = find_recipe(recipe)
    checked = check_recipe(override(read_yaml(path.read_bytes(), source=name), changes), source=name)
    checked = _found_beside(path, checked)
    resolved = _resolved(checked)
    if config.dry_run:
        return Outcome(0, (), {"schema": "qcaps.run/1", "recipe": name, "resolved": resolved}, (resolved,))
    out = config.out or Path("runs") / name
    make_folder(out)
    atomic_write(out / "recipe.resolved.yaml", resolved.encode())
    chain = _Chain(config, out, on_progress, Path(checked.checkpoint) if checked.checkpoint else None)
    outcomes = {step.name: chain.run(step) for step in checked.steps}
    document = {
        "schema": "qcaps.run/1",
        "recipe": name,
        "steps": [{"name": key, "exit_code": o.exit_code, "result": o.document} for key, o in outcomes.items()],
    }
    files = (out / "recipe.resolved.yaml", *(file for o in outcomes.values() for file in o.files))
    lines = [f"{key}: {line}" if len(o.lines) == 1 else line for key, o in outcomes.items() for line in o.lines]
    return Outcome(max(o.exit_code for o in outcomes.values()), files, document, tuple(lines))


# Options in bytes, whose bare number would mean megabytes.
SIZES = {"memory_budget", "activation_budget", "cache_memory"}
# Options that pair a pattern with a number.
PAIRS = {"pin", "cap", "at-least", "at_least"}
# Steps whose result is a checkpoint for the next one.
CHECKPOINT_MAKERS = {"train", "prune"}


class _Chain:
    """The steps under way: what one leaves, the next one takes."""

    def __init__(self, config: RunConfig, out: Path, on_progress: OnProgress, checkpoint: Path | None) -> None:
        self.config, self.out, self.on_progress = config, out, on_progress
        self.checkpoint = checkpoint
        self.artifacts: tuple[Path, ...] = ()

    def run(self, step: StepPlan) -> Outcome:
        """Run one step."""
        folder = self.out / step.name

        def listen(told: Step) -> None:
            self.on_progress(dataclasses.replace(told, phase=f"{step.name}: {told.phase}"))

        options = dict(step.options) | {"data_dir": self.config.data_dir, "threads": self.config.threads}
        if step.verb != "eval":
            options |= {"fresh": self.config.fresh, "out": folder}
        if step.verb in CHECKPOINT_MAKERS:
            return self._make_checkpoint(step, folder, options, listen)
        if step.verb == "quantize":
            options |= {"reproducible": self.config.reproducible}
            outcome = quantize(self.checkpoint, on_progress=listen, **options)
            self.artifacts = tuple(file for file in outcome.files if file.suffix == ".pt")
            return outcome
        if "predictions" in options:
            options["predictions"] = folder / Path(str(options["predictions"])).name
        subjects = (*([self.checkpoint] if self.checkpoint else []), *self.artifacts)
        outcome = evaluate(*subjects, on_progress=listen, **options)
        make_folder(folder)
        file = folder / "evaluation.json"
        document = {**outcome.document, "files": _named_from(self.out, outcome.document["files"])}
        if self.config.reproducible:
            del document["run"]
        atomic_write(file, json_text(document).encode())
        return dataclasses.replace(outcome, files=(file, *outcome.files))

    def _make_checkpoint(self, step: StepPlan, folder: Path, options: dict[str, object], listen: OnProgress) -> Outcome:
        """Train or prune the checkpoint of the step before, unless the very same step was finished here before."""
        made, key_file = folder / "checkpoint.pt", folder / "step.key"
        source = None if "init" in options else self.checkpoint
        if source is not None or step.verb == "prune":
            source = find_checkpoint(source)
        spelled_out = _plain(dataclasses.asdict(configure(VERBS[step.verb], step.options)))
        key = content_key(
            spelled_out, _sha256(source), _sha256(options.get("strategy")), qcaps.__version__, torch.__version__
        )
        finished = key_file.is_file() and key_file.read_text() == key and made.is_file()
        self.checkpoint = made
        if finished and not self.config.fresh:
            line = f"{made} was finished before; --fresh {step.verb}s again"
            return Outcome(0, (made,), {"schema": f"qcaps.{step.verb}/1", "checkpoint": str(made)}, (line,))
        key_file.unlink(missing_ok=True)
        if step.verb == "prune":
            outcome = prune(source, on_progress=listen, reproducible=self.config.reproducible, **options)
        else:
            options |= {"reproducible": self.config.reproducible}
            outcome = train(on_progress=listen, **options | ({} if source is None else {"init": source}))
        if outcome.exit_code == 0:
            atomic_write(key_file, key.encode())
        return outcome


def _named_from(folder: Path, evaluated: object) -> list[dict[str, object]]:
    """Name evaluated files as seen from the output folder, so that two folders hold the same bytes."""
    entries = cast("list[dict[str, object]]", evaluated)
    return [{**entry, "file": str(entry["file"]).removeprefix(f"{folder}{os.sep}")} for entry in entries]


def _found_beside(recipe: Path, checked: Recipe) -> Recipe:
    """Take the checkpoint and the strategies that lie beside a recipe."""
    steps = tuple(
        dataclasses.replace(step, options={**step.options, "strategy": _beside(recipe, str(step.options["strategy"]))})
        if "strategy" in step.options
        else step
        for step in checked.steps
    )
    checkpoint = None if checked.checkpoint is None else _beside(recipe, checked.checkpoint)
    return dataclasses.replace(checked, checkpoint=checkpoint, steps=steps)


def _beside(recipe: Path, name: str) -> str:
    """Take the file that lies beside a recipe, else leave the name."""
    return str((recipe.parent / name).resolve()) if os.path.isfile(recipe.parent / name) else name


def _sha256(file: object) -> str:
    """Identify a file by its content; one that is missing is refused by the step itself."""
    found = file is not None and os.path.isfile(str(file))
    return hashlib.sha256(Path(str(file)).read_bytes()).hexdigest() if found else ""


def _resolved(recipe: Recipe) -> str:
    """Spell out a recipe with every default."""
    steps = []
    for step in recipe.steps:
        config = configure(VERBS[step.verb], step.options)
        values = {
            shell_name(f.name): getattr(config, f.name)
            for f in dataclasses.fields(config)
            if f.name not in NOT_IN_STEPS and getattr(config, f.name) is not None
        }
        steps.append({"step": step.verb, "name": step.name, **_plain(values)})
    top: dict[str, object] = {"schema": SCHEMA, "description": recipe.description, "steps": steps}
    if recipe.checkpoint:
        top["model"] = {"checkpoint": recipe.checkpoint}
    return yaml.safe_dump(top, sort_keys=False, allow_unicode=True, width=100)


def _plain(options: object) -> dict[str, object]:
    """Turn option values into what YAML and JSON can say."""
    if not isinstance(options, dict):
        raise UsageError("options are not a mapping")
    found: dict[str, object] = {}
    for key, value in options.items():
        if isinstance(value, Decimal):
            found[key] = str(value)
        elif key.replace("-", "_") in SIZES and isinstance(value, int):
            found[key] = f"{value}B"
        elif key in PAIRS and isinstance(value, tuple):
            found[key] = [f"{pattern}={number}" for pattern, number in value]
        elif isinstance(value, Path):
            found[key] = str(value)
        else:
            found[key] = list(value) if isinstance(value, tuple) else value
    return found
