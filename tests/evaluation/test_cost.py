from __future__ import annotations

import math
import time

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from toys import ROUTED

from qcaps.capsules.sites import Sites
from qcaps.evaluation.cost import LayerCost, StageCost, network_cost, stage_costs
from qcaps.models.deepcaps import DeepCapsSpec
from qcaps.models.efficient_capsnet import EfficientCapsNetSpec
from qcaps.models.em_capsnet import EMCapsNetSpec
from qcaps.models.network import CapsuleNetwork, array_sites
from qcaps.models.shallow_capsnet import ShallowCapsNetSpec
from qcaps.models.spec import build, image_of, initialised

MNIST = (1, 28, 28)


def column(costs, name):
    return {cost.name: getattr(cost, name) for cost in costs}


@pytest.fixture(scope="module")
def shallow():
    return stage_costs(build(ShallowCapsNetSpec()).eval(), MNIST)


@pytest.fixture(scope="module")
def efficient():
    return stage_costs(build(EfficientCapsNetSpec()).eval(), MNIST)


def test_the_macs_of_shallow_capsnet_are_those_of_the_formulas(shallow):
    votes = 1152 * 10 * 8 * 16
    one_product = 1152 * 10 * 16  # weighted sum or agreement: three of the first, two of the second
    assert column(shallow, "macs") == {
        "conv1": 20 * 20 * 256 * 81,
        "primary": 6 * 6 * 256 * 256 * 81,
        "class_caps": votes + 5 * one_product,
    }
    assert sum(cost.macs for cost in shallow) == 201_793_536


def test_the_macs_of_efficient_capsnet_are_those_of_the_formulas(efficient):
    assert column(efficient, "macs") == {
        "conv1": 24 * 24 * 32 * 25,
        "conv2": 22 * 22 * 64 * 32 * 9,
        "conv3": 20 * 20 * 64 * 64 * 9,
        "conv4": 9 * 9 * 128 * 64 * 9,
        "primary": 128 * 81,
        "class_caps": 16 * 10 * 8 * 16 + 2 * 16 * 10 * 16,
    }
    assert sum(cost.macs for cost in efficient) == 30_135_424


@pytest.mark.parametrize(("passes", "products"), [(1, 1), (2, 3), (4, 7)])
def test_every_further_routing_iteration_costs_a_weighted_sum_and_an_agreement(passes, products):
    costs = stage_costs(build(ShallowCapsNetSpec(routing_passes=passes)).eval(), MNIST)
    assert costs[-1].macs == 1152 * 10 * 8 * 16 + products * 1152 * 10 * 16


def test_uniform_attention_saves_the_agreement():
    costs = stage_costs(build(EfficientCapsNetSpec(routing="uniform")).eval(), MNIST)
    assert costs[-1].macs == 16 * 10 * 8 * 16 + 16 * 10 * 16


def test_the_parameters_are_those_of_each_stage(shallow):
    assert column(shallow, "parameters") == {"conv1": 20_992, "primary": 5_308_672, "class_caps": 1_474_720}


def test_frozen_parameters_and_the_decoder_do_not_change_the_parameters():
    network = build(EfficientCapsNetSpec(decoder="fc")).eval().requires_grad_(requires_grad=False)
    assert sum(cost.parameters for cost in stage_costs(network, MNIST)) == 161_824


def test_the_activations_of_shallow_capsnet_count_every_array_once(shallow):
    maps, capsules = 256 * 6 * 6, 1152 * 8
    votes, logits, sums = 1152 * 10 * 16, 1152 * 10, 10 * 16
    assert column(shallow, "activation_values") == {
        "conv1": 256 * 20 * 20,
        "primary": maps + 1 + maps + capsules,  # votes, the one coupling, sum and out
        "class_caps": votes + logits + logits + sums + sums,  # with coupling and out, 207,680 in all
    }


def test_the_activations_of_efficient_capsnet_count_every_array_once(efficient):
    assert column(efficient, "activation_values") == {
        "conv1": 32 * 24 * 24,
        "conv2": 64 * 22 * 22,
        "conv3": 64 * 20 * 20,
        "conv4": 128 * 9 * 9,
        "primary": 128 + 128,
        "class_caps": 16 * 10 * 16 + 16 * 10 + 16 * 10 + 10 * 16 + 10 * 16,
    }


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("spec", [ShallowCapsNetSpec(), EfficientCapsNetSpec()], ids=["shallow", "efficient"])
def test_the_macs_are_half_the_operations_of_a_real_batch(spec, batch):
    network = initialised(spec, seed=0).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(batch, *MNIST))
    assert 2 * batch * sum(cost.macs for cost in stage_costs(network, MNIST)) == counter.get_total_flops()


