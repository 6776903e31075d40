from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm, conv2d, conv_transpose2d, linear

from qcaps.capsules.decoders import Decoder, build_decoder
from qcaps.capsules.masking import mask_capsules
from qcaps.errors import UsageError
from qcaps.registry import DECODERS

MNIST, CIFAR, NORB, TINY = (1, 28, 28), (3, 32, 32), (2, 48, 48), (3, 64, 64)
# An image for every decoder, with another number of channels than the published one.
DRAWN = {
    "fc": (3, 5, 7),
    "deconv28": (2, 28, 28),
    "deconv32": (1, 32, 32),
    "convdecoder28": (3, 28, 28),
    "convdecoder64": (1, 64, 64),
    "upsample48": (1, 48, 48),
    "upsample48-aligned": (3, 48, 48),
}
NORMED = ("fc", "deconv28", "deconv32")
VARIANTS = [(name, False) for name in DRAWN] + [(name, True) for name in NORMED]
EVERY_VARIANT = pytest.mark.parametrize(("name", "with_norm"), VARIANTS)


def on_meta(name, inputs, image, with_norm=False, classes=10):
    with torch.device("meta"):
        return DECODERS.load(name)(inputs, classes, image, with_norm)


def parameters(decoder):
    return sum(p.numel() for p in decoder.parameters())


def filled(name, inputs, image, with_norm=False, classes=3):
    """Build a decoder in evaluation mode; its numbers are random, so that no step leaves the pictures as they are."""
    decoder = DECODERS.load(name)(inputs, classes, image, with_norm).double().eval()
    generator = torch.Generator().manual_seed(0)
    for module in decoder.modules():
        for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if key == "running_var":
                nn.init.uniform_(tensor, 0.5, 1.5, generator=generator)
            elif tensor.is_floating_point():
                nn.init.normal_(tensor, std=1 if key == "weight" else 0.3, generator=generator)
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.data *= (2 / module.weight[0].numel()) ** 0.5
        if isinstance(module, nn.ConvTranspose2d):
            module.weight.data *= (2 * module.stride[0] ** 2 / module.weight[:, 0].numel()) ** 0.5
    return decoder


def random_inputs(batch, values):
    return torch.randn(batch, values, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_every_registered_decoder_is_tested_here():
    assert {*DECODERS.names()} == {"none", *DRAWN}


@pytest.mark.parametrize(
    ("name", "with_norm", "inputs", "image", "classes", "total"),
    [
        ("fc", False, 160, MNIST, 10, 1_411_344),
        ("fc", False, 16, MNIST, 10, 1_337_616),
        ("fc", False, 80, (1, 32, 32), 5, 1_616_384),
        ("fc", False, 160, CIFAR, 10, 3_756_544),
        ("fc", False, 160, (1, 36, 36), 10, 1_936_144),
        ("fc", False, 160, (1, 40, 40), 10, 2_247_744),
        ("fc", True, 160, MNIST, 10, 1_414_416),
        ("deconv28", False, 160, MNIST, 10, 250_121),
        ("deconv28", True, 160, MNIST, 10, 251_033),
        ("deconv32", False, 160, CIFAR, 10, 882_883),
        ("deconv32", False, 80, (1, 32, 32), 5, 849_617),
        ("deconv32", True, 160, CIFAR, 10, 883_651),
        ("deconv32", True, 80, (1, 32, 32), 5, 850_225),
        ("convdecoder28", False, 32, MNIST, 10, 58_417),
        ("convdecoder64", False, 32, TINY, 10, 86_387),
        ("upsample48", False, 80, NORB, 5, 229_570),
        ("upsample48-aligned", False, 80, NORB, 5, 229_570),
    ],
)
def test_a_decoder_has_the_published_number_of_parameters(name, with_norm, inputs, image, classes, total):
    assert parameters(on_meta(name, inputs, image, with_norm, classes)) == total


@EVERY_VARIANT
def test_a_decoder_draws_images_of_the_given_shape(name, with_norm):
    assert filled(name, 20, DRAWN[name], with_norm)(random_inputs(3, 20)).shape == (3, *DRAWN[name])


@pytest.mark.parametrize("name", [name for name in DRAWN if not name.startswith("convdecoder")])
def test_pixels_lie_between_zero_and_one(name):
    pixels = filled(name, 16, DRAWN[name])(10 * random_inputs(2, 16))
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert pixels.std() > 0.1


@pytest.mark.parametrize("name", ["convdecoder28", "convdecoder64"])
def test_pixels_of_convdecoders_are_cut_at_zero_alone(name):
    pixels = filled(name, 16, DRAWN[name])(10 * random_inputs(2, 16))
    assert pixels.min() == 0
    assert pixels.max() > 1


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("deconv28", [(10, 6, 6), (32, 19, 19), (64, 27, 27), (2, 28, 28)]),
        ("deconv32", [(10, 4, 4), (32, 15, 15), (64, 23, 23), (128, 31, 31), (1, 32, 32)]),
    ],
)
def test_the_maps_of_deconv_decoders_have_the_published_sizes(name, sizes):
    value, found = random_inputs(1, 160), []
    for layer in filled(name, 160, DRAWN[name], classes=10):
        value = layer(value)
        if isinstance(layer, nn.Unflatten | nn.ConvTranspose2d):
            found.append(tuple(value.shape[1:]))
    assert found == sizes


