from __future__ import annotations

import pytest
import torch

from qcaps.errors import UsageError
from qcaps.training.devices import accelerator


def test_cpu_means_the_cpu_in_full_precision():
    made = accelerator("cpu", "no")
    assert made.device == torch.device("cpu")
    assert made.mixed_precision == "no"


def test_a_second_run_of_the_same_process_may_want_another_precision():
    precisions = [accelerator("cpu", wanted).mixed_precision for wanted in ("no", "bf16", "no")]
    assert precisions == ["no", "bf16", "no"]


@pytest.mark.parametrize("device", ["gpu", "", "cuda:x", "cuda:-1", "cpu:0", "auto:0", "cuda:1:2", "\x1b[2J"])
def test_an_unknown_device_is_a_usage_error(device):
    with pytest.raises(UsageError, match="unknown device") as raised:
        accelerator(device, "no")
    assert raised.value.where == "--device"


@pytest.mark.parametrize(("device", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:7", 2)])
def test_a_cuda_device_that_is_not_there_is_a_usage_error(monkeypatch, device, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(UsageError, match=f"there is no {device}") as raised:
        accelerator(device, "no")
    assert f"{count} CUDA devices" in raised.value.do


def test_a_precision_the_device_does_not_have_is_refused_instead_of_left_out():
    with pytest.raises(UsageError, match="fp16 is not possible on cpu"):
        accelerator("cpu", "fp16")


def test_an_unknown_precision_is_a_usage_error():
    with pytest.raises(UsageError, match="fp4 is not possible") as raised:
        accelerator("cpu", "fp4")
    assert raised.value.where == "--mixed-precision"
