from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode
from toys import NORMED, ROUTED, toy_network

from qcaps.capsules.sites import Sites
from qcaps.evaluation.trace import Product, traced
from qcaps.models.network import CapsuleNetwork
from qcaps.models.spec import build


class Inner(nn.Module):
    """A layer with a site of its own, inside another that has one too."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 1)
        self.sites = Sites("out")

    def forward(self, x):
        return self.sites("out", self.conv(x))


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(5, 4))
        self.inner = Inner()
        self.sites = Sites("sum_out")

    def forward(self, x):
        features = self.inner(x).flatten(2)  # (batch, 4, 6)
        return self.sites("sum_out", self.weight @ features)


class Siteless(nn.Module):
    def __init__(self):
        super().__init__()
        self.deep = nn.Sequential(nn.Linear(6, 7))

    def forward(self, x):
        return self.deep(x)


def nested():
    return traced(CapsuleNetwork({"outer": Outer(), "last": Siteless()}).eval(), (2, 2, 3))


def test_a_product_belongs_to_the_innermost_layer_around_it():
    assert [(one.layer, one.macs) for one in nested().products] == [
        ("outer.inner", 4 * 2 * 6),
        ("outer", 5 * 4 * 6),
        ("last", 5 * 6 * 7),
    ]


def test_only_convolutions_and_linear_layers_are_plain():
    assert [one.plain for one in nested().products] == [True, False, True]


def test_layers_come_in_execution_order_with_their_own_parameters():
    assert list(nested().layers.items()) == [
        ("outer.inner", ("outer.inner.conv.weight", "outer.inner.conv.bias")),
        ("outer", ("outer.weight",)),
        ("last", ("last.deep.0.weight", "last.deep.0.bias")),
    ]


def test_the_lengths_of_a_grouped_convolution_are_those_of_its_outputs_and_weight():
    network = CapsuleNetwork({"conv": nn.Conv2d(4, 8, 3, stride=2, groups=2)}).eval()
    assert traced(network, (4, 7, 9)).products == (Product("conv", plain=True, lengths=(1, 3, 4, 8, 2, 3, 3)),)


def test_the_lengths_of_a_transposed_convolution_are_those_of_its_inputs_and_weight():
    network = CapsuleNetwork({"conv": nn.ConvTranspose2d(4, 8, 3, stride=2)}).eval()
    assert traced(network, (4, 5, 6)).products == (Product("conv", plain=False, lengths=(1, 5, 6, 4, 8, 3, 3)),)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.empty(1))

    def forward(self, x):
        return scaled_dot_product_attention(x, x, x)


def test_a_product_of_an_unknown_kind_is_refused_rather_than_left_out():
    with pytest.raises(NotImplementedError, match="no multiply-accumulates are known for"):
        traced(CapsuleNetwork({"attention": Attention()}).eval(), (2, 8, 16))


@pytest.mark.parametrize("spec", [NORMED, ROUTED], ids=["normed", "routed"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no-grad", "inference"])
def test_the_products_are_what_torch_counts_on_real_numbers(spec, mode):
    network = toy_network(spec)
    with mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, 14, 14))
    with mode():
        products = traced(network, (1, 14, 14)).products
    assert 2 * sum(one.macs for one in products) == counter.get_total_flops()


def test_tracing_leaves_no_hook_behind():
    network = build(ROUTED).eval()
    traced(network, (1, 14, 14))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