# The same pictures, computed step by step from the tensors alone. `take` gives them in the order of definition.


def taker(decoder):
    tensors = iter([t for key, t in decoder.state_dict().items() if not key.endswith("num_batches_tracked")])
    return lambda count: [next(tensors) for _ in range(count)]


def normed(x, weight, bias, mean, variance):
    return batch_norm(x, mean, variance, weight, bias, eps=1e-5)


def by_hand_fc(take, x, with_norm):
    for _ in range(2):
        x = linear(x, *take(2))
        x = (normed(x, *take(4)) if with_norm else x).relu()
    return linear(x, *take(2)).sigmoid().view(-1, *DRAWN["fc"])


def by_hand_deconv(take, x, with_norm, side, strides):
    x = linear(x, *take(2))
    x = (normed(x, *take(4)) if with_norm else x).relu().view(len(x), 3, side, side)
    for stride in strides:
        x = conv_transpose2d(x, *take(2), stride=stride)
        x = (normed(x, *take(4)) if with_norm else x).relu()
    return conv_transpose2d(x, *take(2)).sigmoid()


def by_hand_convdecoder(take, x, side, doublings, **doubling):
    x = linear(x, *take(2)).relu().view(len(x), 16, side, side)
    x = conv_transpose2d(normed(x, *take(4)), *take(2), padding=1)
    for _ in range(doublings):
        x = conv_transpose2d(x, *take(2), stride=2, padding=1, **doubling)
    return conv_transpose2d(x, *take(2), padding=1).relu()


def doubling_matrix(size, *, aligned):
    """Row i holds the shares of the old pixels in new pixel i."""
    matrix = torch.zeros(2 * size, size, dtype=torch.float64)
    for i in range(2 * size):
        place = i * (size - 1) / (2 * size - 1) if aligned else min(max((i + 0.5) / 2 - 0.5, 0), size - 1)
        left = min(int(place), size - 2)
        matrix[i, left] += 1 - (place - left)
        matrix[i, left + 1] += place - left
    return matrix


def by_hand_upsample(take, x, slope, *, aligned):
    x = linear(x, *take(2)).view(len(x), 1, 8, 8)
    for _ in range(3):
        matrix = doubling_matrix(x.shape[2], aligned=aligned)
        x = conv2d(matrix @ x @ matrix.T, *take(2))
        x = torch.where(x > 0, x, slope * x)
    return conv2d(x, *take(2)).sigmoid()


BY_HAND = {
    "fc": by_hand_fc,
    "deconv28": lambda take, x, with_norm: by_hand_deconv(take, x, with_norm, 6, (2, 1)),
    "deconv32": lambda take, x, with_norm: by_hand_deconv(take, x, with_norm, 4, (2, 1, 1)),
    "convdecoder28": lambda take, x, _: by_hand_convdecoder(take, x, 7, 2, output_padding=1),
    "convdecoder64": lambda take, x, _: by_hand_convdecoder(take, x, 8, 3),
    "upsample48": lambda take, x, _: by_hand_upsample(take, x, 0.2, aligned=False),
    "upsample48-aligned": lambda take, x, _: by_hand_upsample(take, x, 0.3, aligned=True),
}


@EVERY_VARIANT
def test_a_decoder_computes_its_layers_in_the_published_order(name, with_norm):
    decoder = filled(name, 6, DRAWN[name], with_norm)
    x = random_inputs(2, 6)
    with torch.no_grad():
        pixels = decoder(x)
        torch.testing.assert_close(pixels, BY_HAND[name](taker(decoder), x, with_norm))
    assert pixels.std() > 0.03


