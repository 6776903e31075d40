from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_files import save_keras

from qcaps.errors import ArtifactError
from qcaps.importers.keras_h5 import read_keras_h5

h5py = pytest.importorskip("h5py")


def contents(path: Path) -> tuple[list[tuple[str, str]], list[np.ndarray]]:
    pieces = list(read_keras_h5(path).pieces)
    return [(piece.group, piece.name) for piece in pieces], [piece.values for piece in pieces]


def test_weights_come_in_the_order_of_the_attributes_not_of_the_alphabet(tmp_path: Path) -> None:
    first, second, last = torch.randn(3, 2), torch.randn(2), torch.randn(1, 2, 3)
    layers = {"input": {}, "zebra": {"z/kernel": first, "a/bias": second}, "mask": {}, "ape": {"w": last}}
    names, values = contents(save_keras(tmp_path / "weights.h5", layers))
    assert names == [("zebra", "z/kernel:0"), ("zebra", "a/bias:0"), ("ape", "w:0")]
    for found, expected in zip(values, (first, second, last), strict=True):
        assert np.array_equal(found, expected.numpy())


def test_a_whole_model_gives_its_graph_and_no_optimizer(tmp_path: Path) -> None:
    path = save_keras(tmp_path / "m.h5", {"conv": {"conv/kernel": torch.ones(2)}}, config="{}", whole_model=True)
    assert read_keras_h5(path).config == "{}"
    assert contents(path)[0] == [("conv", "conv/kernel:0")]


def test_a_file_of_weights_has_no_graph(tmp_path: Path) -> None:
    assert read_keras_h5(save_keras(tmp_path / "m.h5", {"a": {"w": torch.ones(2)}})).config == ""


def honest(path: Path) -> Path:
    return save_keras(path, {"a": {"w": torch.ones(4)}}, suffix="")


def replaced(file: h5py.File, make: Callable[[h5py.Group], object]) -> None:
    del file["a/w"]
    make(file["a"])


def external_link(file: h5py.File) -> None:
    honest(Path(file.filename).with_name("other.h5"))
    replaced(file, lambda group: group.__setitem__("w", h5py.ExternalLink("other.h5", "/a/w")))


def soft_link(file: h5py.File) -> None:
    file["a/real"] = np.ones(4, np.float32)
    replaced(file, lambda group: group.__setitem__("w", h5py.SoftLink("/a/real")))


def bomb(file: h5py.File) -> None:
    zeros = {"shape": 10_000_000, "dtype": "<f4", "compression": "gzip"}
    replaced(file, lambda group: group.create_dataset("w", **zeros))


def chunks(file: h5py.File) -> None:
    replaced(file, lambda group: group.create_dataset("w", data=np.ones(4, np.float32), chunks=(2,)))


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "<f4")
    layout[:] = h5py.VirtualSource(str(Path(file.filename).with_name("other.h5")), "a/w", (4,))
    replaced(file, lambda group: group.create_virtual_dataset("w", layout))


def external_storage(file: h5py.File) -> None:
    raw = Path(file.filename).with_name("raw")
    raw.write_bytes(np.ones(4, np.float32).tobytes())
    replaced(file, lambda group: group.create_dataset("w", (4,), "<f4", external=[(str(raw), 0, 16)]))


def never_written(file: h5py.File) -> None:
    replaced(file, lambda group: group.create_dataset("w", (10**9,), "<f4"))


def doubles(file: h5py.File) -> None:
    replaced(file, lambda group: group.create_dataset("w", data=np.ones(4)))


def a_group(file: h5py.File) -> None:
    replaced(file, lambda group: group.create_group("w"))


def missing(file: h5py.File) -> None:
    replaced(file, lambda group: None)


def numbers_as_names(file: h5py.File) -> None:
    file["a"].attrs["weight_names"] = [1, 2]


def no_names(file: h5py.File) -> None:
    del file["a"].attrs["weight_names"]


def many_names(file: h5py.File) -> None:
    file["a"].attrs["weight_names"] = np.zeros(5000, "S1")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (external_link, "no plain entry 'w'"),
        (soft_link, "no plain entry 'w'"),
        (bomb, "compressed, in pieces"),
        (chunks, "compressed, in pieces"),
        (virtual, "compressed, in pieces or elsewhere"),
        (external_storage, "compressed, in pieces or elsewhere"),
        (never_written, "does not hold all elements"),
        (doubles, "no float32 data set"),
        (a_group, "no float32 data set"),
        (missing, "no plain entry"),
        (numbers_as_names, "no text"),
        (no_names, "no attribute weight_names"),
        (many_names, "huge attribute"),
    ],
)
def test_anything_but_numbers_inside_the_file_is_refused(
    tmp_path: Path, change: Callable[[h5py.File], None], reason: str
) -> None:
    path = honest(tmp_path / "weights.h5")
    assert contents(path)[0] == [("a", "w")]
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ArtifactError, match=reason):
        contents(path)


def test_one_data_set_under_many_names_is_refused(tmp_path: Path) -> None:
    path = save_keras(tmp_path / "weights.h5", {"a": {"w": torch.ones(10_000)}}, suffix="")
    with h5py.File(path, "r+") as file:
        names = [f"w{i}" for i in range(100)]
        for name in names:
            file["a"][name] = file["a/w"]
        file["a"].attrs["weight_names"] = [name.encode() for name in names]
    with pytest.raises(ArtifactError, match="does not hold all elements"):
        contents(path)


def test_another_hdf5_file_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.ones(3, np.float32)
    with pytest.raises(ArtifactError, match="no attribute layer_names, which Keras writes"):
        contents(tmp_path / "other.h5")
