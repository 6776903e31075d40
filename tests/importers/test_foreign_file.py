from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from foreign_files import save_keras, save_legacy, save_zip
from torch import nn

from qcaps.artifacts.records import Limits
from qcaps.errors import ArtifactError, UsageError
from qcaps.importers import confinement
from qcaps.importers.foreign_file import Foreign, read_foreign

STATE = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).state_dict()


def refusal(path: Path) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        read_foreign(path)
    assert caught.value.where == str(path)
    assert "\n" not in str(caught.value)
    return caught.value


def assert_holds_state(foreign: Foreign) -> None:
    assert list(foreign.tensors) == list(STATE)
    for name, tensor in STATE.items():
        assert torch.equal(foreign.tensors[name], tensor)
        assert foreign.tensors[name].dtype == tensor.dtype
    assert foreign.sha256 == hashlib.sha256(foreign.path.read_bytes()).hexdigest()
    assert (foreign.groups, foreign.config) == ({}, "")


def test_a_zip_of_torch_is_read(tmp_path: Path) -> None:
    foreign = read_foreign(save_zip(tmp_path / "model.pt", STATE))
    assert foreign.format == "pytorch-zip"
    assert_holds_state(foreign)


def test_a_file_from_before_torch_1_6_is_read_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_legacy(tmp_path / "model.pth", {"epoch": 7, "state_dict": STATE})
    monkeypatch.setattr(torch, "load", None)  # here; the other process has its own
    monkeypatch.chdir(tmp_path)
    for name in ("torch.py", "sitecustomize.py"):  # neither the working folder nor the surroundings are searched
        (tmp_path / name).write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    foreign = read_foreign(Path(path.name))
    assert not (tmp_path / "imported").exists()
    assert foreign.format == "pytorch-legacy"
    assert foreign.numbers == {"epoch": 7}
    assert_holds_state(foreign)


def test_a_keras_file_gives_its_layers_and_graph(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    kernel, bias, inner = torch.randn(3, 2), torch.randn(2), torch.randn(4)
    layers = {"input": {}, "zebra": {"z/kernel": kernel, "a/bias": bias}, "ape": {"w": inner}}
    foreign = read_foreign(save_keras(tmp_path / "model.h5", layers, config='{"a": 1}', whole_model=True))
    assert foreign.format == "keras-h5"
    assert foreign.config == '{"a": 1}'
    assert foreign.groups == {"zebra": ("zebra/z/kernel:0", "zebra/a/bias:0"), "ape": ("ape/w:0",)}
    assert list(foreign.tensors) == ["zebra/z/kernel:0", "zebra/a/bias:0", "ape/w:0"]
    for found, expected in zip(foreign.tensors.values(), (kernel, bias, inner), strict=True):
        assert torch.equal(found, expected)


def test_a_keras_file_without_h5py_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'qcaps\[h5\]'"):
        read_foreign(tmp_path / "model.h5")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    path = save_zip(tmp_path / "model.pt", {"a": torch.zeros(3), "b": torch.tensor([1.0, value])})
    assert "NaN or infinity in tensor 'b'" in refusal(path).what


def test_values_of_a_keras_file_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    path = save_keras(tmp_path / "model.h5", {"a": {"w": torch.tensor([1.0, float("nan")])}})
    assert "NaN or infinity in tensor 'a/w:0'" in refusal(path).what


@pytest.mark.parametrize("content", [b"", b"x", b"# text\n" * 100, b"PK", b"PK\3\4", b"\x80\x02}q\x00.", bytes(1000)])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    assert "save_weights" in refusal(tmp_path / "model.pt").do


def test_a_folder_a_missing_file_and_a_pipe_are_refused(tmp_path: Path) -> None:
    assert "not a regular file" in refusal(tmp_path).what
    assert "No such file" in refusal(tmp_path / "missing.pt").what
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe").what


def test_a_file_above_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = save_zip(tmp_path / "model.pt", {"a": torch.zeros(1000)})
    with pytest.raises(ArtifactError, match="1000 is the limit"):
        read_foreign(path, Limits(file_bytes=1000))


@pytest.mark.parametrize("save", [save_legacy, save_keras])
def test_a_truncated_file_is_refused(tmp_path: Path, save: Callable[[Path, object], Path]) -> None:
    path = save(tmp_path / "model", {"layer": {"w": torch.ones(2000)}} if save is save_keras else STATE)
    path.write_bytes(path.read_bytes()[:-100])
    assert "damaged" in refusal(path).what


def test_a_truncated_zip_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = save_zip(tmp_path / "model.pt", STATE).read_bytes()
    for end in range(0, len(whole), 251):
        (tmp_path / "cut.pt").write_bytes(whole[:end])
        assert refusal(tmp_path / "cut.pt")


def test_a_process_that_dies_leaves_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_legacy(tmp_path / "model.pth", STATE)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "cannot be read within the limits" in refusal(path).what


def test_a_process_that_never_ends_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_legacy(tmp_path / "model.pth", STATE)
    monkeypatch.setattr(confinement, "_LEAST_SECONDS", 0)
    assert "far too long" in refusal(path).what


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the high-water mark of Linux")
@pytest.mark.parametrize("save", [save_zip, save_legacy, save_keras])
def test_memory_stays_below_twice_the_file_and_200_mb(tmp_path: Path, save: Callable[[Path, object], Path]) -> None:
    tensors = {str(i): torch.ones(2_500_000) for i in range(20)}  # 200 MB
    path = save(tmp_path / "model", {"layer": tensors} if save is save_keras else tensors)
    code = (
        "import re, sys; from pathlib import Path; from qcaps.importers.foreign_file import read_foreign;"
        "peak = lambda: 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]);"
        "before = peak(); foreign = read_foreign(Path(sys.argv[1])); print(peak() - before)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert 190e6 < int(run.stdout) < 2 * path.stat().st_size + 200e6
