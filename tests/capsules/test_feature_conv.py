from __future__ import annotations

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d

from qcaps.capsules.feature_conv import FeatureConv
from qcaps.capsules.sites import hooked


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fill(module):
    """Give every parameter and running statistic a value of its own; variances stay positive."""
    generator = torch.Generator().manual_seed(11)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    for buffer in module.buffers():
        if buffer.is_floating_point():
            torch.nn.init.uniform_(buffer, 0.5, 1.5, generator=generator)
    return module.eval()


def test_feature_convolution_without_norm_is_convolution_and_relu():
    layer = fill(FeatureConv(2, 4, kernel_size=3, stride=2))
    images = random(2, 2, 9, 8)
    expected = conv2d(images, layer.conv.weight, layer.conv.bias, stride=2).clamp_min(0)
    assert layer(images).equal(expected)


def test_feature_convolution_normalises_after_the_relu():
    layer = fill(FeatureConv(2, 4, kernel_size=3, norm="batch"))
    images = random(2, 2, 6, 6)
    rectified = conv2d(images, layer.conv.weight, layer.conv.bias).clamp_min(0)
    norm = layer.norm
    expected = batch_norm(rectified, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-3)
    torch.testing.assert_close(layer(images), expected)


def test_the_site_of_a_feature_convolution_lies_after_the_norm():
    layer = fill(FeatureConv(2, 4, kernel_size=3, norm="batch"))
    with hooked(layer, lambda name, array: torch.zeros_like(array)):
        assert (layer(random(1, 2, 6, 6)) == 0).all()


def test_the_norm_of_a_feature_convolution_takes_epsilon_and_momentum():
    layer = FeatureConv(1, 1, kernel_size=1, norm="batch", norm_eps=0.25, norm_momentum=0.125)
    assert (layer.norm.eps, layer.norm.momentum) == (0.25, 0.125)


def test_the_activation_can_leak():
    layer = fill(FeatureConv(2, 4, kernel_size=3, slope=0.3))
    images = random(2, 2, 6, 6)
    linear = conv2d(images, layer.conv.weight, layer.conv.bias)
    torch.testing.assert_close(layer(images), torch.where(linear > 0, linear, 0.3 * linear))


def test_an_instance_norm_standardises_every_map_of_every_image():
    layer = fill(FeatureConv(2, 4, kernel_size=3, slope=0.3, norm="instance", norm_eps=0.5))
    images = random(2, 2, 6, 6)
    linear = conv2d(images, layer.conv.weight, layer.conv.bias)
    maps = torch.where(linear > 0, linear, 0.3 * linear)
    mean, variance = maps.mean((2, 3), keepdim=True), maps.var((2, 3), unbiased=False, keepdim=True)
    scale, shift = layer.norm.weight.view(-1, 1, 1), layer.norm.bias.view(-1, 1, 1)
    torch.testing.assert_close(layer(images), (maps - mean) / (variance + 0.5).sqrt() * scale + shift)


def test_an_instance_norm_without_affine_has_no_tensors():
    layer = FeatureConv(2, 4, kernel_size=3, norm="instance", norm_affine=False)
    assert [name for name in layer.state_dict() if name.startswith("norm")] == []


def test_the_norm_can_come_before_the_relu():
    layer = fill(FeatureConv(2, 4, kernel_size=3, norm="batch", norm_order="before_activation"))
    images = random(2, 2, 6, 6)
    norm = layer.norm
    linear = conv2d(images, layer.conv.weight, layer.conv.bias)
    expected = batch_norm(linear, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-3).relu()
    torch.testing.assert_close(layer(images), expected)


@pytest.mark.parametrize("norm", ["none", "batch", "instance"])
def test_a_feature_convolution_is_finite_under_autocast(norm):
    layer = fill(FeatureConv(2, 4, kernel_size=3, norm=norm))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.zeros(2, 2, 6, 6))
        out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
