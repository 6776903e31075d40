from __future__ import annotations

from pathlib import Path

import foreign_networks
import pytest
import torch
from foreign_files import save_zip
from foreign_networks import assert_same
from foreign_torch import towards_efficient

from qcaps.importers.importing import import_weights
from qcaps.models.mobilenetv1_capsnet import MobileNetV1CapsNetSpec
from qcaps.models.resnet50_capsnet import ResNet50CapsNetSpec
from qcaps.models.spec import filled

SOURCE = "towards-efficient"


@pytest.mark.parametrize(("kind", "cells", "passes"), [("resnet50", 2, 3), ("mobilenetv1", 2, 1), ("resnet50", 3, 4)])
def test_a_network_computes_the_same(tmp_path: Path, kind: str, cells: int, passes: int) -> None:
    state = towards_efficient(kind, cells=cells)
    wrapper = {"epoch": 12, "routing_iterations": passes, "state_dict": state, "metric": "loss"}
    imported = import_weights(save_zip(tmp_path / "model_best.pt", wrapper), SOURCE)
    spec = imported.spec
    assert type(spec) is {"resnet50": ResNet50CapsNetSpec, "mobilenetv1": MobileNetV1CapsNetSpec}[kind]
    assert (spec.height, spec.width, spec.routing_passes) == (32 * cells, 32 * cells, passes)
    assert (spec.classes, spec.primary_types, spec.primary_dim, spec.class_dim) == (4, 2, 8, 16)
    assert (spec.squash, spec.squash_eps, spec.routing_detach, spec.head) == ("hinton_sqrt", 1e-6, True, "full")
    images = torch.randn(2, 3, 32 * cells, 32 * cells)
    expected = foreign_networks.towards_efficient(state, images, passes)
    assert_same(filled(spec, imported.tensors, where="")(images), expected)


def test_only_the_mobilenet_lacks_the_relu_of_its_first_convolution(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model_best.pt", {"state_dict": towards_efficient("mobilenetv1")})
    assert import_weights(path, SOURCE).spec.stem_relu is False


def test_the_bias_that_the_published_code_never_reads_is_ignored(tmp_path: Path) -> None:
    state = towards_efficient("resnet50") | {"primaryCaps.routing_bias": torch.ones(2, 1, 1, 8, 1)}
    ignored = import_weights(save_zip(tmp_path / "model_best.pt", {"state_dict": state}), SOURCE).ignored
    assert [name for name in ignored if not name.endswith("num_batches_tracked")] == ["primaryCaps.routing_bias"]
