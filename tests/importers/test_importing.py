from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from foreign_files import save_zip
from foreign_keras import efficient_keras, keras_fc, keras_upsample48, original_keras, q7
from foreign_torch import (
    eagleeye,
    efficientcn,
    efficientcn_capsnet,
    ethanleet,
    ethanleet_fc,
    q_capsnets_deepcaps,
    q_capsnets_shallow,
    towards_efficient,
)
from torch import Tensor

from qcaps.errors import ArtifactError, UsageError
from qcaps.importers.foreign_file import Foreign
from qcaps.importers.importing import import_weights, map_foreign
from qcaps.models.spec import filled
from qcaps.registry import IMPORTERS

THIN = {"width": 3, "types": 2}


def foreign(tensors: dict[str, Tensor], layers: dict[str, tuple[str, ...]] | None = None, config: str = "") -> Foreign:
    return Foreign(Path("model"), "pytorch-zip", "0" * 64, tensors, layers or {}, config=config)


def keras(layers: dict[str, dict[str, Tensor]], config: str = "") -> Foreign:
    tensors = {f"{layer}/{name}": tensor for layer, weights in layers.items() for name, tensor in weights.items()}
    groups = {layer: tuple(f"{layer}/{name}" for name in weights) for layer, weights in layers.items() if weights}
    return foreign(tensors, groups, config)


# One small file for every layout: the source, and how to make it.
FILES: dict[str, tuple[str, Callable[[], Foreign]]] = {
    "shallow": ("q-capsnets", lambda: foreign(q_capsnets_shallow(**THIN))),
    "deepcaps": ("q-capsnets", lambda: foreign(q_capsnets_deepcaps(**THIN))),
    "mnist": ("efficient-capsnet", lambda: keras(efficient_keras("mnist") | keras_fc(160, 784))),
    "smallnorb": ("efficient-capsnet", lambda: keras(efficient_keras("smallnorb", classes=5) | keras_upsample48())),
    "original": ("efficient-capsnet", lambda: keras(original_keras(**THIN))),
    "q7": ("q7-capsnets", lambda: keras(*q7("cifar10"))),
    "efficientcn": ("efficientcn", lambda: foreign(efficientcn("mnist"))),
    "efficientcn capsnet": ("efficientcn", lambda: foreign(efficientcn_capsnet(**THIN))),
    "ethanleet": ("ethanleet", lambda: foreign(ethanleet(**THIN) | ethanleet_fc(160, 784, with_norm=False))),
    "ethanleet with norm": ("ethanleet", lambda: foreign(ethanleet(**THIN, with_norm=True))),
    "eagleeye resnet": ("eagleeye", lambda: foreign(eagleeye("resnet50"))),
    "eagleeye mobilenet": ("eagleeye", lambda: foreign(eagleeye("mobilenetv1"))),
    "capsule resnet": ("towards-efficient", lambda: foreign(towards_efficient("resnet50"))),
    "capsule mobilenet": ("towards-efficient", lambda: foreign(towards_efficient("mobilenetv1"))),
}
every_layout = pytest.mark.parametrize("layout", FILES)


