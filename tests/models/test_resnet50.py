from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchvision.models import resnet50

from qcaps.evaluation.cost import stage_costs
from qcaps.models.network import array_sites, parameter_count, weight_sites
from qcaps.models.resnet50 import RESNET50, RESNET50_WIDTHS, ResNet50Spec
from qcaps.models.spec import build, initialised

TINY = ResNet50Spec(height=64, width=64, classes=5, widths=tuple(n // 16 for n in RESNET50_WIDTHS))

# Bottlenecks of every layer.
BLOCKS = {1: 3, 2: 4, 3: 6, 4: 3}
# EagleEye's strategies: kept MACs in percent → widths, MACs, parameters of two and four axes, all parameters.
PUBLISHED = {
    100: (RESNET50_WIDTHS, 4_089_184_256, 25_502_912, 25_557_032),
    75: (
        (
            *(62, 57, 56, 46, 46, 50, 60, 210, 124, 124, 98, 105, 115, 117, 94, 91, 471),
            *(237, 201, 241, 217, 223, 225, 205, 255, 227, 215, 212, 185, 914, 476, 412, 410, 387, 408, 491, 1970),
        ),
        3_079_920_974,
        19_768_349,
        19_817_239,
    ),
    50: (
        (
            *(58, 46, 35, 35, 39, 34, 36, 200, 111, 78, 123, 89, 89, 71, 79, 79, 361),
            *(225, 197, 217, 160, 208, 179, 173, 161, 246, 180, 153, 150, 568, 407, 309, 382, 299, 356, 440, 1947),
        ),
        2_056_517_539,
        14_368_906,
        14_409_532,
    ),
    25: (
        (
            *(52, 51, 35, 22, 19, 13, 46, 92, 111, 86, 33, 55, 37, 79, 31, 58, 272),
            *(229, 183, 114, 119, 197, 57, 138, 130, 56, 96, 199, 78, 324, 158, 415, 140, 246, 425, 362, 944),
        ),
        1_033_610_180,
        6_963_815,
        6_988_499,
    ),
}


@pytest.mark.parametrize("percent", PUBLISHED)
def test_a_published_strategy_costs_what_was_published(percent: int) -> None:
    widths, macs, weights, trainable = PUBLISHED[percent]
    network = build(ResNet50Spec(widths=widths)).eval()
    assert sum(stage.macs for stage in stage_costs(network, (3, 224, 224))) == macs
    assert sum(p.numel() for p in network.parameters() if p.ndim in (2, 4)) == weights
    assert parameter_count(network) == trainable


def test_the_layout_is_torchvisions_tensor_by_tensor() -> None:
    with torch.device("meta"):
        published = resnet50(weights=None)
    ours = build(RESNET50.spec)
    assert [t.shape for t in ours.state_dict().values()] == [t.shape for t in published.state_dict().values()]


def test_the_full_network_computes_what_torchvisions_does() -> None:
    with torch.device("meta"):
        published = resnet50(weights=None)
    published.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in published.state_dict().items():
        if name.endswith("running_var") or tensor.ndim == 1:
            tensor.uniform_(0.5, 1.0, generator=generator)
        elif tensor.ndim:
            tensor.uniform_(-1, 1, generator=generator).mul_((6 / tensor[0].numel()) ** 0.5)
    network = build(RESNET50.spec).eval()
    tensors = zip(network.state_dict(), published.state_dict().values(), strict=True)
    network.load_state_dict(dict(tensors), strict=True, assign=True)
    image = torch.randn(1, 3, 64, 64, generator=generator)
    with torch.inference_mode():
        expected = published(image)
        scores = network(image).scores
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert expected.std() > 0.1


def test_the_units_are_eagleeyes_37_groups_in_order() -> None:
    units = build(ResNet50Spec(widths=tuple(range(1, 38)))).units
    inner = {n: [f"layer{n}.{i}.{conv}" for i in range(b) for conv in ("conv1", "conv2")] for n, b in BLOCKS.items()}
    names = ["stem", *(name for n in BLOCKS for name in (*inner[n], f"layer{n}.out"))]
    assert [unit.name for unit in units] == [f"{name}.channels" for name in names]
    assert [unit.count for unit in units] == list(range(1, 38))


def test_the_channels_of_a_sum_lead_with_the_last_convolution_of_the_first_block() -> None:
    units = {unit.name: unit for unit in build(TINY).units}
    assert units["layer3.out.channels"].cuts[0].tensor == "layer3.0.conv3.conv.weight"


def test_widths_are_kept_by_the_name_of_their_unit() -> None:
    smaller = TINY.with_widths({"stem.channels": 3, "layer4.out.channels": 100})
    assert smaller == replace(TINY, widths=(3, *TINY.widths[1:-1], 100))


def test_the_stages_run_from_the_stem_to_the_classifier() -> None:
    network = build(TINY)
    assert list(network.stages) == ["stem", "layer1", "layer2", "layer3", "layer4", "classifier"]
    assert network.backbone == ("stem", "layer1", "layer2", "layer3", "layer4")
    assert network.loss == "cross-entropy"


def test_every_convolution_and_the_classifier_has_weight_sites() -> None:
    sites = weight_sites(build(TINY))
    assert len(sites) == 53 + 2
    assert sites["layer2.0.downsample.weight"] == "stages.layer2.0.downsample.conv.weight"
    assert sites["classifier.bias"] == "stages.classifier.linear.bias"
    assert len(weight_sites(build(TINY.folded()))) == 2 * 53 + 2


def test_every_convolution_every_sum_and_the_classifier_has_array_sites() -> None:
    sites = list(array_sites(build(TINY).eval(), (3, 64, 64)))
    assert len(sites) == 53 + 16 + 2
    assert sites[:4] == ["stem.out", "layer1.0.conv1.out", "layer1.0.conv2.out", "layer1.0.conv3.out"]
    assert sites[-4:] == ["layer4.2.conv3.out", "layer4.2.sum_out", "classifier.input", "classifier.out"]


def test_the_capsules_of_a_classifier_are_its_logits() -> None:
    output = initialised(TINY, 0)(torch.rand(2, 3, 64, 64))
    assert output.scores.shape == (2, 5)
    assert output.capsules.equal(output.scores.unsqueeze(2))


def test_gradients_reach_every_parameter() -> None:
    network = initialised(TINY, 0)
    scores = network(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))).scores
    torch.nn.functional.cross_entropy(scores, torch.tensor([1, 3])).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_a_folded_network_has_a_bias_for_each_norm() -> None:
    folded, normed = build(TINY.folded()), build(TINY)
    biases = {name.replace(".norm.", ".conv.") for name in normed.state_dict() if name.endswith(".norm.bias")}
    kept = {name for name in normed.state_dict() if ".norm." not in name}
    assert len(biases) == 53
    assert set(folded.state_dict()) == kept | biases
    assert not folded.folds


def test_there_is_no_routing_and_no_decoder_to_change() -> None:
    assert TINY.with_uniform_routing() == TINY.without_decoder() == TINY
