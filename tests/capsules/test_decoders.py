from __future__ import annotations

import pytest
import torch
from torch import nn

from qcaps.capsules.decoders import deconv28_decoder, fc_decoder, no_decoder
from qcaps.errors import UsageError

MNIST, NORB, CIFAR = (1, 28, 28), (2, 48, 48), (3, 32, 32)


def built(factory, inputs, image, batch_norm=False, classes=10):
    with torch.device("meta"):
        return factory(inputs, classes, image, batch_norm)


def parameters(decoder):
    return sum(p.numel() for p in decoder.parameters())


def kinds(decoder):
    return [type(layer) for layer in decoder]


@pytest.mark.parametrize(
    ("inputs", "image", "total"),
    [
        (160, MNIST, 1_411_344),
        (16, MNIST, 1_337_616),
        (160, CIFAR, 3_756_544),
        (160, (1, 36, 36), 1_936_144),
        (160, (1, 40, 40), 2_247_744),
    ],
)
def test_fc_decoder_has_the_published_number_of_parameters(inputs, image, total):
    assert parameters(built(fc_decoder, inputs, image)) == total


def test_fc_decoder_of_80_values_draws_1024_pixels():
    assert parameters(built(fc_decoder, 80, (1, 32, 32), classes=5)) == 1_616_384


def test_batch_norm_adds_3072_parameters_to_the_fc_decoder():
    assert parameters(built(fc_decoder, 160, MNIST, batch_norm=True)) == 1_414_416


@pytest.mark.parametrize(("batch_norm", "total"), [(False, 250_121), (True, 251_033)])
def test_deconv28_decoder_has_the_published_number_of_parameters(batch_norm, total):
    assert parameters(built(deconv28_decoder, 160, MNIST, batch_norm)) == total


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("factory", "image"), [(fc_decoder, NORB), (fc_decoder, MNIST), (deconv28_decoder, MNIST)])
def test_a_decoder_draws_images_of_the_given_shape(factory, image, batch_norm):
    assert factory(80, 5, image, batch_norm)(torch.zeros(3, 80)).shape == (3, *image)


@pytest.mark.parametrize("factory", [fc_decoder, deconv28_decoder])
def test_decoded_pixels_lie_between_zero_and_one(factory):
    decoder = factory(16, 1, MNIST, False)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    pixels = decoder(10 * torch.randn(2, 16, generator=torch.Generator().manual_seed(1)))
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert pixels.std() > 0.1


def test_batch_norm_of_the_fc_decoder_lies_between_linear_and_relu():
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    decoder = built(fc_decoder, 160, MNIST, batch_norm=True)
    assert kinds(decoder) == [*hidden, *hidden, nn.Linear, nn.Sigmoid, nn.Unflatten]


def test_batch_norm_of_the_deconv28_decoder_lies_before_every_relu():
    assert kinds(built(deconv28_decoder, 160, MNIST, batch_norm=True)) == [
        *(nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Unflatten),
        *(nn.ConvTranspose2d, nn.BatchNorm2d, nn.ReLU),
        *(nn.ConvTranspose2d, nn.BatchNorm2d, nn.ReLU),
        *(nn.ConvTranspose2d, nn.Sigmoid),
    ]


def test_the_maps_of_the_deconv28_decoder_have_the_published_sizes():
    value = torch.zeros(1, 160)
    sizes = []
    for layer in deconv28_decoder(160, 10, MNIST, False):
        value = layer(value)
        if isinstance(layer, nn.Unflatten | nn.ConvTranspose2d):
            sizes.append(tuple(value.shape[1:]))
    assert sizes == [(10, 6, 6), (32, 19, 19), (64, 27, 27), (1, 28, 28)]


@pytest.mark.parametrize("image", [(3, 28, 28), (1, 32, 32), (1, 28, 32)])
def test_deconv28_decoder_refuses_other_images(image):
    with pytest.raises(UsageError, match=f"not {'x'.join(map(str, image))}"):
        built(deconv28_decoder, 160, image)


def test_no_decoder_is_none():
    assert built(no_decoder, 160, MNIST) is None
