"""Which images, how they are prepared and augmented, and how they are split: plain data for file headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast, get_type_hints

from qcaps.data.dataset import dataset as find_dataset
from qcaps.data.preparation import PLAIN, Preparation
from qcaps.errors import ArtifactError, UsageError, quoted
from qcaps.registry import AUGMENTATIONS

DEFAULT_SPLIT_SEED = 1234
_NUMBER_LIMIT = 2**63


@dataclass(frozen=True)
class DataSpec:
    """Everything needed to see the same images again; made by `data_spec`.

    Parameters
    ----------
    dataset
        Registry name of the data set.
    preparation
        What is done to all images.
    augmentation
        Registry name of what is done to training images.
    split_seed
        Seed of the draw of the validation images.
    validation_per_class
        How many training images of every class are held out for validation.
    """

    dataset: str
    preparation: Preparation
    augmentation: str
    split_seed: int
    validation_per_class: int

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height and width of a prepared image, as a network sees it."""
        source = find_dataset(self.dataset)
        return (source.channels, *self.preparation.size(source.height, source.width))

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(find_dataset(self.dataset).class_names)


def data_spec(
    dataset: str,
    *,
    preparation: Preparation = PLAIN,
    augmentation: str = "none",
    split_seed: int = DEFAULT_SPLIT_SEED,
    validation_per_class: int | None = None,
) -> DataSpec:
    """Describe a data set and what is done to it, checked.

    Parameters
    ----------
    dataset
        Registry name of the data set.
    preparation
        What is done to all images; `qcaps.data.named_preparation` knows published ones.
    augmentation
        Registry name of what is done to training images.
    split_seed
        Seed of the draw of the validation images, 0 to 2^63 - 1.
    validation_per_class
        Images of every class held out, at least 1; None takes the number of the data set.

    Raises
    ------
    UsageError
        If a name is unknown, a number is out of range, or the preparation does not suit the images.
    """
    source = find_dataset(dataset)
    AUGMENTATIONS.entry(augmentation)
    misfit = preparation.misfit(source.channels, source.height, source.width)
    if misfit:
        raise UsageError(f"{dataset} cannot be prepared like that: {misfit}")
    if not 0 <= split_seed < _NUMBER_LIMIT:
        raise UsageError(f"split seed {quoted(split_seed)} is not between 0 and 2^63 - 1")
    per_class = source.validation_per_class if validation_per_class is None else validation_per_class
    if not 1 <= per_class < _NUMBER_LIMIT:
        raise UsageError(f"cannot hold out {quoted(per_class)} validation images per class")
    return DataSpec(dataset, preparation, augmentation, split_seed, per_class)


def data_spec_to_dict(spec: DataSpec) -> dict[str, object]:
    """Turn a spec into plain data that `data_spec_from_dict` reads back."""
    return asdict(spec)


def data_spec_from_dict(data: object, *, where: str) -> DataSpec:
    """Read a spec from the header of a file, which may come from a stranger.

    Parameters
    ----------
    data
        Parsed JSON; nothing about it is trusted.
    where
        The file, for the message.

    Raises
    ------
    ArtifactError
        If a key is missing, unknown, of another type or out of range.
    """
    keys = _exact_keys(data, DataSpec, "data spec", where)
    preparation = _exact_keys(keys["preparation"], Preparation, "preparation", where)
    # Preparation.misfit checks types and values of what is inside, data_spec the values of all else.
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in preparation.items()}
    values = {**keys, "preparation": Preparation(**cast("Any", plain))}
    for name, kind in get_type_hints(DataSpec).items():
        # Exact types: True is an int to isinstance.
        if type(values[name]) is not kind:
            raise ArtifactError(f"{name} of the data spec is {quoted(values[name])}", where=where)
    try:
        return data_spec(**cast("Any", values))
    except UsageError as error:
        raise ArtifactError(f"the data spec is wrong: {error.what}", where=where) from error


def _exact_keys(data: object, kind: type, what: str, where: str) -> Mapping[str, object]:
    """Take a mapping that has the fields of a dataclass, all of them and no others."""
    if not isinstance(data, dict):
        raise ArtifactError(f"the {what} is not a mapping", where=where)
    odd = sorted(str(key) for key in data.keys() ^ get_type_hints(kind).keys())
    if odd:
        raise ArtifactError(f"the {what} has unknown or missing keys {quoted(', '.join(odd))}", where=where)
    return data
