"""Which images a network is measured on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qcaps.artifacts.checkpoint import Checkpoint
from qcaps.data.load import known
from qcaps.data.spec import DataSpec, data_spec
from qcaps.data.statistics import with_preparation
from qcaps.errors import UsageError
from qcaps.models.spec import ModelSpec, image_of
from qcaps.quantization.loading import Loaded


def chosen_data(source: Checkpoint | Loaded, dataset: str | None, *, data_dir: Path | None, where: str) -> DataSpec:
    """Give the images that a network was trained on, or those asked for, prepared the same way.

    Parameters
    ----------
    source
        The network, and what its file says of its images.
    dataset
        Registry name of the data set asked for.
    data_dir
        Folder of all data sets, for statistics that an import left open.
    where
        The file, for messages.

    Raises
    ------
    UsageError
        If neither names a data set, or the network does not take its images.
    """
    own = source.data
    if own is None:
        if dataset is None:
            raise UsageError("the checkpoint names no data set", where=where, do="name one with --dataset")
        data = with_preparation(_described(dataset, data_dir), _preparation(source.record), data_dir=data_dir)
    elif dataset in (None, own.dataset):
        data = own
    else:
        images = _described(dataset, data_dir)
        data = data_spec(**{**vars(images), "preparation": own.preparation, "split_seed": own.split_seed})
    check_images(source.model, data, where=where)
    return data


def _described(dataset: str, data_dir: Path | None) -> DataSpec:
    """Describe a data set as it is; where its size and classes depend on the files, with a look at these."""
    images = known(dataset, data_dir=data_dir)
    return data_spec(dataset, validation_per_class=images.validation_per_class, content=images.content)


def check_images(model: ModelSpec, data: DataSpec, *, where: str) -> None:
    """Refuse a data set whose images a network does not take, or whose classes it does not know.

    Raises
    ------
    UsageError
        With the two sizes.
    """
    given, wanted = (data.image, data.classes), (image_of(model), model.classes)
    if given != wanted:
        have, want = (f"{'x'.join(map(str, shape))} images of {classes} classes" for shape, classes in (given, wanted))
        raise UsageError(f"{data.dataset} has {have}, the network wants {want}", where=where)


def _preparation(record: Mapping[str, object]) -> str:
    """Name the preparation of the images that an import noted."""
    made = record.get("import")
    found = made.get("preparation") if isinstance(made, dict) else None
    return found if isinstance(found, str) else "plain"
