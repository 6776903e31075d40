"""Which images a search looks at: the report split never."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qcaps
import qcaps.verbs.quantize as verb
import qcaps.verbs.quantize_job as job
from qcaps.data.images import ImageSet, Split
from qcaps.data.load import load_split
from qcaps.data.spec import DataSpec
from qcaps.progress import OnProgress


class Sealed:
    """A report split that must not be looked at."""

    def __getattribute__(self, name: str) -> object:
        pytest.fail(f"the report split was asked for {name}")

    def __len__(self) -> int:
        pytest.fail("the report split was counted")


class ProofReachedError(Exception):
    """The search is over."""


@pytest.fixture
def _sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(data: DataSpec, split: Split, *, data_dir: Path | None, on_progress: OnProgress) -> ImageSet | Sealed:
        return Sealed() if split == "test" else load_split(data, split, data_dir=data_dir)

    def prove(*_evidence: object) -> None:
        raise ProofReachedError

    monkeypatch.setattr(verb, "load_split", load)
    monkeypatch.setattr(verb, "prove", prove)


@pytest.mark.usefixtures("_sealed")
@pytest.mark.parametrize("search", ["pareto", "common-width"])
def test_a_search_never_looks_at_the_report_split(search: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    options = {"search": search, "accuracy_tolerance": 5, "widths": "2,4,8", "memory_budget": "20kB"}
    with pytest.raises(ProofReachedError):
        qcaps.quantize(tiny_checkpoint, **options, out=tmp_path)
    assert (tmp_path / "satisfied.pt").exists()


@pytest.mark.usefixtures("_sealed")
def test_sensitivity_never_looks_at_the_report_split(tiny_checkpoint: Path, tmp_path: Path) -> None:
    qcaps.quantize(tiny_checkpoint, sensitivity_only=True, widths="4,8", out=tmp_path)
    assert (tmp_path / "sensitivity.csv").exists()


@pytest.mark.usefixtures("_sealed")
def test_scales_are_chosen_on_training_images_alone(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ImageSet] = []
    real = job.calibrate
    monkeypatch.setattr(
        job, "calibrate", lambda network, images, **own: seen.append(images) or real(network, images, **own)
    )
    with pytest.raises(ProofReachedError):
        qcaps.quantize(tiny_checkpoint, widths="8", accuracy_tolerance=50, calibration_images=100, out=tmp_path)
    (images,) = seen
    assert (images.split, len(images)) == ("train", 100)
    searched = load_split(qcaps.load(tiny_checkpoint).data, "validation", data_dir=None)
    assert not set(images.indices.tolist()) & set(searched.indices.tolist())
    assert len(torch.unique(images.indices)) == 100
