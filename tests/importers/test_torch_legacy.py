from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_files import on_gpu, save_legacy
from torch import nn

from qcaps.errors import ArtifactError
from qcaps.importers.torch_legacy import read_torch_legacy


def read(path: Path) -> dict[str, np.ndarray]:
    return {piece.name: piece.values for piece in read_torch_legacy(path).pieces}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert np.array_equal(found[name], tensor.detach().numpy())
        assert found[name].dtype == tensor.detach().numpy().dtype


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def test_a_state_dict_comes_back_in_its_order(tmp_path: Path) -> None:
    state = network().state_dict()
    path = save_legacy(tmp_path / "model.pth", state)
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert_same(read(path), state)


def test_a_wrapper_with_prefixes_and_parameters_on_a_gpu_is_read(tmp_path: Path) -> None:
    state = dict(network().named_parameters())
    wrapper = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}, "metric": "loss"}
    path = on_gpu(save_legacy(tmp_path / "model.pth", wrapper))
    assert b"cuda:0" in path.read_bytes()
    assert read_torch_legacy(path).numbers == {"epoch": 3}
    assert_same(read(path), state)


def test_views_are_read_as_the_numbers_they_show(tmp_path: Path) -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.arange(9.0)[4:6]}
    assert_same(read(save_legacy(tmp_path / "model.pth", state)), state)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_calls_a_function_is_refused_without_the_call(tmp_path: Path) -> None:
    trap = Trap(tmp_path / "trap")
    path = save_legacy(tmp_path / "model.pth", {"a": torch.zeros(1), "b": trap})
    with pytest.raises(Exception, match=r"posix\.mkdir"):
        read(path)
    assert not (tmp_path / "trap").exists()
    function, arguments = trap.__reduce__()
    function(*arguments)  # what a careless reader would call does work
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"a": torch.zeros(1).expand(10**10)}, "does not hold all elements"),
        ({"a": torch.zeros(2).half()}, "another precision"),
        ({"a": 1.5}, "not a plain tensor"),
    ],
    ids=["repeated", "half", "number"],
)
def test_other_tensors_are_refused(tmp_path: Path, tensors: dict[str, object], reason: str) -> None:
    with pytest.raises(ArtifactError, match=reason):
        read(save_legacy(tmp_path / "model.pth", tensors))


def test_many_tensors_on_the_same_numbers_are_refused(tmp_path: Path) -> None:
    shared = torch.zeros(1000)
    path = save_legacy(tmp_path / "model.pth", {str(i): shared[:] for i in range(1000)})
    with pytest.raises(ArtifactError, match="share their numbers"):
        read(path)