class Foreign(nn.Module):
    """A layer that cost counting has never heard of: a transposed convolution, a product and two sites."""

    def __init__(self):
        super().__init__()
        self.conv = nn.ConvTranspose2d(2, 3, 2, bias=False)
        self.linear = nn.Linear(5, 7)
        self.sites = Sites("votes", "out")

    def forward(self, x):
        x = self.conv(self.sites("votes", x))  # (batch, 3, 5, 5)
        return self.sites("out", self.sites("out", self.linear(x), 1), 2).flatten(2)  # (batch, 3, 35)


def test_a_new_kind_of_layer_is_counted_like_any_other():
    network = CapsuleNetwork({"first": Foreign()}).eval()
    assert stage_costs(network, (2, 4, 4)) == (
        StageCost(
            name="first",
            parameters=2 * 3 * 4 + 5 * 7 + 7,
            macs=4 * 4 * 2 * 3 * 4 + 3 * 5 * 5 * 7,
            activation_values=2 * 4 * 4 + 3 * 5 * 7,
            outputs=((3, 35),),
        ),
    )


def test_the_outputs_are_the_shapes_that_each_stage_gives_to_the_next(shallow):
    assert column(shallow, "outputs") == {
        "conv1": ((256, 20, 20),),
        "primary": ((1152, 8),),
        "class_caps": ((10, 16),),
    }


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1)

    def forward(self, x):
        return self.conv(x).unsqueeze(2), x.flatten(1)


def test_a_stage_that_gives_two_tensors_has_two_output_shapes():
    (cost,) = stage_costs(CapsuleNetwork({"halves": Halves()}).eval(), (1, 2, 3))
    assert cost.outputs == ((4, 1, 2, 3), (6,))


def test_layers_are_the_modules_with_sites_in_execution_order():
    layers = network_cost(build(DeepCapsSpec()).eval(), MNIST).layers
    assert [layer.name for layer in layers][:6] == [
        "conv1",
        "block1.l1",
        "block1.l2",
        "block1.l3",
        "block1.skip",
        "block1",
    ]


def test_the_cost_of_a_layer_is_its_own_and_not_that_of_those_inside_it():
    layers = {layer.name: layer for layer in network_cost(build(DeepCapsSpec()).eval(), MNIST).layers}
    assert layers["block4"] == LayerCost("block4", parameters=0, macs=0, activation_values=32 * 8 * 2 * 2)
    # One kernel for the votes of all lower types, and three sums and two agreements of 32 x 4 x 8 values for each.
    votes = 32 * (2 * 2) * (32 * 8) * (8 * 9)
    assert layers["block4.skip"].macs == votes + 5 * 32 * (32 * 2 * 2) * 8 == 2_359_296 + 163_840
    assert layers["block4.skip"].parameters == 32 * 8 * 8 * 9 + 32 * 8 + 32 * 8


@pytest.mark.parametrize("spec", [DeepCapsSpec(), EMCapsNetSpec(), ROUTED], ids=["deep", "em", "routed"])
def test_the_layers_of_a_stage_add_up_to_it(spec):
    cost = network_cost(build(spec).eval(), image_of(spec))
    for stage in cost.stages:
        own = [layer for layer in cost.layers if layer.name.split(".")[0] == stage.name]
        for kind in ("parameters", "macs", "activation_values"):
            assert sum(getattr(layer, kind) for layer in own) == getattr(stage, kind)


def test_every_array_is_listed_in_execution_order_with_the_shape_of_one_image():
    arrays = network_cost(build(ROUTED).eval(), (1, 14, 14)).arrays
    assert list(arrays.items())[:3] == [
        ("conv1.out", (4, 10, 10)),
        ("primary.votes", (12, 3, 3)),
        ("primary.coupling", (1,)),
    ]
    assert (arrays["class_caps.logits@1"], arrays["class_caps.logits@2"]) == ((27, 3), (27, 3))


def test_the_arrays_are_those_of_the_network_with_as_many_values():
    network = build(ROUTED).eval()
    found = network_cost(network, (1, 14, 14)).arrays
    assert {site: math.prod(shape) for site, shape in found.items()} == array_sites(network, (1, 14, 14))


def test_counting_on_the_meta_device_and_on_real_numbers_agree(efficient):
    assert stage_costs(initialised(EfficientCapsNetSpec(), seed=0).eval(), MNIST) == efficient


def test_counting_leaves_the_network_as_it_was():
    network = initialised(EfficientCapsNetSpec(), seed=0).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    stage_costs(network, MNIST)
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())
    assert all(site.hook is None for site in network.modules() if isinstance(site, Sites))


@pytest.mark.slow
def test_counting_takes_less_than_a_second():
    network = build(ShallowCapsNetSpec()).eval()
    stage_costs(network, MNIST)
    start = time.perf_counter()
    stage_costs(network, MNIST)
    assert time.perf_counter() - start < 1
