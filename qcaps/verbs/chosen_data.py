"""Which images a network is measured on."""

from __future__ import annotations

from collections.abc import Mapping

from qcaps.artifacts.checkpoint import Checkpoint
from qcaps.data.dataset import dataset as find_dataset
from qcaps.data.spec import DIVISORS, DataSpec, data_spec
from qcaps.errors import UsageError
from qcaps.models.spec import ModelSpec, image_of
from qcaps.quantization.loading import Loaded


def chosen_data(source: Checkpoint | Loaded, dataset: str | None, *, where: str) -> DataSpec:
    """Give the images that a network was trained on, or those asked for, prepared the same way.

    Parameters
    ----------
    source
        The network, and what its file says of its images.
    dataset
        Registry name of the data set asked for.
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
        data = data_spec(dataset, divisor=_divisor(source.record))
    elif dataset in (None, own.dataset):
        data = own
    else:
        data = data_spec(dataset, divisor=own.divisor, split_seed=own.split_seed)
    check_images(source.model, data.dataset, where=where)
    return data


def check_images(model: ModelSpec, dataset: str, *, where: str) -> None:
    """Refuse a data set whose images a network does not take, or whose classes it does not know.

    Raises
    ------
    UsageError
        With the two sizes.
    """
    images = find_dataset(dataset)
    given = (images.channels, images.height, images.width), len(images.class_names)
    wanted = image_of(model), model.classes
    if given != wanted:
        have, want = (f"{'x'.join(map(str, shape))} images of {classes} classes" for shape, classes in (given, wanted))
        raise UsageError(f"{dataset} has {have}, the network wants {want}", where=where)


def _divisor(record: Mapping[str, object]) -> int:
    """Take the divisor of the pixels that an import noted."""
    made = record.get("import")
    found = made.get("divisor") if isinstance(made, dict) else None
    return found if isinstance(found, int) else DIVISORS[0]
