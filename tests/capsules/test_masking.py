from __future__ import annotations

import pytest
import torch

from qcaps.capsules.masking import longest, mask_capsules

# Two images, three classes, two dimensions; every number tells where it stands.
CAPSULES = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[7.0, 8.0], [9.0, 10.0], [11.0, 12.0]]])
EVERY_LAYOUT = pytest.mark.parametrize("layout", ["zeros", "select", "unmasked"])


def masked_by_loop(capsules, kept, layout):
    """Write down the values of one image, number by number."""
    if layout == "select":
        return capsules[kept].tolist()
    rows = [row if layout == "unmasked" or j == kept else [0.0] * len(row) for j, row in enumerate(capsules.tolist())]
    return [value for row in rows for value in row]


def test_zeros_layout_keeps_the_capsule_in_its_place_class_by_class():
    masked = mask_capsules(CAPSULES, torch.tensor([1, 0]), "zeros")
    assert masked.tolist() == [[0, 0, 3, 4, 0, 0], [7, 8, 0, 0, 0, 0]]


def test_select_layout_gives_the_kept_capsule_alone():
    assert mask_capsules(CAPSULES, torch.tensor([2, 1]), "select").tolist() == [[5, 6], [9, 10]]


@pytest.mark.parametrize("kept", [[0, 1], [2, 2]])
def test_unmasked_layout_gives_every_value_whatever_is_kept(kept):
    masked = mask_capsules(CAPSULES, torch.tensor(kept), "unmasked")
    assert masked.tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]


@EVERY_LAYOUT
@pytest.mark.parametrize("copies", [1, 2, 4])
def test_several_kept_classes_give_copies_apart_from_each_other(layout, copies):
    generator = torch.Generator().manual_seed(0)
    capsules = torch.randn(5, 4, 3, generator=generator)
    kept = torch.randint(0, 4, (5, copies), generator=generator)
    masked = mask_capsules(capsules, kept, layout)
    assert masked.tolist() == [
        [masked_by_loop(capsules[image], kept[image, copy], layout) for copy in range(copies)] for image in range(5)
    ]


@pytest.mark.parametrize("layout", ["zeros", "select"])
def test_the_gradient_of_masking_reaches_the_kept_capsule_only(layout):
    capsules = CAPSULES.clone().requires_grad_()
    mask_capsules(capsules, torch.tensor([1, 0]), layout).sum().backward()
    assert capsules.grad[:, :, 0].tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("layout", ["zeros", "select"])
def test_the_gradients_of_all_copies_add_up(layout):
    capsules = CAPSULES.clone().requires_grad_()
    mask_capsules(capsules, torch.tensor([[1, 1], [0, 2]]), layout).sum().backward()
    assert capsules.grad[:, :, 0].tolist() == [[0, 2, 0], [1, 0, 1]]


def test_the_gradient_of_no_masking_reaches_every_capsule():
    capsules = CAPSULES.clone().requires_grad_()
    mask_capsules(capsules, torch.tensor([1, 0]), "unmasked").sum().backward()
    assert (capsules.grad == 1).all()


@EVERY_LAYOUT
def test_masking_keeps_the_precision_of_the_capsules(layout):
    assert mask_capsules(CAPSULES.double(), torch.tensor([0, 2]), layout).dtype == torch.float64


@pytest.mark.parametrize(("layout", "width"), [("zeros", 6), ("select", 2), ("unmasked", 6)])
@pytest.mark.parametrize("images", [0, 1])
def test_masking_keeps_the_batch_axis(layout, width, images):
    assert mask_capsules(CAPSULES[:images], torch.tensor([2])[:images], layout).shape == (images, width)
    assert mask_capsules(CAPSULES[:images], torch.tensor([[2, 0]])[:images], layout).shape == (images, 2, width)


def test_the_longest_come_best_first():
    assert longest(torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]]), 3).tolist() == [[1, 3, 2], [0, 1, 2]]


@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_of_equally_long_ones_the_lowest_class_comes_first(count):
    scores = torch.randint(0, 3, (40, 50), generator=torch.Generator().manual_seed(0)) / 3
    expected = [sorted(range(50), key=lambda j: (-row[j], j))[:count] for row in scores.tolist()]
    assert longest(scores, count).tolist() == expected
