"""The digits, but few of them, so that a pruning takes a second; and who opened which part of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from qcaps.data.dataset import Part
from qcaps.data.digits import DIGITS
from qcaps.data.images import ImageSet
from qcaps.progress import OnProgress

# Of every class; 30 of the former are held out for validation.
TRAINING, TEST = 45, 10


@contextmanager
def few_digits() -> Iterator[list[Part]]:
    """Leave 150 training, 300 validation and 100 test images; give a list that tells which part was opened."""
    opened: list[Part] = []

    def read(part: Part, folder: Path, download: bool, on_progress: OnProgress) -> ImageSet:
        opened.append(part)
        images = DIGITS.read(part, folder, download, on_progress)
        wanted = TEST if part == "test" else TRAINING
        return images.subset(torch.cat([(images.labels == c).nonzero().flatten()[:wanted] for c in range(10)]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qcaps.data.digits.DIGITS", dataclasses.replace(DIGITS, read=read))
        yield opened