def needed(file: Foreign) -> list[str]:
    """Name a few tensors of a file from its beginning, its middle and its end, without those it may lack."""
    names = [name for name in file.tensors if not name.endswith("num_batches_tracked") and name != "fcncaps.B"]
    return names if len(names) < 20 else [*names[:3], *names[len(names) // 2 :][:3], *names[-6:]]


def changed(file: Foreign, tensors: dict[str, Tensor]) -> Foreign:
    groups = {layer: tuple(n for n in names if n in tensors) for layer, names in file.groups.items()}
    return foreign(tensors, groups, file.config)


@every_layout
def test_a_file_is_mapped_by_its_own_source_alone(layout: str) -> None:
    source, make = FILES[layout]
    file = make()
    for entry in IMPORTERS:
        if entry.name == source:
            assert set(map_foreign(file, source, {}).ignored) == {n for n in file.tensors if n.endswith("tracked")}
        else:
            with pytest.raises(ArtifactError):
                map_foreign(file, entry.name, {})


@every_layout
def test_a_file_that_lacks_a_tensor_is_refused(layout: str) -> None:
    source, make = FILES[layout]
    file = make()
    for name in needed(file):
        rest = {other: tensor for other, tensor in file.tensors.items() if other != name}
        with pytest.raises(ArtifactError):
            map_foreign(changed(file, rest), source, {})


@every_layout
@pytest.mark.parametrize("name", ["extra", "decoder.extra", "backbone.layers.0.extra", "conv1.extra", "layers.14.w"])
def test_a_file_with_a_tensor_left_over_is_refused(layout: str, name: str) -> None:
    source, make = FILES[layout]
    file = make()
    with pytest.raises(ArtifactError):
        map_foreign(changed(file, {**file.tensors, name: torch.ones(3)}), source, {})


@every_layout
@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor.unsqueeze(0),
        lambda tensor: torch.cat([tensor, tensor]),
        lambda tensor: tensor[:0],
        lambda tensor: tensor.flatten(),
    ],
    ids=["one more axis", "twice as long", "empty", "flat"],
)
def test_a_file_with_a_tensor_of_another_shape_is_refused(layout: str, change: Callable[[Tensor], Tensor]) -> None:
    source, make = FILES[layout]
    file = make()
    for name in needed(file):
        other = change(file.tensors[name])
        if other.shape == file.tensors[name].shape:
            continue
        with pytest.raises(ArtifactError):
            map_foreign(changed(file, {**file.tensors, name: other}), source, {})


def test_a_file_of_another_source_is_named(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model.pt", ethanleet(**THIN))
    with pytest.raises(ArtifactError) as caught:
        import_weights(path, "q-capsnets")
    line = str(caught.value)
    assert "lacks" in line or "no tensors below" in line
    assert line.endswith(f"({path}); it is a file of ethanleet: use that source")
    assert "\n" not in line


def test_a_file_of_no_source_says_only_what_is_wrong(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model.pt", {"weight": torch.ones(3)})
    with pytest.raises(ArtifactError) as caught:
        import_weights(path, "q-capsnets")
    assert str(caught.value) == f"the file has no tensors below 'conv.conv' ({path})"


def test_an_unknown_source_is_a_usage_error_before_the_file_is_opened() -> None:
    with pytest.raises(UsageError, match="did you mean 'q-capsnets'"):
        import_weights(Path("missing.pt"), "q-capsnet")


@pytest.mark.parametrize("numbers", [{"heigth": 28}, {"height": 0}, {"squash": "none"}])
def test_an_impossible_number_of_the_user_is_a_usage_error(tmp_path: Path, numbers: dict[str, object]) -> None:
    path = save_zip(tmp_path / "model.pt", q_capsnets_shallow(**THIN))
    with pytest.raises(UsageError):
        import_weights(path, "q-capsnets", numbers)


def test_a_number_that_contradicts_the_shapes_is_refused(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model.pt", q_capsnets_shallow(**THIN))
    with pytest.raises(UsageError, match=r"does not have these numbers: .*has shape.*--model-arg"):
        import_weights(path, "q-capsnets", {"classes": 11})


def test_the_sides_of_an_image_that_is_not_square_come_from_the_user(tmp_path: Path) -> None:
    state = q_capsnets_shallow(**THIN)
    state["digit.weight"] = state["digit.weight"][: 2 * 3 * 5].clone()  # 3 rows, 5 columns
    path = save_zip(tmp_path / "model.pt", state)
    with pytest.raises(ArtifactError, match=r"15 positions, no square map \(.*\); give height and width"):
        import_weights(path, "q-capsnets")
    imported = import_weights(path, "q-capsnets", {"height": 22, "width": 26})
    assert (imported.spec.height, imported.spec.width) == (22, 26)


def test_imported_tensors_own_their_memory_and_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model.pt", q_capsnets_shallow(**THIN))
    imported = import_weights(path, "q-capsnets")
    assert imported.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for tensor in imported.tensors.values():
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == 4 * tensor.numel()
    assert filled(imported.spec, imported.tensors, where="").state_dict().keys() == imported.tensors.keys()