@pytest.mark.parametrize("name", ["convdecoder28", "convdecoder64"])
def test_the_statistics_of_convdecoders_are_mostly_those_of_the_last_batch(name):
    decoder = filled(name, 6, DRAWN[name]).train()
    before = decoder.norm.running_mean.clone()
    x = random_inputs(4, 6)
    decoder(x)
    weight, bias = list(decoder.parameters())[:2]
    of_batch = linear(x, weight, bias).relu().view(4, 16, -1).mean((0, 2))
    torch.testing.assert_close(decoder.norm.running_mean, 0.2 * before + 0.8 * of_batch)


# What cannot be drawn


@pytest.mark.parametrize(
    ("name", "image", "said"),
    [
        ("deconv28", TINY, "decoder 'deconv28' draws 28x28 pixels, not 64x64; use 'convdecoder64' or 'fc'"),
        ("convdecoder64", CIFAR, "decoder 'convdecoder64' draws 64x64 pixels, not 32x32; use 'deconv32' or 'fc'"),
        (
            "upsample48",
            MNIST,
            "decoder 'upsample48' draws 48x48 pixels, not 28x28; use 'deconv28' or 'convdecoder28' or 'fc'",
        ),
        ("deconv32", (1, 32, 28), "decoder 'deconv32' draws 32x32 pixels, not 32x28; use 'fc'"),
    ],
)
def test_a_decoder_that_cannot_draw_an_image_names_those_that_can(name, image, said):
    with pytest.raises(UsageError) as error:
        on_meta(name, 160, image)
    assert str(error.value) == said


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 32, 32), (2, 48, 48), (1, 64, 64), (1, 40, 40), (1, 28, 32)])
def test_the_named_decoders_are_all_that_can_draw_the_image(image):
    def draws(name):
        try:
            on_meta(name, 8, image)
        except UsageError:
            return False
        return True

    refusing = [name for name in DRAWN if not draws(name)]
    for name in refusing:
        with pytest.raises(UsageError) as error:
            on_meta(name, 8, image)
        assert {*re.findall("'(.+?)'", error.value.do)} == {*DRAWN} - {*refusing}


@pytest.mark.parametrize("name", [name for name in DRAWN if name not in NORMED])
def test_batch_norm_is_refused_where_there_is_no_such_variant(name):
    with pytest.raises(
        UsageError, match=rf"^decoder '{name}' has no variant with batch norm; leave decoder_norm false$"
    ):
        on_meta(name, 32, DRAWN[name], with_norm=True)


def test_a_registered_decoder_knows_its_name():
    decoders = [DECODERS.load(name) for name in DRAWN]
    assert all(isinstance(decoder, Decoder) for decoder in decoders)
    assert [decoder.name for decoder in decoders] == [*DRAWN]


# Building by name


def build(name, layout, with_norm=False):
    with torch.device("meta"):
        return build_decoder(name, classes=4, dim=6, layout=layout, image=MNIST, batch_norm=with_norm)


@pytest.mark.parametrize(("layout", "inputs"), [("zeros", 24), ("unmasked", 24), ("select", 6)])
@pytest.mark.parametrize("name", ["fc", "deconv28", "convdecoder28"])
def test_a_decoder_takes_what_the_mask_leaves(name, layout, inputs):
    first = next(m for m in build(name, layout).modules() if isinstance(m, nn.Linear))
    assert first.in_features == inputs


@pytest.mark.parametrize("with_norm", [False, True])
def test_no_decoder_is_none(with_norm):
    assert build("none", "zeros", with_norm) is None


def test_an_unknown_decoder_is_refused_with_near_matches():
    with pytest.raises(UsageError, match=r"unknown decoder 'deconv29' \(decoder\); did you mean .*'deconv28'"):
        build("deconv29", "zeros")


@EVERY_VARIANT
def test_two_classes_are_drawn_in_one_pass_as_in_two(name, with_norm):
    capsules = random_inputs(2, 12).view(2, 3, 4)
    decoder = filled(name, 12, DRAWN[name], with_norm)
    kept = torch.tensor([[2, 0], [1, 2]])
    with torch.no_grad():
        together = decoder(mask_capsules(capsules, kept, "zeros").flatten(0, 1)).unflatten(0, (2, 2))
        apart = [decoder(mask_capsules(capsules, kept[:, i], "zeros")) for i in range(2)]
    torch.testing.assert_close(together, torch.stack(apart, dim=1))
    assert not together[:, 0].allclose(together[:, 1], atol=1e-2)
