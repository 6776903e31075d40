from __future__ import annotations

import functools
import time

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from toys import ROUTED

from qcaps.evaluation.cost import network_cost
from qcaps.evaluation.cost_model import cost_model as derived
from qcaps.evaluation.liveness import array_lives, peak
from qcaps.models.capsnet_flavours import Q7_CIFAR10
from qcaps.models.cnn_baselines import CNNCRSFSpec, CNNCRSpec, CNNRSpec
from qcaps.models.cnn_small import CNNSmallSpec
from qcaps.models.deepcaps import DeepCapsSpec
from qcaps.models.efficient_capsnet import SMALLNORB, EfficientCapsNetSpec
from qcaps.models.em_capsnet import EMCapsNetSpec
from qcaps.models.mobilenetv1 import MobileNetV1Spec
from qcaps.models.mobilenetv1_capsnet import MobileNetV1CapsNetSpec
from qcaps.models.network import array_sites, parameter_count
from qcaps.models.resnet50 import ResNet50Spec
from qcaps.models.resnet50_capsnet import ResNet50CapsNetSpec
from qcaps.models.shallow_capsnet import ShallowCapsNetSpec
from qcaps.models.spec import build, image_of
from qcaps.registry import MODELS

# Every family, and every way in which arrays, votes and routing of one follow its widths.
SPECS = {
    "shallow": ShallowCapsNetSpec(decoder="fc"),
    "shallow by position": ShallowCapsNetSpec(reshape_order="hw_type", prior_logits=True, routing_passes=4),
    "shallow with attention": ShallowCapsNetSpec(routing="attention", routing_bias="after_softmax"),
    "several convolutions": Q7_CIFAR10.spec,
    "efficient": EfficientCapsNetSpec(),
    "efficient, dynamic": SMALLNORB.spec.with_widths({"primary.types": 7}),
    "efficient, folded": EfficientCapsNetSpec(routing="dynamic").folded(),
    "deep": DeepCapsSpec(),
    "deep, uniform": DeepCapsSpec(height=15, width=20, routing="uniform"),
    "em": EMCapsNetSpec(),
    "em, uniform": EMCapsNetSpec(routing="uniform", conv_types=(5,), conv_kernels=(3,), conv_strides=(2,)),
    "resnet, full head": ResNet50CapsNetSpec(),
    "mobilenet, pointwise head": MobileNetV1CapsNetSpec(head="pointwise", routing="attention"),
    "mobilenet, depthwise head": MobileNetV1CapsNetSpec(head="depthwise", primary_types=128, softmax_axis="inputs"),
    "resnet": ResNet50Spec(norm="none"),
    "mobilenet": MobileNetV1Spec(),
    "cnn-r": CNNRSpec(),
    "cnn-cr": CNNCRSpec(),
    "cnn-cr-sf": CNNCRSFSpec(),
    "cnn-small": CNNSmallSpec(),
}
EFFICIENT = EfficientCapsNetSpec()
# A model is derived once; nothing changes it.
cost_model = functools.cache(derived)


def random_widths(units, seed=0):
    draws = np.random.default_rng(seed)
    return {name: int(draws.integers(1, count, endpoint=True)) for name, count in units.items()}


