from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_networks
import pytest
import torch
from foreign_files import save_keras
from foreign_keras import q7
from foreign_networks import assert_same

from qcaps.errors import ArtifactError
from qcaps.importers.importing import import_weights
from qcaps.models.capsnet_flavours import Q7_CIFAR10, Q7_MNIST, Q7_SMALLNORB
from qcaps.models.network import parameter_count
from qcaps.models.spec import build, filled

pytest.importorskip("h5py")

PRESETS = {"mnist": (Q7_MNIST, 296_800), "smallnorb": (Q7_SMALLNORB, 295_584), "cifar10": (Q7_CIFAR10, 115_296)}


@pytest.mark.parametrize("kind", PRESETS)
def test_a_published_network_is_the_preset_and_computes_the_same(tmp_path: Path, kind: str) -> None:
    layers, config = q7(kind)
    path = save_keras(tmp_path / "model.h5", layers, config=config, whole_model=True)
    imported = import_weights(path, "q7-capsnets")
    preset, values = PRESETS[kind]
    assert imported.spec == preset.spec
    assert parameter_count(build(imported.spec)) == values
    images = torch.rand(2, preset.spec.channels, preset.spec.height, preset.spec.width)
    convs = [
        (*layers[layer["config"]["name"]].values(), _stride(layer["config"]["strides"]))
        for layer in json.loads(config)["config"]["layers"]
        if "kernel_size" in layer["config"]
    ]
    expected = foreign_networks.q7(convs, layers["capsule"]["capsule/weights"], images.movedim(1, 3))
    assert_same(filled(imported.spec, imported.tensors, where="")(images), expected)


def _stride(strides: int | list[int]) -> int:
    return strides if isinstance(strides, int) else strides[0]


def refusal(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> str:
    layers, text = q7("mnist")
    config = json.loads(text)
    change(config)
    path = save_keras(tmp_path / "model.h5", layers, config=json.dumps(config), whole_model=True)
    with pytest.raises(ArtifactError) as caught:
        import_weights(path, "q7-capsnets")
    return caught.value.what


def changed(layer: int, **numbers: object) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["config"]["layers"][layer]["config"].update(numbers)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changed(1, padding="same"), "pads its convolutions"),
        (changed(1, activation="relu"), "not followed by one ReLU"),
        (changed(2, activation="tanh"), "not followed by one ReLU"),
        (changed(1, strides=[1, 2]), "not square"),
        (changed(3, dim_capsule=0), "not 10xanyx6x0"),
        (changed(3, dim_capsule=8), "not 10xanyx6x8"),
        (changed(4, routings=0), "impossible network"),
        (changed(4, routings="3"), "not what Keras writes"),
        (changed(0, batch_input_shape=[None, None, None, 1]), "impossible network"),
        (changed(0, batch_input_shape=[None, 784]), "impossible network"),
        (changed(0, batch_input_shape=[None, 40, 40, 1]), "has shape"),
        (changed(1, name="conv2d_9"), "'conv2d_9' has 0 weights"),
        (lambda config: config["config"]["layers"].pop(2), "not followed by one ReLU"),
        (lambda config: config["config"]["layers"].pop(), "not those of a Q7-CapsNet"),
        (lambda config: config["config"]["layers"].reverse(), "not those of a Q7-CapsNet"),
        (lambda config: config.pop("config"), "not what Keras writes"),
    ],
)
def test_a_graph_that_our_network_does_not_compute_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    assert reason in refusal(tmp_path, change)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["config"]["layers"].extend(500 * config["config"]["layers"]),
        changed(1, name="x" * 9000),
        changed(3, kernel_size=list(range(3000))),
    ],
    ids=["layers", "name", "kernel"],
)
def test_a_refusal_stays_short_whatever_the_graph_says(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    assert len(refusal(tmp_path, change)) < 200


def test_weights_without_a_graph_are_refused(tmp_path: Path) -> None:
    layers, _ = q7("mnist")
    with pytest.raises(ArtifactError, match="no model_config"):
        import_weights(save_keras(tmp_path / "weights.h5", layers), "q7-capsnets")
