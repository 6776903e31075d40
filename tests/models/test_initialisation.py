from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from qcaps.models.cnn_baselines import CNNCRSFSpec
from qcaps.models.efficient_capsnet import EfficientCapsNetSpec
from qcaps.models.initialisation import fill_xavier_normal, glorot_normal_, he_normal_, torch_default_, uniform_
from qcaps.models.shallow_capsnet import ShallowCapsNetSpec
from qcaps.models.spec import initialised

# The standard deviation of a unit normal truncated at two sigma: 1 - 2·2·φ(2) / (2Φ(2) - 1) is its variance.
TRUNCATED = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_truncated_normal(weight, std):
    """Compare with a normal cut at two of its own sigmas whose standard deviation afterwards is `std`."""
    cut = 2 * std / TRUNCATED
    assert weight.abs().max().item() <= cut
    assert weight.abs().max().item() == pytest.approx(cut, rel=0.02)
    assert weight.std().item() == pytest.approx(std, rel=0.03)
    assert weight.mean().item() == pytest.approx(0, abs=5 * std / math.sqrt(weight.numel()))


def assert_uniform(weight, bound):
    largest = weight.abs().max().item()
    assert largest <= bound
    assert largest == pytest.approx(bound, rel=10 / weight.numel())
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03 + 2 / math.sqrt(weight.numel()))


def test_he_normal_has_its_deviation_after_truncation():
    weight = torch.empty(200, 500)
    he_normal_(weight, 50, generator())
    assert_truncated_normal(weight, std=math.sqrt(2 / 50))


def test_glorot_normal_has_its_deviation_after_truncation():
    weight = torch.empty(200, 500)
    glorot_normal_(weight, 30, 70, generator())
    assert_truncated_normal(weight, std=math.sqrt(2 / 100))


def test_uniform_fills_evenly_up_to_its_bound():
    weight = torch.empty(200, 500)
    uniform_(weight, 0.25, generator())
    assert_uniform(weight, 0.25)


@pytest.mark.parametrize(
    ("make", "fan_in"),
    [
        (lambda: nn.Conv2d(16, 64, 5), 16 * 25),
        (lambda: nn.Conv2d(64, 64, 9, groups=64), 81),
        (lambda: nn.Linear(400, 64), 400),
        (lambda: nn.ConvTranspose2d(64, 16, 5), 16 * 25),
    ],
    ids=["convolution", "depthwise", "dense", "transposed"],
)
def test_the_default_of_a_layer_is_that_of_torch(make, fan_in):
    ours, theirs = make(), make()
    torch_default_(ours, generator())
    assert_uniform(ours.weight, 1 / math.sqrt(fan_in))
    assert_uniform(theirs.weight, 1 / math.sqrt(fan_in))
    assert_uniform(ours.bias, 1 / math.sqrt(fan_in))
    assert_uniform(theirs.bias, 1 / math.sqrt(fan_in))


def test_a_layer_without_bias_has_a_default_too():
    layer = nn.Conv2d(16, 64, 5, bias=False)
    torch_default_(layer, generator())
    assert_uniform(layer.weight, 1 / 20)


@pytest.fixture(scope="module")
def shallow():
    return initialised(ShallowCapsNetSpec(), seed=0)


@pytest.fixture(scope="module")
def efficient():
    return initialised(EfficientCapsNetSpec(decoder="fc", decoder_norm=True), seed=0)


def test_the_convolutions_of_shallow_capsnet_take_the_default_of_torch(shallow):
    assert_uniform(shallow.stages["conv1"].conv.weight, 1 / 9)
    assert_uniform(shallow.stages["primary"].conv.weight, 1 / math.sqrt(256 * 81))


def test_the_class_weights_of_shallow_capsnet_are_kaiming_uniform_over_all_classes(shallow):
    assert_uniform(shallow.stages["class_caps"].weight, math.sqrt(6 / 1280))  # 0.0685


def test_the_routing_biases_of_shallow_capsnet_start_at_zero_and_one_tenth(shallow):
    assert (shallow.stages["primary"].bias == 0).all()
    assert (shallow.stages["class_caps"].routing.bias == 0.1).all()


@pytest.mark.parametrize(("stage", "fan_in"), [("conv1", 25), ("conv2", 288), ("conv3", 576), ("conv4", 576)])
def test_the_convolutions_of_efficient_capsnet_are_he_normal(efficient, stage, fan_in):
    weight = efficient.stages[stage].conv.weight
    std = math.sqrt(2 / fan_in)
    assert weight.abs().max().item() <= 2 * std / TRUNCATED
    assert weight.std().item() == pytest.approx(std, rel=0.05)


def test_the_primary_layer_of_efficient_capsnet_is_glorot_uniform(efficient):
    assert_uniform(efficient.stages["primary"].conv.weight, math.sqrt(6 / (129 * 81)))


def test_the_class_weights_of_efficient_capsnet_are_he_normal_over_all_classes(efficient):
    assert_truncated_normal(efficient.stages["class_caps"].weight, std=math.sqrt(2 / 1280))


def test_every_bias_of_efficient_capsnet_starts_at_zero(efficient):
    biases = [p for name, p in efficient.named_parameters() if name.endswith("bias")]
    assert len(biases) == 4 * 2 + 2 + 3 + 2
    assert all((bias == 0).all() for bias in biases)


