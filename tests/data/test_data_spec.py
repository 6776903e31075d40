from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcaps.data.dataset import dataset
from qcaps.data.spec import DataSpec, data_spec, data_spec_from_dict, data_spec_to_dict
from qcaps.errors import ArtifactError, UsageError
from qcaps.registry import AUGMENTATIONS, DATASETS

names = st.sampled_from(DATASETS.names())
augmentations = st.sampled_from(AUGMENTATIONS.names())
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def valid() -> dict[str, object]:
    return {
        "dataset": "mnist",
        "divisor": 256,
        "augmentation": "shift",
        "split_seed": 7,
        "validation_per_class": 100,
    }


@pytest.mark.parametrize(("name", "number"), [("mnist", 500), ("fashion-mnist", 500), ("digits", 30)])
def test_a_spec_takes_the_validation_size_of_its_data_set(name: str, number: int) -> None:
    assert data_spec(name) == DataSpec(name, 255, "none", 1234, number)


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_registered_data_set_carries_its_own_name(name: str) -> None:
    assert dataset(name).name == name


@pytest.mark.parametrize("name", DATASETS.names())
def test_the_preferred_augmentation_of_every_data_set_is_registered(name: str) -> None:
    assert dataset(name).augmentation in AUGMENTATIONS


def test_an_unknown_data_set_is_refused_with_near_matches() -> None:
    with pytest.raises(UsageError, match=r"unknown dataset 'minst'.*did you mean 'mnist'"):
        data_spec("minst")


def test_an_unknown_augmentation_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown augmentation 'flip'"):
        data_spec("mnist", augmentation="flip")


@pytest.mark.parametrize("divisor", [0, 1, 254, 257, -255])
def test_only_255_and_256_divide_pixels(divisor: int) -> None:
    with pytest.raises(UsageError, match="255 or 256"):
        data_spec("mnist", divisor=divisor)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_split_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(UsageError, match="split seed"):
        data_spec("mnist", split_seed=seed)


@pytest.mark.parametrize("number", [0, -1, 2**63])
def test_a_validation_size_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(UsageError, match="cannot hold out"):
        data_spec("mnist", validation_per_class=number)


@given(names, st.sampled_from([255, 256]), augmentations, st.integers(0, 2**63 - 1), st.integers(1, 2**63 - 1))
def test_a_spec_survives_json(name: str, divisor: int, augmentation: str, split_seed: int, per_class: int) -> None:
    spec = data_spec(
        name,
        divisor=divisor,
        augmentation=augmentation,
        split_seed=split_seed,
        validation_per_class=per_class,
    )

    assert data_spec_from_dict(json.loads(json.dumps(data_spec_to_dict(spec))), where="x.pt") == spec


@pytest.mark.parametrize("key", valid())
def test_a_missing_key_is_named(key: str) -> None:
    header = valid()
    del header[key]

    with pytest.raises(ArtifactError, match=rf"unknown or missing keys '{key}' \(x\.pt\)"):
        data_spec_from_dict(header, where="x.pt")


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ArtifactError, match="unknown or missing keys 'colour'"):
        data_spec_from_dict(valid() | {"colour": 1}, where="x.pt")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", 1),
        ("dataset", "imagenet"),
        ("divisor", 255.0),
        ("divisor", 254),
        ("augmentation", None),
        ("augmentation", "none "),
        ("split_seed", True),
        ("split_seed", -1),
        ("split_seed", "1234"),
        ("validation_per_class", None),
        ("validation_per_class", 0),
        ("validation_per_class", 10**30),
    ],
)
def test_a_wrong_value_is_an_artifact_error(key: str, value: object) -> None:
    with pytest.raises(ArtifactError, match=r"\(x\.pt\)"):
        data_spec_from_dict(valid() | {key: value}, where="x.pt")


@given(json_values | st.fixed_dictionaries({key: json_values for key in valid()}))
@settings(max_examples=40)
def test_foreign_json_raises_nothing_but_artifact_errors(data: object) -> None:
    with pytest.raises(ArtifactError):
        data_spec_from_dict(data, where="x.pt")
