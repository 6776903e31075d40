"""Which images, how they are scaled and augmented, and how they are split: plain data for file headers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import get_type_hints

from qcaps.data.dataset import dataset as find_dataset
from qcaps.errors import ArtifactError, UsageError, quoted
from qcaps.registry import AUGMENTATIONS

DIVISORS = (255, 256)
DEFAULT_SPLIT_SEED = 1234
_NUMBER_LIMIT = 2**63


@dataclass(frozen=True)
class DataSpec:
    """Everything needed to see the same images again; made by `data_spec`.

    Parameters
    ----------
    dataset
        Registry name of the data set.
    divisor
        8-bit pixels are divided by this number.
    augmentation
        Registry name of what is done to training images.
    split_seed
        Seed of the draw of the validation images.
    validation_per_class
        How many training images of every class are held out for validation.
    """

    dataset: str
    divisor: int
    augmentation: str
    split_seed: int
    validation_per_class: int


def data_spec(
    dataset: str,
    *,
    divisor: int = 255,
    augmentation: str = "none",
    split_seed: int = DEFAULT_SPLIT_SEED,
    validation_per_class: int | None = None,
) -> DataSpec:
    """Describe a data set and its preparation, checked.

    Parameters
    ----------
    dataset
        Registry name of the data set.
    divisor
        255, or 256 as Efficient-CapsNet divides.
    augmentation
        Registry name of what is done to training images.
    split_seed
        Seed of the draw of the validation images, 0 to 2^63 - 1.
    validation_per_class
        Images of every class held out, at least 1; None takes the number of the data set.

    Raises
    ------
    UsageError
        If a name is unknown or a number is out of range.
    """
    default = find_dataset(dataset).validation_per_class
    AUGMENTATIONS.entry(augmentation)
    if divisor not in DIVISORS:
        raise UsageError(f"pixels are divided by 255 or 256, not by {quoted(divisor)}")
    if not 0 <= split_seed < _NUMBER_LIMIT:
        raise UsageError(f"split seed {quoted(split_seed)} is not between 0 and 2^63 - 1")
    per_class = default if validation_per_class is None else validation_per_class
    if not 1 <= per_class < _NUMBER_LIMIT:
        raise UsageError(f"cannot hold out {quoted(per_class)} validation images per class")
    return DataSpec(dataset, divisor, augmentation, split_seed, per_class)


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
    if not isinstance(data, dict):
        raise ArtifactError("the data spec is not a mapping", where=where)
    types = get_type_hints(DataSpec)
    odd = sorted(str(key) for key in data.keys() ^ types.keys())
    if odd:
        raise ArtifactError(f"the data spec has unknown or missing keys {quoted(', '.join(odd))}", where=where)
    for name, kind in types.items():
        # Exact types: True is an int to isinstance.
        if type(data[name]) is not kind:
            raise ArtifactError(f"{name} of the data spec is {quoted(data[name])}", where=where)
    try:
        return data_spec(**data)
    except UsageError as error:
        raise ArtifactError(f"the data spec is wrong: {error.what}", where=where) from error
