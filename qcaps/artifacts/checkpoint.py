"""Checkpoints: a float network with everything that is known of its making."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from qcaps.artifacts.container import Container, read_container, write_container
from qcaps.data.spec import DataSpec, data_spec_from_dict, data_spec_to_dict
from qcaps.errors import ArtifactError
from qcaps.models.network import CapsuleNetwork, to_inference
from qcaps.models.spec import ModelSpec, filled, spec_from_dict, spec_to_dict

CHECKPOINT = "qcaps.checkpoint"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A float network on disk.

    Parameters
    ----------
    model, tensors
        Rebuild the network; float32 parameters and running statistics by name, the decoder's included.
    data
        The images it was trained on, and how they were split; None if they are no data set of ours.
    record
        How it was made and what it scored on validation images: plain data, for people and reports.
    """

    model: ModelSpec
    tensors: Mapping[str, Tensor]
    data: DataSpec | None
    record: Mapping[str, object]

    def network(self, *, where: str = "checkpoint") -> CapsuleNetwork:
        """Build the network, ready for inference."""
        return to_inference(filled(self.model, self.tensors, where=where))


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> str:
    """Write a checkpoint atomically; give the sha256 of the file."""
    header = {
        "schema": f"{CHECKPOINT}/1",
        "model": spec_to_dict(checkpoint.model),
        "data": None if checkpoint.data is None else data_spec_to_dict(checkpoint.data),
        "record": dict(checkpoint.record),
    }
    return write_container(path, header, checkpoint.tensors)


def read_checkpoint(path: Path) -> tuple[Checkpoint, str]:
    """Read a checkpoint safely; give it and the sha256 of the file.

    Raises
    ------
    ArtifactError
        If the file is not a whole, sane checkpoint.
    """
    container = read_container(path, schema=CHECKPOINT)
    return checkpoint_of(container), container.sha256


def checkpoint_of(container: Container) -> Checkpoint:
    """Understand a container of the family ``qcaps.checkpoint``.

    Raises
    ------
    ArtifactError
        If header and tensors do not make a network.
    """
    header, where = container.header, str(container.path)
    record = header.get("record")
    if not isinstance(record, dict):
        raise ArtifactError("the header holds no record", where=where)
    nameless = "data" in header and header["data"] is None
    checkpoint = Checkpoint(
        model=spec_from_dict(header.get("model"), where=where),
        tensors=container.tensors,
        data=None if nameless else data_spec_from_dict(header.get("data"), where=where),
        record=record,
    )
    filled(checkpoint.model, checkpoint.tensors, where=where)
    return checkpoint
