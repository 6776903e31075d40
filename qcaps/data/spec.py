"""Which images, how they are prepared and augmented, and how they are split: plain data for file headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast, get_args, get_type_hints

from qcaps.data.dataset import Content
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
    content
        Size and classes of images that are known only with their files.
    """

    dataset: str
    preparation: Preparation
    augmentation: str
    split_seed: int
    validation_per_class: int
    content: Content | None = None

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height and width of a prepared image, as a network sees it."""
        source = find_dataset(self.dataset, self.content)
        return (source.channels, *self.preparation.size(source.height, source.width))

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(find_dataset(self.dataset, self.content).class_names)


def data_spec(
    dataset: str,
    *,
    preparation: Preparation = PLAIN,
    augmentation: str = "none",
    split_seed: int = DEFAULT_SPLIT_SEED,
    validation_per_class: int | None = None,
    content: Content | None = None,
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
    content
        Size and classes of images that are known only with their files.

    Raises
    ------
    UsageError
        If a name is unknown, a number is out of range, or the preparation does not suit the images.
    """
    if content is not None and (misfit := content.misfit()):
        raise UsageError(f"{dataset} cannot have such images: {misfit}")
    source = find_dataset(dataset, content)
    AUGMENTATIONS.entry(augmentation)
    misfit = preparation.misfit(source.channels, source.height, source.width)
    if misfit:
        raise UsageError(f"{dataset} cannot be prepared like that: {misfit}")
    if not 0 <= split_seed < _NUMBER_LIMIT:
        raise UsageError(f"split seed {quoted(split_seed)} is not between 0 and 2^63 - 1")
    per_class = source.validation_per_class if validation_per_class is None else validation_per_class
    if not 1 <= per_class < _NUMBER_LIMIT:
        raise UsageError(f"cannot hold out {quoted(per_class)} validation images per class")
    return DataSpec(dataset, preparation, augmentation, split_seed, per_class, content)


def data_spec_to_dict(spec: DataSpec) -> dict[str, object]:
    """Turn a spec into plain data that `data_spec_from_dict` reads back."""
    plain = asdict(spec)
    if spec.content is None:
        del plain["content"]
    return plain


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
    if isinstance(data, dict) and "content" not in data:
        data = {**data, "content": None}
    keys = _exact_keys(data, DataSpec, "data spec", where)
    # What is inside checks its own types and values, and data_spec the values of all else.
    preparation = Preparation(**_plain(keys["preparation"], Preparation, "preparation", where))
    content = keys["content"] and Content(**_plain(keys["content"], Content, "content", where))
    values = {**keys, "preparation": preparation, "content": content}
    for name, kind in get_type_hints(DataSpec).items():
        # Exact types: True is an int to isinstance.
        if type(values[name]) not in (get_args(kind) or (kind,)):
            raise ArtifactError(f"{name} of the data spec is {quoted(values[name])}", where=where)
    try:
        return data_spec(**cast("Any", values))
    except UsageError as error:
        raise ArtifactError(f"the data spec is wrong: {error.what}", where=where) from error


def _plain(data: object, kind: type, what: str, where: str) -> dict[str, Any]:
    """Take the fields of a dataclass that holds plain data and tuples of it."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in _exact_keys(data, kind, what, where).items()
    }


def _exact_keys(data: object, kind: type, what: str, where: str) -> Mapping[str, object]:
    """Take a mapping that has the fields of a dataclass, all of them and no others."""
    if not isinstance(data, dict):
        raise ArtifactError(f"the {what} is not a mapping", where=where)
    odd = sorted(str(key) for key in data.keys() ^ get_type_hints(kind).keys())
    if odd:
        raise ArtifactError(f"the {what} has unknown or missing keys {quoted(', '.join(odd))}", where=where)
    return data
