"""Import a checkpoint of a published system: read it safely, map it, and check that it fills our network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import Tensor

from qcaps.artifacts.records import Limits
from qcaps.errors import ArtifactError, UsageError
from qcaps.importers.foreign_file import Foreign, read_foreign
from qcaps.importers.mapping import ForeignTensors, Numbers
from qcaps.models.spec import ModelSpec, filled
from qcaps.registry import IMPORTERS

Importer = Callable[[ForeignTensors, Numbers], tuple[ModelSpec, dict[str, Tensor]]]


@dataclass(frozen=True, eq=False)
class Imported:
    """What an import gives.

    Parameters
    ----------
    spec, tensors
        Rebuild the network; the tensors fill it exactly.
    ignored
        Tensors of the file that the network does not need.
    sha256
        Of the file, in hex.
    """

    spec: ModelSpec
    tensors: Mapping[str, Tensor]
    ignored: tuple[str, ...]
    sha256: str


def import_weights(path: Path, source: str, numbers: Numbers | None = None, limits: Limits | None = None) -> Imported:
    """Import a checkpoint.

    Parameters
    ----------
    path
        A file that the system wrote.
    source
        Registry name of the system.
    numbers
        Numbers of the spec that shapes do not tell, such as an odd height, or that shall differ.
    limits
        What the file may hold at most.

    Raises
    ------
    ArtifactError
        If the file is damaged or hostile, or not one of this source; the message names the source that it fits.
    UsageError
        If the source is unknown, or a number is impossible or not that of the file.
    """
    IMPORTERS.entry(source, where="--from")
    foreign = read_foreign(path, limits)
    try:
        return map_foreign(foreign, source, numbers or {})
    except ArtifactError as error:
        if numbers and _fits(foreign, source):
            raise UsageError(
                f"the file does not have these numbers: {error.what}", where="--model-arg", do="leave them out"
            ) from error
        fitting = next((entry.name for entry in IMPORTERS if entry.name != source and _fits(foreign, entry.name)), "")
        do = f"it is a file of {fitting}: use that source" if fitting else error.do
        raise ArtifactError(error.what, where=str(path), do=do) from error


def map_foreign(foreign: Foreign, source: str, numbers: Numbers) -> Imported:
    """Map a file that was read, and fill the network with it; see :func:`import_weights`."""
    importer = cast("Importer", IMPORTERS.load(source))
    supply = ForeignTensors(foreign)
    try:
        spec, ours = importer(supply, numbers)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise supply.refusal(f"the shapes of the file fit no network of {source}") from error
    ignored = supply.ignored()
    tensors = {name: tensor.contiguous() for name, tensor in ours.items()}
    filled(spec, tensors, where=str(foreign.path))
    return Imported(spec, tensors, ignored, foreign.sha256)


def _fits(foreign: Foreign, source: str) -> bool:
    """Tell whether a file is one of this source."""
    try:
        map_foreign(foreign, source, {})
    except (ArtifactError, UsageError):
        return False
    return True
