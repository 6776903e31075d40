"""The steps under way: what one leaves, the next one takes; what is finished is not repeated."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import cast

from qcaps.artifacts.bundled import find_checkpoint
from qcaps.artifacts.journal import content_key
from qcaps.artifacts.writing import atomic_write
from qcaps.config import RunConfig
from qcaps.progress import OnProgress, Step
from qcaps.recipe.finished import finished, forget, record
from qcaps.recipe.reading import FILE_OPTIONS
from qcaps.recipe.resolved import file_sha256, spelled_out, versions
from qcaps.recipe.schema import StepPlan
from qcaps.reports.documents import json_text
from qcaps.verbs.evaluate import evaluate
from qcaps.verbs.outcome import Outcome, make_folder
from qcaps.verbs.prune import prune
from qcaps.verbs.quantize import quantize
from qcaps.verbs.train import train

# Steps whose result is a checkpoint for the next one.
CHECKPOINT_MAKERS = {"train", "prune"}
JOURNAL = "journal.jsonl"


class Chain:
    """The steps of one recipe.

    Parameters
    ----------
    config
        Options of the whole run.
    out
        Every step has a folder of its name in it.
    on_progress
        Told by every step; phases carry the step's name.
    checkpoint
        What the first step takes, if anything.
    """

    def __init__(self, config: RunConfig, out: Path, on_progress: OnProgress, checkpoint: Path | None) -> None:
        self.config, self.out, self.on_progress = config, out, on_progress
        self.checkpoint = checkpoint
        self.artifacts: tuple[Path, ...] = ()

    def branch(self, out: Path, journals: Path | None) -> Chain:
        """Go on from here in another folder, with the measurements of a third one where there are none yet."""
        other = Chain(self.config, out, self.on_progress, self.checkpoint)
        other.artifacts = self.artifacts
        if journals is not None:
            _copy_journals(journals, out)
        return other

    def run(self, step: StepPlan) -> Outcome:
        """Run one step, unless the very same was finished here before."""
        folder, key = self.out / step.name, self._key(step)
        known = None if self.config.fresh else finished(folder, key)
        if known is not None:
            said = known.document.get("message")
            line = f"{folder} was finished before; --fresh makes it again"
            lines = (line,) if said is None else (f"{said} ({line})",)
            document = known.document or {"schema": f"qcaps.{step.verb}/1", "checkpoint": str(known.files[0])}
            outcome = Outcome(known.exit_code, known.files, document, lines)
        else:
            forget(folder)
            outcome = self._made(step, folder)
            if _is_whole(outcome):
                record(folder, key, outcome)
        self._take(step, folder, outcome)
        return outcome

    def _made(self, step: StepPlan, folder: Path) -> Outcome:
        """Call the verb of a step."""

        def listen(told: Step) -> None:
            self.on_progress(dataclasses.replace(told, phase=f"{step.name}: {told.phase}"))

        options = dict(step.options) | {"data_dir": self.config.data_dir, "threads": self.config.threads}
        if step.verb == "eval":
            return self._evaluated(options, folder, listen)
        options |= {"fresh": self.config.fresh, "out": folder, "reproducible": self.config.reproducible}
        if step.verb == "train":
            return train(on_progress=listen, **options | self._init(options))
        verb = prune if step.verb == "prune" else quantize
        return verb(self.checkpoint, on_progress=listen, **options)

    def _init(self, options: dict[str, object]) -> dict[str, object]:
        return {} if "init" in options or self.checkpoint is None else {"init": self.checkpoint}

    def _evaluated(self, options: dict[str, object], folder: Path, listen: OnProgress) -> Outcome:
        if options.get("predictions") is not None:
            options["predictions"] = folder / Path(str(options["predictions"])).name
        if self.config.reproducible:
            options["latency"] = False
        outcome = evaluate(*self._subjects(), on_progress=listen, **options, out=folder)
        document = {**outcome.document, "files": _named_from(self.out, outcome.document["files"])}
        if self.config.reproducible:
            del document["run"]
        atomic_write(folder / "evaluation.json", json_text(document).encode())
        return dataclasses.replace(outcome, files=(folder / "evaluation.json", *outcome.files))

    def _take(self, step: StepPlan, folder: Path, outcome: Outcome) -> None:
        """Hand what a step left on to the next one."""
        if step.verb in CHECKPOINT_MAKERS:
            self.checkpoint = folder / "checkpoint.pt"
        elif step.verb == "quantize":
            self.artifacts = tuple(file for file in outcome.files if file.suffix == ".pt")

    def _key(self, step: StepPlan) -> str:
        """Name a step by its options, the content of what it takes, and the code."""
        files: list[object] = [step.options[name] for name in FILE_OPTIONS if step.options.get(name)]
        if step.verb == "eval":
            files += self._subjects() or [find_checkpoint(None)]
        elif step.verb != "train" or "init" not in step.options:
            files += [self.checkpoint] if self.checkpoint else [] if step.verb == "train" else [find_checkpoint(None)]
        names = [_name_from(self.out, str(file)) for file in files] if step.verb == "eval" else []
        hashes = [file_sha256(file) for file in files]
        return content_key(step.verb, spelled_out(step), hashes, names, self.config.reproducible, *versions())

    def _subjects(self) -> list[Path]:
        return [*([self.checkpoint] if self.checkpoint else []), *self.artifacts]


def _is_whole(outcome: Outcome) -> bool:
    """Tell whether a step did all it could do: one that ran out of time may do more the next time."""
    search = outcome.document.get("search")
    return bool(outcome.files) and not (isinstance(search, dict) and search.get("stopped_early"))


def _copy_journals(source: Path, target: Path) -> None:
    """Take over measurements; their keys say what was measured, so that none can be mistaken."""
    for journal in sorted(source.glob(f"*/{JOURNAL}")):
        copy = target / journal.parent.name / JOURNAL
        if not copy.exists():
            make_folder(copy.parent)
            shutil.copyfile(journal, copy)


def _named_from(folder: Path, evaluated: object) -> list[dict[str, object]]:
    """Name evaluated files as seen from the output folder, so that two folders hold the same bytes."""
    entries = cast("list[dict[str, object]]", evaluated)
    return [{**entry, "file": _name_from(folder, str(entry["file"]))} for entry in entries]


def _name_from(folder: Path, file: str) -> str:
    return file.removeprefix(f"{folder}{os.sep}")
