from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d
from torchvision.models.resnet import Bottleneck as TorchvisionBottleneck

from qcaps.capsules.backbone_layers import BatchNormSpec, Bottleneck, ConvNorm, MeanClassifier, SeparableConv
from qcaps.capsules.sites import Sites, hooked

NORM = BatchNormSpec(eps=1e-3, momentum=0.25)


def randomised(module: nn.Module) -> nn.Module:
    """Fill a layer, its norms far from the identity, and put it into evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(generator=generator)
    return module.eval()


def features(channels: int = 3, height: int = 9, width: int = 7) -> Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))


def seen_at_sites(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Run a layer and keep every array that passes a site, in order."""
    for path, part in module.named_modules():
        if isinstance(part, Sites):
            part.owner = path.removesuffix("sites").removesuffix(".")
    seen: dict[str, Tensor] = {}
    with torch.no_grad(), hooked(module, lambda name, array: seen.setdefault(name, array)):
        module(x)
    return seen


def test_the_norm_comes_between_convolution_and_relu() -> None:
    layer = randomised(ConvNorm(3, 4, kernel_size=3, norm=NORM))
    n = layer.norm
    maps = conv2d(features(), layer.conv.weight, padding=1)
    expected = batch_norm(maps, n.running_mean, n.running_var, n.weight, n.bias, eps=1e-3).clamp_min(0)
    torch.testing.assert_close(layer(features()), expected)
    assert 0 < (expected == 0).float().mean() < 1


def test_without_a_norm_the_convolution_has_a_bias() -> None:
    layer = randomised(ConvNorm(3, 4, kernel_size=1, norm=None))
    expected = conv2d(features(), layer.conv.weight, layer.conv.bias).clamp_min(0)
    torch.testing.assert_close(layer(features()), expected)
    assert set(layer.sites.weights) == {"weight", "bias"}


def test_with_a_norm_the_convolution_has_none() -> None:
    layer = ConvNorm(3, 4, kernel_size=1, norm=NORM)
    assert layer.conv.bias is None
    assert layer.sites.weights == {"weight": "conv.weight"}


def test_the_numbers_of_the_norm_are_honoured() -> None:
    layer = randomised(ConvNorm(3, 4, kernel_size=1, norm=NORM)).train()
    before = layer.norm.running_mean.clone()
    layer(features())
    mean = conv2d(features(), layer.conv.weight).mean((0, 2, 3))
    torch.testing.assert_close(layer.norm.running_mean, 0.75 * before + 0.25 * mean)


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize(("stride", "size"), [(1, (9, 7)), (2, (5, 4))])
def test_the_map_shrinks_by_the_stride_alone_rounded_up(kernel: int, stride: int, size: tuple[int, int]) -> None:
    layer = randomised(ConvNorm(3, 4, kernel_size=kernel, stride=stride, norm=NORM))
    assert layer(features()).shape == (2, 4, *size)


def test_without_relu_negative_values_pass() -> None:
    layer = randomised(ConvNorm(3, 4, kernel_size=1, norm=None, relu=False))
    torch.testing.assert_close(layer(features()), conv2d(features(), layer.conv.weight, layer.conv.bias))


def test_a_depthwise_layer_reads_one_channel_for_each_output() -> None:
    layer = randomised(ConvNorm(3, 3, kernel_size=3, norm=None, depthwise=True, relu=False))
    x = features()
    alone = [
        conv2d(x[:, i : i + 1], layer.conv.weight[i : i + 1], layer.conv.bias[i : i + 1], padding=1) for i in range(3)
    ]
    torch.testing.assert_close(layer(x), torch.cat(alone, 1))


def test_the_maximum_is_taken_over_3x3_behind_the_site() -> None:
    layer = randomised(ConvNorm(3, 4, kernel_size=3, norm=NORM, max_pool=True))
    maps = seen_at_sites(layer, features())[".out"]
    pooled = layer(features())
    assert maps.shape == (2, 4, 9, 7)
    assert pooled.shape == (2, 4, 5, 4)
    for row in range(5):
        for column in range(4):
            window = maps[:, :, max(2 * row - 1, 0) : 2 * row + 2, max(2 * column - 1, 0) : 2 * column + 2]
            assert pooled[:, :, row, column].equal(window.amax((2, 3)))


@pytest.mark.parametrize(("channels", "stride", "downsample"), [(8, 1, False), (6, 1, True), (6, 2, True)])
def test_a_bottleneck_computes_what_torchvision_does(channels: int, stride: int, downsample: bool) -> None:
    around = None
    if downsample:
        around = nn.Sequential(nn.Conv2d(channels, 8, 1, stride, bias=False), nn.BatchNorm2d(8))
    published = randomised(TorchvisionBottleneck(channels, 2, stride, around))
    layer = Bottleneck(channels, (2, 2, 8), stride=stride, downsample=downsample, norm=BatchNormSpec(1e-5, 0.1)).eval()
    tensors = published.state_dict().values()
    layer.load_state_dict(dict(zip(layer.state_dict(), tensors, strict=True)))
    torch.testing.assert_close(layer(features(channels)), published(features(channels)))


def test_the_sites_of_a_bottleneck_lie_behind_each_convolution_and_the_sum() -> None:
    layer = randomised(Bottleneck(3, (2, 4, 5), stride=1, downsample=True, norm=NORM))
    seen = seen_at_sites(layer, features())
    assert list(seen) == ["conv1.out", "conv2.out", "conv3.out", "downsample.out", ".sum_out"]
    total = seen["conv3.out"] + seen["downsample.out"]
    assert seen["conv1.out"].min() == 0
    assert seen["conv3.out"].min() < 0
    assert seen[".sum_out"].equal(total.clamp_min(0))


def test_a_separable_convolution_is_a_depthwise_one_and_then_a_pointwise_one() -> None:
    layer = randomised(SeparableConv(3, 5, stride=2, norm=NORM))
    x = features()
    for part, groups, kernel, stride in ((layer.depthwise, 3, 3, 2), (layer.pointwise, 1, 1, 1)):
        n = part.norm
        x = conv2d(x, part.conv.weight, stride=stride, padding=kernel // 2, groups=groups)
        x = batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, eps=1e-3).clamp_min(0)
    torch.testing.assert_close(layer(features()), x)
    assert x.shape == (2, 5, 5, 4)


def test_a_classifier_gives_logits_of_the_mean_of_the_map() -> None:
    layer = randomised(MeanClassifier(3, 4))
    capsules, scores = layer(features())
    mean = features().flatten(2).sum(2) / 63
    torch.testing.assert_close(scores, mean @ layer.linear.weight.T + layer.linear.bias)
    assert capsules.squeeze(2).equal(scores)


def test_a_rounded_logit_is_the_score() -> None:
    layer = randomised(MeanClassifier(3, 4))
    with hooked(layer, lambda name, array: array.round() if name.endswith(".out") else array):
        _, scores = layer(features())
    assert scores.equal(layer(features())[1].round())