def counted(spec, batch=1):
    """Count as torch does: an oracle that knows nothing of layers and widths."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        build(spec).eval()(torch.empty(batch, *image_of(spec), device="meta"))
    return counter.get_total_flops()


def test_every_family_is_tested_here():
    assert {entry.target.split(":")[0] for entry in MODELS} == {type(spec).__module__ for spec in SPECS.values()} | {
        "qcaps.models.capsnet_flavours"
    }


@pytest.mark.parametrize("name", SPECS)
def test_the_formulas_are_what_torch_counts_at_random_widths(name):
    spec = SPECS[name]
    model = cost_model(spec)
    widths = random_widths(model.units)
    narrow, cost = spec.with_widths(widths), model.at(widths)
    assert 2 * cost.macs == counted(narrow)
    network = build(narrow).eval()
    assert cost.layers == network_cost(network, image_of(spec)).layers
    assert cost.parameters == parameter_count(network)
    assert cost.arrays == {s.split("@")[0]: n for s, n in array_sites(network, image_of(spec)).items()}


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_costs_as_much_as_its_images(batch):
    model = cost_model(EFFICIENT)
    widths = random_widths(model.units, seed=batch)
    assert 2 * batch * model.at(widths).macs == counted(EFFICIENT.with_widths(widths), batch)


def test_a_network_that_is_pruned_already_has_the_same_formulas_from_there():
    first = {"conv2.channels": 40, "primary.types": 9}
    model, again = cost_model(EFFICIENT), cost_model(EFFICIENT.with_widths(first))
    second = {"conv2.channels": 11, "primary.dims": 3}
    assert again.units["conv2.channels"] == 40
    assert again.at(second) == model.at(first | second)


def test_every_unit_has_a_part_in_the_macs_and_the_parameters_of_every_family():
    for spec in (EFFICIENT, ShallowCapsNetSpec(), DeepCapsSpec()):
        model = cost_model(spec)
        assert model.macs.units == model.parameters.units == set(range(len(model.units)))


def test_the_fast_sums_are_those_of_the_layers():
    model = cost_model(DeepCapsSpec())
    widths = random_widths(model.units)
    vector, cost = model.vector(widths), model.at(widths)
    assert (model.macs(vector), model.parameters(vector)) == (cost.macs, cost.parameters)
    assert model.activations(vector) == model.arrays(vector) == cost.activation_bytes / 4
    assert model.activations.names == model.macs.names


def test_the_cost_of_one_layer_is_that_of_its_formula():
    layers = {
        layer.name: layer for layer in cost_model(EFFICIENT).at({"primary.types": 5, "conv3.channels": 20}).layers
    }
    assert layers["conv4"].macs == 9 * 9 * 9 * 20 * 5 * 8
    assert layers["class_caps"].macs == 5 * 10 * 8 * 16 + 2 * 5 * 10 * 16
    assert layers["class_caps"].parameters == 5 * 10 * 8 * 16 + 5 * 10
    assert layers["primary"].activation_values == 2 * 5 * 8


def test_units_that_nobody_names_stay_whole():
    model = cost_model(EFFICIENT)
    assert model.at({}) == model.at(model.units)
    assert model.at({}).macs == 30_135_424


def test_a_unit_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no unit 'conv9"):
        cost_model(EFFICIENT).at({"conv9.channels": 3})


@pytest.mark.parametrize(
    ("spec", "full", "widths", "left"),
    [
        (ShallowCapsNetSpec(), 1152, {"primary.types": 10}, 360),
        (ShallowCapsNetSpec(), 1152, {"primary.types": 10, "primary.positions": 9, "primary.dims": 2}, 90),
        (EFFICIENT, 16, {"primary.types": 3}, 3),
        (DeepCapsSpec(), 640, {"block3.types": 5, "block4.types": 2, "block1.types": 1}, 5 * 16 + 2 * 4),
        (EMCapsNetSpec(), 512, {"conv_caps2.types": 7}, 7 * 16),
        (CNNSmallSpec(), 0, {"conv1.channels": 2}, 0),
    ],
    ids=["shallow", "positions", "efficient", "deep", "em", "no routing"],
)
def test_capsules_are_those_that_vote_for_the_classes(spec, full, widths, left):
    model = cost_model(spec)
    assert (model.at({}).capsules, model.at(widths).capsules) == (full, left)


def test_what_is_alive_together_can_be_told_without_building_the_narrow_network():
    model = cost_model(ROUTED)
    widths = random_widths(model.units, seed=2)
    lives = array_lives(build(ROUTED).eval(), image_of(ROUTED))
    network = build(ROUTED.with_widths(widths)).eval()
    built = peak(array_lives(network, image_of(ROUTED)), model.at(widths).arrays)
    assert peak(lives, model.at(widths).arrays) == built < peak(lives, model.at({}).arrays)


def test_eagleeye_counts_convolutions_and_linear_layers_alone():
    spec = CNNSmallSpec()
    ours, eagleeye = cost_model(spec).at({}), cost_model(spec, "eagleeye").at({})
    assert eagleeye.macs == ours.macs
    assert eagleeye.parameters == ours.parameters - 16 - 32 - 10  # biases


def test_eagleeye_leaves_out_votes_and_routing():
    spec = ShallowCapsNetSpec()
    eagleeye = cost_model(spec, "eagleeye").at({})
    assert eagleeye.macs == 20 * 20 * 256 * 81 + 6 * 6 * 256 * 256 * 81
    # Two or four sides have both convolutions, the class weights, and the biases of capsules, not those of channels.
    assert eagleeye.parameters == 81 * 256 + 81 * 256 * 256 + 1152 * 10 * 8 * 16 + 32 * 8 + 10 * 16


@pytest.mark.slow
def test_a_strategy_of_a_resnet_is_priced_in_a_fraction_of_a_millisecond():
    model = cost_model(ResNet50CapsNetSpec())
    vector = model.vector(random_widths(model.units))
    start = time.perf_counter()
    for _ in range(100):
        model.macs(vector)
    assert (time.perf_counter() - start) / 100 < 3e-4
