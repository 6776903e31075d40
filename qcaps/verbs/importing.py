"""``qcaps import``: from the weights of another project to a checkpoint of ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

import qcaps
from qcaps.artifacts.checkpoint import Checkpoint, write_checkpoint
from qcaps.config import ImportConfig, configure, model_numbers
from qcaps.data.spec import DataSpec, data_spec
from qcaps.data.statistics import with_preparation
from qcaps.errors import UsageError, shortened
from qcaps.importers.importing import Imported, import_weights
from qcaps.importers.mapping import COUNTER
from qcaps.importers.preparations import source_preparation
from qcaps.models.network import parameter_count
from qcaps.models.spec import build
from qcaps.registry import IMPORTERS
from qcaps.verbs.chosen_data import check_images
from qcaps.verbs.outcome import Outcome, make_folder

NAMES_SHOWN = 3


def import_checkpoint(file: Path | str, source: str, **options: object) -> Outcome:
    """Read the weights of a published system and write ``checkpoint.pt``.

    Parameters
    ----------
    file
        Weights as the system's own code writes them.
    source
        Name of the system as `qcaps list importers` has it; ``--from`` on the shell.
    options
        The fields of :class:`~qcaps.config.ImportConfig`.

    Returns
    -------
    Outcome
        Its document names the network, and every tensor of the file that was left out.

    Raises
    ------
    UsageError
        If an option is wrong or there is no such file.
    ArtifactError
        If the file is unreadable, or none of this system.
    """
    config = configure(ImportConfig, options)
    IMPORTERS.entry(source, where="--from")
    path = Path(file)
    if not os.path.exists(path):
        raise UsageError("there is no such file", where=str(path))
    imported = import_weights(path, source, model_numbers(config.model_arg))
    preparation = config.preparation or source_preparation(source, imported.spec)
    data = None
    if config.dataset is not None:
        data = with_preparation(data_spec(config.dataset), preparation, data_dir=config.data_dir)
        check_images(imported.spec, data, where=str(path))
    out = config.out or Path("runs") / f"{path.stem}-import"
    make_folder(out)
    made = {
        "source": source,
        "file": path.name,
        "sha256": imported.sha256,
        "ignored": list(imported.ignored),
        "preparation": preparation,
    }
    record = {"import": made, "versions": {"qcaps": qcaps.__version__, "torch": torch.__version__}}
    checkpoint = out / "checkpoint.pt"
    sha256 = write_checkpoint(checkpoint, Checkpoint(imported.spec, imported.tensors, data, record))
    return _outcome(imported, made, data, checkpoint, sha256)


def _outcome(
    imported: Imported, made: Mapping[str, object], data: DataSpec | None, checkpoint: Path, sha256: str
) -> Outcome:
    parameters = parameter_count(build(imported.spec))
    document = {
        "schema": "qcaps.import/1",
        "checkpoint": str(checkpoint),
        "sha256": sha256,
        "source": made["source"],
        "model": imported.spec.architecture,
        "dataset": None if data is None else data.dataset,
        "preparation": made["preparation"],
        "parameters": parameters,
        "ignored": list(imported.ignored),
    }
    came = f"{imported.spec.architecture} from {made['source']}"
    line = f"{came}: {parameters:,} parameters, {_ignored_text(imported.ignored)}"
    return Outcome(0, (checkpoint,), document, (line,))


def _ignored_text(ignored: tuple[str, ...]) -> str:
    """Tell how many tensors were left out, and the first of them; counters of batches are no news."""
    ignored = tuple(name for name in ignored if not name.endswith(COUNTER))
    if not ignored:
        return "every tensor used"
    count = f"{len(ignored)} tensor{'s' if len(ignored) > 1 else ''} ignored"
    more = ", …" if len(ignored) > NAMES_SHOWN else ""
    return f"{count} ({', '.join(map(shortened, ignored[:NAMES_SHOWN]))}{more})"
