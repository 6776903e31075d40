from __future__ import annotations

import math

import pytest
import torch

from qcaps.models.capsnet_flavours import EFFICIENTCN, ETHANLEET, SABOUR, TF_ORIGINAL
from qcaps.models.spec import initialised

N, K, D_IN, D_OUT = 1152, 10, 8, 16


@pytest.fixture(scope="module")
def networks():
    presets = {"sabour": SABOUR, "keras": TF_ORIGINAL, "efficientcn": EFFICIENTCN, "ethanleet": ETHANLEET}
    return {name: initialised(preset.spec, seed=0).stages for name, preset in presets.items()}


def assert_uniform(weight, bound):
    assert weight.abs().max().item() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_the_class_weights_of_sabour_are_normal_cut_at_two_sigma(networks):
    weight = networks["sabour"]["class_caps"].weight
    assert weight.abs().max().item() <= 0.2
    assert weight.std().item() == pytest.approx(0.08796, rel=0.01)  # 0.1 times that of a unit normal so cut


def test_the_class_bias_of_sabour_starts_at_one_tenth(networks):
    assert (networks["sabour"]["class_caps"].routing.bias == 0.1).all()


@pytest.mark.parametrize(("stage", "fans"), [("conv1", (1 + 256) * 81), ("primary", (256 + 256) * 81)])
def test_the_convolutions_of_keras_are_glorot_uniform(networks, stage, fans):
    assert_uniform(networks["keras"][stage].conv.weight, math.sqrt(6 / fans))


def test_the_class_weights_of_keras_are_glorot_uniform_over_all_capsules(networks):
    assert_uniform(networks["keras"]["class_caps"].weight, math.sqrt(6 / (N * (D_IN + K * D_OUT))))


def test_the_biases_of_keras_start_at_zero(networks):
    biases = [p for n, p in networks["keras"].named_parameters() if n.endswith("bias")]
    assert len(biases) == 3
    assert all((bias == 0).all() for bias in biases)


def test_the_class_weights_of_efficientcn_are_uniform_by_the_number_of_capsules(networks):
    assert_uniform(networks["efficientcn"]["class_caps"].weight, 1 / math.sqrt(N))


def test_the_prior_logits_of_efficientcn_start_at_zero(networks):
    assert (networks["efficientcn"]["class_caps"].routing.prior == 0).all()


def test_ethanleet_is_xavier_normal_with_tiny_gains(networks):
    stages = networks["ethanleet"]
    of_torch = torch.empty(32, 256, 9, 9)  # one of its eight convolutions
    torch.nn.init.xavier_normal_(of_torch, gain=0.02)
    assert stages["primary"].conv.weight.std().item() == pytest.approx(of_torch.std().item(), rel=0.02)
    of_torch = torch.empty(1, N, K, D_OUT, D_IN)
    torch.nn.init.xavier_normal_(of_torch, gain=0.002)
    assert stages["class_caps"].weight.std().item() == pytest.approx(of_torch.std().item(), rel=0.02)
    of_torch = torch.empty(1, 1, K, D_OUT)
    torch.nn.init.xavier_normal_(of_torch, gain=0.002)
    assert stages["class_caps"].routing.bias.std().item() == pytest.approx(of_torch.std().item(), rel=0.3)
