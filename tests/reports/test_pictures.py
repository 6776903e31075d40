from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from qcaps.data.images import ImageSet
from qcaps.evaluation.outputs import Outputs
from qcaps.models.network import Output
from qcaps.reports.image_facts import image_facts
from qcaps.reports.pictures import Pictures, png, with_pictures

SIDE = 6


def images(channels: int = 1) -> ImageSet:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (4, channels, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return ImageSet("toy", "test", pixels, torch.tensor([0, 1, 1, 0]), torch.arange(50, 54), ("a", "b"))


def outputs(scores: list[list[float]]) -> Outputs:
    found = Outputs()
    found.see(Output(torch.tensor(scores), torch.rand(4, 2, 3)))
    return found


# The first two are right, the others wrong, the third by the larger margin.
MISTAKEN = [[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.4, 0.6]]


def drawn(chosen: ImageSet, **more) -> tuple:
    networks, decoders = {"float": outputs(MISTAKEN)}, {"float": more["draw"]} if more else {}
    return with_pictures(image_facts(chosen, networks, "margin"), chosen, networks, decoders, seed=1)


def pixels_of(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)))


def test_wrong_images_are_shown_as_they_are():
    found = images()
    pictures = drawn(found)[1]
    assert list(pictures.wrong) == [52, 53]
    assert np.array_equal(pixels_of(pictures.wrong[52]), found.pixels[2, 0].numpy())


def test_without_a_decoder_there_is_no_panel():
    facts, pictures = drawn(images())
    assert (facts.panel, dict(pictures.panel)) == ((), {})


def test_a_decoder_that_gives_the_image_leaves_nothing_out():
    chosen = images()
    order: list[Tensor] = []

    def draw(capsules: Tensor, kept: Tensor) -> Tensor:
        order.append(kept)
        target = chosen.pixels.float() / 255
        # The panel is sorted by class; it holds all four images: the first, the last, the second, the third.
        return target[[0, 3, 1, 2]] if len(capsules) == 4 else target[:2]

    facts, pictures = drawn(chosen, draw=draw)
    assert [one.index for one in facts.panel] == [50, 53, 51, 52]
    assert [one.errors for one in facts.panel] == [{"float": pytest.approx(0, abs=1e-12)}] * 4
    column = pixels_of(pictures.panel[53])
    assert column.shape == (4 * SIDE + 3, SIDE)
    image = chosen.pixels[3, 0].numpy()
    for row in range(3):
        assert np.array_equal(column[row * (SIDE + 1) : row * (SIDE + 1) + SIDE], image)
    assert not column[-SIDE:].any()
    assert len(pictures.panel_tiles) == 4


def test_the_longest_capsule_and_that_of_the_label_are_drawn():
    kept_classes = []

    def draw(capsules: Tensor, kept: Tensor) -> Tensor:
        kept_classes.append(kept.tolist())
        return torch.zeros(len(capsules), 1, SIDE, SIDE)

    facts, pictures = drawn(images(), draw=draw)
    # Of the two wrong images by margin, then of the panel in its order: first the longest, then the label.
    assert kept_classes == [[0, 1], [1, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert [one.prediction for one in facts.panel] == [0, 1, 1, 0]
    assert pixels_of(pictures.wrong[52]).shape == (SIDE, 3 * SIDE + 2)


def test_the_error_is_the_mean_square_of_the_pixels():
    chosen = images()
    facts, _ = drawn(chosen, draw=lambda capsules, _: torch.zeros(len(capsules), 1, SIDE, SIDE))
    expected = [(chosen.pixels[place].double() / 255).square().mean().item() for place in (0, 3, 1, 2)]
    assert [one.errors["float"] for one in facts.panel] == pytest.approx(expected)


def test_three_channels_are_colours():
    found = images(3)
    shown = pixels_of(drawn(found)[1].wrong[53])
    assert np.array_equal(shown, found.pixels[3].permute(1, 2, 0).numpy())


def test_a_stereo_pair_is_side_by_side():
    found = images(2)
    pictures = drawn(found)[1]
    expected = np.concatenate([found.pixels[3, 0].numpy(), found.pixels[3, 1].numpy()], axis=1)
    assert np.array_equal(pixels_of(pictures.wrong[53]), expected)
    assert (pictures.width, pictures.height) == (2 * SIDE, SIDE)


def test_large_images_are_few():
    pixels = torch.zeros(60, 3, 224, 224, dtype=torch.uint8)
    many = ImageSet("toy", "test", pixels, torch.zeros(60, dtype=torch.int64), torch.arange(60), ("a", "b"))
    found = Outputs()
    found.see(Output(torch.tensor([[0.0, 1.0]]).repeat(60, 1), torch.zeros(60, 2, 3)))
    networks = {"float": found}
    pictures: Pictures = with_pictures(image_facts(many, networks, "margin"), many, networks, {}, seed=1)[1]
    assert len(pictures.wrong) == 11  # 600,000 pixels


def test_a_picture_holds_no_date():
    assert png(images().pixels[0]) == png(images().pixels[0])
    assert b"tIME" not in png(images().pixels[0])
