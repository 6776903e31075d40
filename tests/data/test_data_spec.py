from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcaps.data.dataset import DataSet, dataset, registered
from qcaps.data.preparation import PLAIN, Preparation
from qcaps.data.spec import DataSpec, data_spec, data_spec_from_dict, data_spec_to_dict
from qcaps.errors import ArtifactError, UsageError
from qcaps.registry import AUGMENTATIONS, DATASETS, PREPARATIONS

# The others depend on their files: tests/data/test_own_images.py.
CLOSED = [name for name in DATASETS.names() if isinstance(registered(name), DataSet)]
names = st.sampled_from(CLOSED)
augmentations = st.sampled_from(AUGMENTATIONS.names())
sides = st.integers(20, 64)
numbers = st.floats(0.125, 2)
preparations = st.builds(
    Preparation,
    divisor=st.sampled_from([255, 256]),
    resize=st.none() | st.tuples(sides, sides),
    resize_rounds=st.booleans(),
    mean=st.tuples(numbers),
    std=st.tuples(numbers),
    test_mean=st.just((0.1,)),
    test_std=st.tuples(numbers),
    crop=st.none() | st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def preparation() -> dict[str, object]:
    return {
        "divisor": 256,
        "resize": [32, 30],
        "resize_rounds": True,
        "mean": [0.5],
        "std": [0.25],
        "test_mean": [],
        "test_std": [],
        "crop": None,
    }


def valid() -> dict[str, object]:
    return {
        "dataset": "mnist",
        "preparation": preparation(),
        "augmentation": "shift",
        "split_seed": 7,
        "validation_per_class": 100,
    }


@pytest.mark.parametrize(("name", "number"), [("mnist", 500), ("fashion-mnist", 500), ("digits", 30)])
def test_a_spec_takes_the_validation_size_of_its_data_set(name: str, number: int) -> None:
    assert data_spec(name) == DataSpec(name, PLAIN, "none", 1234, number)


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_registered_data_set_carries_its_own_name(name: str) -> None:
    assert registered(name).name == name


@pytest.mark.parametrize("name", CLOSED)
def test_the_preferred_augmentation_of_every_data_set_is_registered(name: str) -> None:
    assert dataset(name).augmentation in AUGMENTATIONS


@pytest.mark.parametrize("name", CLOSED)
def test_the_preferred_preparation_of_every_data_set_is_registered(name: str) -> None:
    assert dataset(name).preparation in PREPARATIONS


def test_the_image_of_a_spec_is_the_prepared_one() -> None:
    assert data_spec("mnist").image == (1, 28, 28)
    assert data_spec("mnist", preparation=Preparation(resize=(40, 36))).image == (1, 40, 36)
    assert data_spec("mnist", preparation=Preparation(resize=(40, 36), crop=(30, 32))).image == (1, 30, 32)
    assert data_spec("mnist", preparation=Preparation(crop=(20, 20))).image == (1, 20, 20)
    assert data_spec("mnist").classes == 10


def test_an_unknown_data_set_is_refused_with_near_matches() -> None:
    with pytest.raises(UsageError, match=r"unknown dataset 'minst'.*did you mean 'mnist'"):
        data_spec("minst")


def test_an_unknown_augmentation_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown augmentation 'flip'"):
        data_spec("mnist", augmentation="flip")


@pytest.mark.parametrize("divisor", [0, 1, 254, 257, -255])
def test_only_255_and_256_divide_pixels(divisor: int) -> None:
    with pytest.raises(UsageError, match="255 or 256"):
        data_spec("mnist", preparation=Preparation(divisor))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_split_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(UsageError, match="split seed"):
        data_spec("mnist", split_seed=seed)


@pytest.mark.parametrize("number", [0, -1, 2**63])
def test_a_validation_size_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(UsageError, match="cannot hold out"):
        data_spec("mnist", validation_per_class=number)


@given(names, preparations, augmentations, st.integers(0, 2**63 - 1), st.integers(1, 2**63 - 1))
def test_a_spec_survives_json(
    name: str, preparation: Preparation, augmentation: str, split_seed: int, per_class: int
) -> None:
    spec = data_spec(
        name,
        preparation=preparation,
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
        ("preparation", None),
        ("preparation", [255]),
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


@pytest.mark.parametrize("key", preparation())
def test_a_missing_key_of_the_preparation_is_named(key: str) -> None:
    header = preparation()
    del header[key]

    with pytest.raises(ArtifactError, match=rf"the preparation has unknown or missing keys '{key}' \(x\.pt\)"):
        data_spec_from_dict(valid() | {"preparation": header}, where="x.pt")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("divisor", 255.0),
        ("divisor", 254),
        ("divisor", True),
        ("resize", 64),
        ("resize", [64]),
        ("resize", [64, 64.0]),
        ("resize", [64, True]),
        ("resize", [0, 64]),
        ("resize", [64, 1025]),
        ("resize_rounds", 1),
        ("resize_rounds", None),
        ("mean", 0.5),
        ("mean", []),
        ("mean", [0]),
        ("mean", [0.1, 0.2]),
        ("mean", [float("nan")]),
        ("mean", "a"),
        ("std", [0.0]),
        ("std", [-1.0]),
        ("std", [float("inf")]),
        ("std", ["1.0"]),
        ("std", None),
        ("test_mean", [0.5]),
        ("test_std", [0.5]),
        ("test_mean", None),
        ("crop", [33, 30]),
        ("crop", [32, 31]),
        ("crop", []),
        ("crop", {}),
    ],
)
def test_a_wrong_number_of_the_preparation_is_an_artifact_error(key: str, value: object) -> None:
    with pytest.raises(ArtifactError, match=r"\(x\.pt\)"):
        data_spec_from_dict(valid() | {"preparation": preparation() | {key: value}}, where="x.pt")


@given(st.fixed_dictionaries({key: json_values for key in preparation()}))
@settings(max_examples=40)
def test_a_foreign_preparation_raises_nothing_but_artifact_errors(data: object) -> None:
    with pytest.raises(ArtifactError):
        data_spec_from_dict(valid() | {"preparation": data}, where="x.pt")


@given(json_values | st.fixed_dictionaries({key: json_values for key in valid()}))
@settings(max_examples=40)
def test_foreign_json_raises_nothing_but_artifact_errors(data: object) -> None:
    with pytest.raises(ArtifactError):
        data_spec_from_dict(data, where="x.pt")