def test_every_batch_norm_starts_as_the_identity(efficient):
    norms = [m for m in efficient.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == 6
    for norm in norms:
        assert (norm.weight == 1).all()
        assert (norm.running_mean == 0).all()
        assert (norm.running_var == 1).all()
        assert norm.num_batches_tracked == 0


def test_the_dense_layers_of_a_decoder_are_he_normal_and_the_last_glorot_normal(efficient):
    first, second, last = [m for m in efficient.decoder if isinstance(m, nn.Linear)]
    assert_truncated_normal(first.weight, std=math.sqrt(2 / 160))
    assert_truncated_normal(second.weight, std=math.sqrt(2 / 512))
    assert_truncated_normal(last.weight, std=math.sqrt(2 / (1024 + 784)))


def test_a_transposed_convolution_counts_the_inputs_that_one_output_sees():
    decoder = initialised(EfficientCapsNetSpec(decoder="deconv28"), seed=0).decoder
    first, second, last = [m for m in decoder if isinstance(m, nn.ConvTranspose2d)]
    assert_truncated_normal(first.weight, std=math.sqrt(2 / (10 * 20)))  # 9x9 taps, stride 2: 81/4 of each map
    assert_truncated_normal(second.weight, std=math.sqrt(2 / (32 * 81)))
    assert last.weight.abs().max().item() <= 2 * math.sqrt(2 / (64 * 4)) / TRUNCATED
    assert last.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 4)), rel=0.15)


def decoder_of(name, **numbers):
    return initialised(EfficientCapsNetSpec(decoder=name, **numbers), seed=0).decoder


def layers(module):
    return [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]


@pytest.mark.parametrize("name", ["fc", "deconv28", "deconv32", "upsample48", "upsample48-aligned"])
def test_every_bias_of_these_decoders_starts_at_zero(name):
    size = {"deconv32": 32, "upsample48": 48, "upsample48-aligned": 48}.get(name, 28)
    decoder = decoder_of(name, height=size, width=size)
    assert len(layers(decoder)) >= 3
    assert all((layer.bias == 0).all() for layer in layers(decoder))


@pytest.mark.parametrize("name", ["upsample48", "upsample48-aligned"])
def test_the_upsampling_decoders_are_glorot_uniform_throughout(name):
    dense, *convs, last = layers(decoder_of(name, channels=2, height=48, width=48, classes=5))
    assert_uniform(dense.weight, math.sqrt(6 / (80 + 64)))
    for conv, fans in zip(convs, (1 + 64, 64 + 128, 128 + 128), strict=True):
        assert_uniform(conv.weight, math.sqrt(6 / (9 * fans)))
    assert_uniform(last.weight, math.sqrt(6 / (9 * (128 + 2))))


@pytest.mark.parametrize(
    ("name", "size", "fans"),
    [
        ("convdecoder28", 28, (16, 64 * 9, 32 * 9, 16 * 9, 9)),
        ("convdecoder64", 64, (16, 64 * 9, 32 * 16, 16 * 16, 8 * 16, 9)),
    ],
)
def test_the_decoders_of_deepcaps_take_the_default_of_torch(name, size, fans):
    decoder = decoder_of(name, height=size, width=size, mask_layout="select")
    for layer, fan_in in zip(layers(decoder), fans, strict=True):
        assert_uniform(layer.weight, 1 / math.sqrt(fan_in))
        assert 0 < layer.bias.abs().max().item() <= 1 / math.sqrt(fan_in)


def test_the_norm_of_a_convdecoder_starts_as_the_identity():
    norm = decoder_of("convdecoder28", mask_layout="select").norm
    assert (norm.weight == 1).all()
    assert (norm.bias == 0).all()
    assert (norm.running_mean == 0).all()
    assert (norm.running_var == 1).all()


def test_the_plain_networks_take_the_default_of_torch_in_the_decoder_too():
    network = initialised(CNNCRSFSpec(conv1_channels=32, conv2_channels=32, decoder="fc", decoder_norm=True), seed=0)
    bounds = [81, 32 * 81, 32 * 36, 128, 160, 512, 1024]
    assert len(layers(network)) == len(bounds)
    for layer, fan_in in zip(layers(network), bounds, strict=True):
        assert_uniform(layer.weight, 1 / math.sqrt(fan_in))
        assert_uniform(layer.bias, 1 / math.sqrt(fan_in))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d)]
    assert len(norms) == 2
    assert all((norm.weight == 1).all() and (norm.running_var == 1).all() for norm in norms)


def test_xavier_normal_values_have_the_deviation_of_their_gain():
    decoder = decoder_of("deconv28")
    fill_xavier_normal(decoder, 0.02, generator())
    dense, first, second, last = layers(decoder)
    assert dense.weight.std().item() == pytest.approx(0.02 * math.sqrt(2 / (160 + 360)), rel=0.03)
    assert first.weight.std().item() == pytest.approx(0.02 * math.sqrt(2 / (81 * (10 + 32))), rel=0.03)
    assert second.weight.std().item() == pytest.approx(0.02 * math.sqrt(2 / (81 * (32 + 64))), rel=0.03)
    assert last.weight.std().item() == pytest.approx(0.02 * math.sqrt(2 / (4 * (64 + 1))), rel=0.15)
    assert_uniform(dense.bias, 1 / math.sqrt(160))
