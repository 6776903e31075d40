from __future__ import annotations

from typing import get_args

import pytest
import torch

from qcaps.capsules.masking import MaskLayout, mask_capsules

MASK_LAYOUTS = get_args(MaskLayout)
# Two images, three classes, two dimensions; every number tells where it stands.
CAPSULES = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[7.0, 8.0], [9.0, 10.0], [11.0, 12.0]]])


def test_zeros_layout_keeps_the_capsule_in_its_place_class_by_class():
    masked = mask_capsules(CAPSULES, torch.tensor([1, 0]), "zeros")
    assert masked.tolist() == [[0, 0, 3, 4, 0, 0], [7, 8, 0, 0, 0, 0]]


def test_select_layout_gives_the_kept_capsule_alone():
    assert mask_capsules(CAPSULES, torch.tensor([2, 1]), "select").tolist() == [[5, 6], [9, 10]]


@pytest.mark.parametrize("layout", MASK_LAYOUTS)
def test_the_gradient_of_masking_reaches_the_kept_capsule_only(layout):
    capsules = CAPSULES.clone().requires_grad_()
    mask_capsules(capsules, torch.tensor([1, 0]), layout).sum().backward()
    assert capsules.grad[:, :, 0].tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("layout", MASK_LAYOUTS)
def test_masking_keeps_the_precision_of_the_capsules(layout):
    assert mask_capsules(CAPSULES.double(), torch.tensor([0, 2]), layout).dtype == torch.float64


@pytest.mark.parametrize(("layout", "width"), [("zeros", 6), ("select", 2)])
def test_masking_one_image_keeps_the_batch_axis(layout, width):
    assert mask_capsules(CAPSULES[:1], torch.tensor([2]), layout).shape == (1, width)
