"""Fixtures that all tests share: fixed seeds, real data, and one small network trained once."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is loaded, here and in every command a test starts: on tiny networks a second thread only waits.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch

import qcaps

# A tiny Efficient-CapsNet: 2 primary capsules, some 6,000 values, trained in seconds.
TINY = ["conv_channels=[8, 8, 8, 16]", "norm_momentum=0.1"]


GITHUB = ("GITHUB_ACTIONS", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("QCAPS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    for name in ("QCAPS_DEBUG", "NO_COLOR", "FORCE_COLOR", "CI", "QCAPS_OFFLINE", *GITHUB):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def data_dir(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder of real images, decoded once for all runs of the tests, or skip the test."""
    folder = os.environ.get("QCAPS_DATA")
    if not folder:
        pytest.skip("QCAPS_DATA names no folder of real images")
    monkeypatch.setenv("QCAPS_CACHE", str(request.config.cache.mkdir("images")))
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a tiny network on the embedded digits, once for all tests; nobody writes into its folder."""
    out = tmp_path_factory.mktemp("tiny")
    qcaps.train(dataset="digits", epochs=4, lr=0.005, batch_size=32, decoder="none", model_arg=TINY, out=out)
    return out / "checkpoint.pt"
