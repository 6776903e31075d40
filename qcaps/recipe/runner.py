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
    checked = dataclasses.replace(checked, checkpoint=_beside(path, checked.checkpoint))
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
        if step.verb == "train":
            return self._train(step, folder, options | {"fresh": self.config.fresh}, listen)
        if step.verb == "quantize":
            options |= {"fresh": self.config.fresh, "reproducible": self.config.reproducible, "out": folder}
            outcome = quantize(self.checkpoint, on_progress=listen, **options)
            self.artifacts = tuple(file for file in outcome.files if file.suffix == ".pt")
            return outcome
        subjects = (*([self.checkpoint] if self.checkpoint else []), *self.artifacts)
        outcome = evaluate(*subjects, on_progress=listen, **options)
        make_folder(folder)
        file = folder / "evaluation.json"
        document = {**outcome.document, "files": _named_from(self.out, outcome.document["files"])}
        if self.config.reproducible:
            del document["run"]
        atomic_write(file, json_text(document).encode())
        return dataclasses.replace(outcome, files=(file,))

    def _train(self, step: StepPlan, folder: Path, options: dict[str, object], listen: OnProgress) -> Outcome:
        """Train on from the checkpoint of the step before, unless the very same step was finished here before."""
        checkpoint, key_file = folder / "checkpoint.pt", folder / "step.key"
        spelled_out = dataclasses.asdict(configure(VERBS[step.verb], step.options))
        before = ""
        if self.checkpoint is not None and "init" not in options:
            before = hashlib.sha256(self.checkpoint.read_bytes()).hexdigest()
            options = options | {"init": self.checkpoint}
        key = content_key(_plain(spelled_out), before, qcaps.__version__, torch.__version__)
        finished = key_file.is_file() and key_file.read_text() == key and checkpoint.is_file()
        self.checkpoint = checkpoint
        if finished and not self.config.fresh:
            line = f"{checkpoint} was finished before; --fresh trains again"
            return Outcome(0, (checkpoint,), {"schema": "qcaps.train/1", "checkpoint": str(checkpoint)}, (line,))
        key_file.unlink(missing_ok=True)
        outcome = train(on_progress=listen, **options, out=folder)
        atomic_write(key_file, key.encode())
        return outcome


def _named_from(folder: Path, evaluated: object) -> list[dict[str, object]]:
    """Name evaluated files as seen from the output folder, so that two folders hold the same bytes."""
    entries = cast("list[dict[str, object]]", evaluated)
    return [{**entry, "file": str(entry["file"]).removeprefix(f"{folder}{os.sep}")} for entry in entries]


def _beside(recipe: Path, checkpoint: str | None) -> str | None:
    """Take the checkpoint that lies beside a recipe, else leave the name."""
    if checkpoint is None or not os.path.isfile(recipe.parent / checkpoint):
        return checkpoint
    return str((recipe.parent / checkpoint).resolve())


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
        elif key == "pin" and isinstance(value, tuple):
            found[key] = [f"{pattern}={bits}" for pattern, bits in value]
        else:
            found[key] = list(value) if isinstance(value, tuple) else value
    return found
