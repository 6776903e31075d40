"""Read the weights of a Keras 2 file: data sets only, no code; only inside the confined process."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from qcaps.artifacts.records import Limits, refusal
from qcaps.errors import quoted
from qcaps.importers.handover import Contents, Piece

_LIMITS = Limits()


def read_keras_h5(path: Path) -> Contents:
    """Read the weights of every layer, in the order in which Keras wrote them.

    The order stands in the attributes ``layer_names`` and, of each layer, ``weight_names``; HDF5 itself sorts
    by name. A whole model has its weights below ``model_weights``, and its graph in ``model_config``.

    Raises
    ------
    ArtifactError
        If the file is none of Keras, links to other places, or declares more than it holds.
    Exception
        Of any kind, if the HDF5 library finds it damaged.
    """
    with h5py.File(path, "r", locking=False) as file:
        config = _config(file, str(path))
    return Contents(_pieces(path), config=config)


def _config(file: h5py.File, where: str) -> str:
    """Give the JSON text that describes the graph of a whole model, or nothing."""
    if "model_config" not in file.attrs:
        return ""
    text = _texts(file, "model_config", where)
    if len(text) != 1 or len(text[0]) > _LIMITS.header_bytes:
        raise refusal("has a strange model_config", where)
    return text[0]


def _pieces(path: Path) -> Iterator[Piece]:
    """Read one weight after the other; together they must fit into the file."""
    where = str(path)
    left = path.stat().st_size
    with h5py.File(path, "r", locking=False) as file:
        weights = _inside(file, "model_weights", where) if "model_weights" in file else file
        for layer in _texts(weights, "layer_names", where):
            group = _inside(weights, layer, where)
            for name in _texts(group, "weight_names", where):
                dataset = _inside(group, name, where)
                _check_dataset(dataset, name, left, where)
                left -= dataset.nbytes
                yield Piece(layer, name, dataset[()])


def _texts(owner: h5py.Group, attribute: str, where: str) -> list[str]:
    """Read the strings of an attribute, a single one or a list."""
    if not isinstance(owner, h5py.Group) or attribute not in owner.attrs:
        raise refusal(f"has no attribute {attribute}, which Keras writes", where)
    if math.prod(owner.attrs.get_id(attribute).shape) > _LIMITS.tensors:
        raise refusal(f"has a huge attribute {attribute}", where)
    values = np.atleast_1d(owner.attrs[attribute]).tolist()
    texts = [value.decode() if isinstance(value, bytes) else value for value in values]
    if not all(isinstance(text, str) for text in texts):
        raise refusal(f"has an attribute {attribute} that is no text", where)
    return texts


def _inside(owner: h5py.Group, path: str, where: str) -> h5py.Group | h5py.Dataset:
    """Follow a path of ordinary links; soft and external ones may lead anywhere."""
    for part in path.split("/"):
        if not isinstance(owner, h5py.Group) or not isinstance(owner.get(part, getlink=True), h5py.HardLink):
            raise refusal(f"has no plain entry {quoted(path)}", where)
        owner = owner[part]
    return owner


def _check_dataset(dataset: object, name: str, left: int, where: str) -> None:
    """Refuse what is not one stretch of numbers inside the file, or declares more numbers than are stored."""
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype != np.dtype("<f4"):
        raise refusal(f"holds {quoted(name)}, which is no float32 data set", where)
    layout = dataset.id.get_create_plist()
    # Compressed ones come in pieces, which could unpack to far more than the file holds.
    plain = layout.get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
    if not plain or layout.get_external_count():
        raise refusal(f"holds {quoted(name)} compressed, in pieces or elsewhere", where)
    if dataset.ndim > _LIMITS.rank or not dataset.nbytes <= dataset.id.get_storage_size() <= left:
        raise refusal(f"does not hold all elements of {quoted(name)}", where)
