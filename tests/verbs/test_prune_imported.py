"""Networks that EagleEye and Towards Efficient Capsule Networks pruned, pruned further and quantized."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from foreign_files import save_zip
from foreign_torch import eagleeye, towards_efficient

import qcaps
from qcaps.artifacts.checkpoint import read_checkpoint
from qcaps.data.digits import DIGITS
from qcaps.data.images import ImageSet
from qcaps.quantization.loading import load

CLASSES = tuple("abcd")


@pytest.fixture(autouse=True)
def _colour_images(monkeypatch):
    """Put tiny colour images in the place of the digits."""

    def read(part, *where):
        count = 12 if part == "test" else 100
        generator = torch.Generator().manual_seed(count)
        pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator).to(torch.uint8)
        return ImageSet("digits", part, pixels, torch.arange(count) % 4, torch.arange(count), CLASSES)

    shape = {"channels": 3, "height": 32, "width": 32, "class_names": CLASSES}
    colours = dataclasses.replace(DIGITS, read=read, validation_per_class=10, augmentation="none", **shape)
    monkeypatch.setattr("qcaps.data.digits.DIGITS", colours)


def weights(folder: Path, source: str, kind: str) -> Path:
    """Write weights of thin networks as their own code does."""
    if source == "eagleeye":
        return save_zip(folder / "model.pth", {"state_dict": eagleeye(kind, len(CLASSES)), "epoch": 3})
    return save_zip(folder / "model.pth", {"state_dict": towards_efficient(kind, cells=1), "routing_iterations": 2})


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("eagleeye", "mobilenetv1"),
        ("towards-efficient", "mobilenetv1"),
        pytest.param("eagleeye", "resnet50", marks=pytest.mark.slow),
        pytest.param("towards-efficient", "resnet50", marks=pytest.mark.slow),
    ],
)
def test_what_was_pruned_elsewhere_is_pruned_further_fine_tuned_and_quantized(tmp_path, source, kind):
    size = ["height=32", "width=32"] if source == "eagleeye" else []
    imported = qcaps.import_checkpoint(
        weights(tmp_path, source, kind), source, dataset="digits", model_arg=size, out=tmp_path / "import"
    )
    few = {"candidates": 1, "improve": 0, "calibration_images": 16, "finetune_epochs": 1, "finetune_lr": 1e-5}
    pruned = qcaps.prune(imported.files[0], flops=0.7, **few, reproducible=True, out=tmp_path / "prune")
    assert 0.6 < pruned.document["cost"]["MACs"]["kept"] <= 0.7
    before, after = (read_checkpoint(file)[0].model for file in (imported.files[0], pruned.files[0]))
    assert all(new <= old for new, old in zip(after.widths, before.widths, strict=True))
    assert after.widths != before.widths
    assert len(read_checkpoint(pruned.files[0])[0].record["history"]) == 1
    wide = {"search": "common-width", "widths": "8", "accuracy_tolerance": 100, "calibration_images": 16}
    packed = qcaps.quantize(pruned.files[0], **wide, prepare=False, out=tmp_path / "quantize").files[0]
    assert load(packed).model.folded() == after.folded().without_decoder()
