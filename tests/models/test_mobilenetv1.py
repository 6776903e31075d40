from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from qcaps.evaluation.cost import stage_costs
from qcaps.models.mobilenetv1 import MOBILENETV1_WIDTHS, MobileNetV1Spec
from qcaps.models.network import array_sites, parameter_count, weight_sites
from qcaps.models.spec import build, initialised

TINY = MobileNetV1Spec(height=64, width=64, classes=5, widths=tuple(n // 8 for n in MOBILENETV1_WIDTHS))
PRUNED = (21, 48, 85, 82, 167, 167, 440, 364, 356, 311, 348, 432, 889, 619)


@pytest.mark.parametrize(
    ("widths", "macs", "weights", "trainable"),
    [
        (MOBILENETV1_WIDTHS, 568_740_352, 4_209_088, 4_231_976),
        (PRUNED, 288_950_484, 2_373_441, 2_390_519),
    ],
    ids=["100", "50"],
)
def test_a_published_strategy_costs_what_was_published(
    widths: tuple[int, ...], macs: int, weights: int, trainable: int
) -> None:
    network = build(MobileNetV1Spec(widths=widths)).eval()
    assert sum(stage.macs for stage in stage_costs(network, (3, 224, 224))) == macs
    assert sum(p.numel() for p in network.parameters() if p.ndim in (2, 4)) == weights
    assert parameter_count(network) == trainable


# (outputs, stride of the depthwise convolution) of every block, as the paper's table 1 lists them.
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


def straightforward(width: int, classes: int, *, stem_relu: bool = True) -> nn.Sequential:
    """Write the network down layer by layer, all widths divided by `width`."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32 // width, 3, 2, 1, bias=False), nn.BatchNorm2d(32 // width)]
    layers += [nn.ReLU()] if stem_relu else []
    n_in = 32 // width
    for wide, stride in BLOCKS:
        n_out = wide // width
        layers += [nn.Conv2d(n_in, n_in, 3, stride, 1, groups=n_in, bias=False), nn.BatchNorm2d(n_in), nn.ReLU()]
        layers += [nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
        n_in = n_out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, classes))


def random_(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var") or tensor.ndim == 1:
            tensor.uniform_(0.5, 1.0, generator=generator)
        elif tensor.ndim:
            tensor.uniform_(-1, 1, generator=generator).mul_((6 / tensor[0].numel()) ** 0.5)


@pytest.mark.parametrize("stem_relu", [True, False])
def test_the_network_is_the_published_list_of_layers(stem_relu: bool) -> None:
    published = straightforward(8, 5, stem_relu=stem_relu).eval()
    random_(published)
    network = initialised(replace(TINY, stem_relu=stem_relu), 0).eval()
    tensors = zip(network.state_dict(), published.state_dict().values(), strict=True)
    network.load_state_dict(dict(tensors), strict=True)
    images = 3 * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = published(images)
        torch.testing.assert_close(network(images).scores, expected)
    assert expected.std() > 0.1


def test_without_its_relu_the_stem_passes_negative_values() -> None:
    network = initialised(replace(TINY, stem_relu=False), 0).eval()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert network.stages["stem"](image).min() < 0
    assert network.stages["block1"](image[:, :1].expand(-1, 4, -1, -1)).min() == 0


def test_the_units_are_eagleeyes_14_groups_in_order() -> None:
    units = build(MobileNetV1Spec(widths=PRUNED)).units
    assert [unit.name for unit in units] == ["stem.channels", *(f"block{i}.channels" for i in range(1, 14))]
    assert tuple(unit.count for unit in units) == PRUNED


def test_a_depthwise_convolution_follows_the_channels_it_reads() -> None:
    unit = build(TINY).units[3]
    assert [(cut.tensor, cut.axis) for cut in unit.cuts if cut.tensor.endswith("conv.weight")] == [
        ("block3.pointwise.conv.weight", 0),
        ("block4.depthwise.conv.weight", 0),
        ("block4.pointwise.conv.weight", 1),
    ]


def test_widths_are_kept_by_the_name_of_their_unit() -> None:
    smaller = TINY.with_widths({"stem.channels": 3, "block13.channels": 100})
    assert smaller == replace(TINY, widths=(3, *TINY.widths[1:-1], 100))


def test_the_stages_run_from_the_stem_to_the_classifier() -> None:
    network = build(TINY)
    assert list(network.stages) == ["stem", *(f"block{i}" for i in range(1, 14)), "classifier"]
    assert network.backbone == tuple(network.stages)[:-1]
    assert network.loss == "cross-entropy"


def test_every_convolution_and_the_classifier_has_its_sites() -> None:
    network = build(TINY).eval()
    sites = list(array_sites(network, (3, 64, 64)))
    assert len(weight_sites(network)) == 27 + 2
    assert sites[:3] == ["stem.out", "block1.depthwise.out", "block1.pointwise.out"]
    assert len(sites) == 27 + 2


def test_gradients_reach_every_parameter() -> None:
    network = initialised(TINY, 0)
    images: Tensor = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.nn.functional.cross_entropy(network(images).scores, torch.tensor([1, 3])).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_a_folded_network_has_biases_instead_of_norms() -> None:
    folded = build(TINY.folded())
    assert sum(name.endswith("conv.bias") for name in folded.state_dict()) == 27
    assert not [name for name in folded.state_dict() if "norm" in name]
    assert not folded.folds


def test_there_is_no_routing_and_no_decoder_to_change() -> None:
    assert TINY.with_uniform_routing() == TINY.without_decoder() == TINY
