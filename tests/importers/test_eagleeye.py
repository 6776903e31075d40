from __future__ import annotations

from pathlib import Path

import foreign_networks
import pytest
import torch
from foreign_files import on_gpu, save_legacy, save_zip
from foreign_torch import eagleeye
from torch import Tensor

from qcaps.errors import ArtifactError
from qcaps.importers.importing import import_weights
from qcaps.models.mobilenetv1 import MOBILENETV1
from qcaps.models.network import parameter_count
from qcaps.models.resnet50 import RESNET50
from qcaps.models.spec import build, filled


def features(kind: str, state: dict[str, Tensor], images: Tensor) -> Tensor:
    if kind == "resnet50":
        layers = ("layer1", "layer2", "layer3", "layer4")
        return foreign_networks.resnet50_features(state, images, "conv1", "bn1", *layers)
    return foreign_networks.mobilenetv1_features(state, images, "conv1", "bn1", "layers", stem_relu=True)


@pytest.mark.parametrize(("kind", "linear"), [("resnet50", "fc"), ("mobilenetv1", "linear")])
@pytest.mark.parametrize("counted", [True, False])
def test_a_pruned_network_computes_the_same(tmp_path: Path, kind: str, linear: str, counted: bool) -> None:
    state = eagleeye(kind)
    if not counted:
        state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    imported = import_weights(save_zip(tmp_path / "model.pth", state), "eagleeye")
    assert len(imported.ignored) == ((53 if kind == "resnet50" else 27) if counted else 0)
    assert (imported.spec.height, imported.spec.classes, imported.spec.widths[-1]) == (224, 7, 16)
    images = torch.randn(2, 3, 64, 64)
    output = filled(imported.spec, imported.tensors, where="")(images)
    pooled = features(kind, state, images).mean((2, 3))
    expected = pooled @ state[f"{linear}.weight"].t() + state[f"{linear}.bias"]
    assert expected.std() > 0.1
    torch.testing.assert_close(output.scores, expected, atol=1e-5, rtol=1e-4)


def test_widths_follow_the_order_of_the_network(tmp_path: Path) -> None:
    widths = import_weights(save_zip(tmp_path / "model.pth", eagleeye("mobilenetv1")), "eagleeye").spec.widths
    assert widths == (3, 4, 5, 6, 7, 8, 4, 5, 6, 7, 8, 4, 5, 16)


def test_a_published_file_is_of_the_time_before_torch_1_6_and_on_a_gpu(tmp_path: Path) -> None:
    wrapped = {f"_net.module.{name}": tensor for name, tensor in eagleeye("resnet50").items()}
    imported = import_weights(on_gpu(save_legacy(tmp_path / "model.pth", wrapped)), "eagleeye")
    known = import_weights(save_zip(tmp_path / "new.pth", wrapped), "eagleeye")
    assert imported.spec == known.spec
    assert all(torch.equal(imported.tensors[name], tensor) for name, tensor in known.tensors.items())


@pytest.mark.parametrize(
    ("preset", "names"),
    [
        (RESNET50, {"stem.conv": "conv1", "stem.norm": "bn1", "classifier.linear": "fc"}),
        (MOBILENETV1, {"stem.conv": "conv1", "stem.norm": "bn1", "classifier.linear": "linear"}),
    ],
)
def test_an_unpruned_network_is_the_preset(tmp_path: Path, preset: object, names: dict[str, str]) -> None:
    theirs = torch_names(build(preset.spec).state_dict(), names)
    imported = import_weights(save_zip(tmp_path / "model.pth", theirs), "eagleeye")
    assert imported.spec == preset.spec
    assert parameter_count(build(imported.spec)) in (25_557_032, 4_231_976)


def torch_names(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Name zeros of our shapes as torchvision and EagleEye do."""
    theirs = {}
    for name, tensor in state.items():
        path, _, part = name.removeprefix("stages.").rpartition(".")
        for n in (1, 2, 3):
            path = path.replace(f"conv{n}.norm", f"bn{n}").replace(f"conv{n}.conv", f"conv{n}")
        path = path.replace("downsample.conv", "downsample.0").replace("downsample.norm", "downsample.1")
        path = path.replace("depthwise.conv", "conv1").replace("depthwise.norm", "bn1")
        path = path.replace("pointwise.conv", "conv2").replace("pointwise.norm", "bn2")
        if path.startswith("block"):
            block, _, rest = path.partition(".")
            path = f"layers.{int(block.removeprefix('block')) - 1}.{rest}"
        theirs[f"{names.get(path, path)}.{part}"] = torch.zeros(tensor.shape)
    return theirs


@pytest.mark.parametrize("name", ["layer3.2.conv3.weight", "layer2.0.downsample.0.weight", "layer4.1.bn2.running_var"])
def test_branches_of_different_widths_are_refused(tmp_path: Path, name: str) -> None:
    state = eagleeye("resnet50")
    state[name] = state[name][:-1].clone()
    with pytest.raises(ArtifactError, match="has shape"):
        import_weights(save_zip(tmp_path / "model.pth", state), "eagleeye")
