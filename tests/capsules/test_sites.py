from __future__ import annotations

import pytest
import torch
from torch import nn

from qcaps.capsules.sites import ROLE_GROUPS, Sites, group_of, hooked, role_of


class Layer(nn.Module):
    """Two sites, the second of them twice."""

    def __init__(self, owner):
        super().__init__()
        self.sites = Sites("votes", "logits")
        self.sites.owner = owner

    def forward(self, x):
        x = self.sites("votes", x + 1)
        x = self.sites("logits", x * 2, 1)
        return self.sites("logits", x * 2, 2)


def network():
    return nn.Sequential(Layer("first"), Layer("second.inner"))


def test_a_site_without_a_hook_is_the_identity():
    array = torch.ones(2)
    assert Sites("out")("out", array) is array


def test_a_hook_sees_every_array_under_its_full_name_in_execution_order():
    seen = []
    layers = network()
    with hooked(layers, lambda name, array: seen.append((name, array.item())) or array):
        layers(torch.zeros(1))
    assert seen == [
        ("first.votes", 1.0),
        ("first.logits@1", 2.0),
        ("first.logits@2", 4.0),
        ("second.inner.votes", 5.0),
        ("second.inner.logits@1", 10.0),
        ("second.inner.logits@2", 20.0),
    ]


def test_the_layer_goes_on_with_what_the_hook_returns():
    layers = network()
    with hooked(layers, lambda name, array: torch.full_like(array, 100.0) if name == "first.logits@1" else array):
        assert layers(torch.zeros(1)).item() == (100 * 2 + 1) * 4


def test_hooks_do_not_stack_and_the_first_one_stays():
    layers = network()
    with hooked(layers, lambda name, array: torch.zeros_like(array)):
        with pytest.raises(RuntimeError, match="already hooked"), hooked(layers[1], lambda name, array: array):
            pass
        assert layers(torch.ones(1)).item() == 0


def test_a_hook_reaches_one_network_only():
    layers = network()
    with hooked(network(), lambda name, array: torch.zeros_like(array)):
        assert layers(torch.zeros(1)).item() == 20


def test_a_hook_is_gone_after_the_block():
    layers = network()
    with hooked(layers, lambda name, array: torch.zeros_like(array)):
        pass
    assert layers(torch.zeros(1)).item() == 20


def test_a_hook_is_gone_after_an_exception():
    layers = network()
    with pytest.raises(KeyError), hooked(layers, lambda name, array: {}[name]):
        layers(torch.zeros(1))
    assert layers(torch.zeros(1)).item() == 20


@pytest.mark.parametrize("declare", [lambda: Sites("vote"), lambda: Sites(weights={"kernel": "weight"})])
def test_an_unknown_role_is_refused(declare):
    with pytest.raises(ValueError, match=r"unknown site roles \['(vote|kernel)'\]"):
        declare()


@pytest.mark.parametrize(
    ("site", "role"),
    [("conv1.weight", "weight"), ("class_caps.logits@12", "logits"), ("block4.l_skip.votes", "votes")],
)
def test_the_role_is_the_last_part_of_a_site_name_without_its_iteration(site, role):
    assert role_of(site) == role


def test_every_role_belongs_to_its_q_capsnets_group():
    groups = {
        group: sorted(r for r in ROLE_GROUPS if group_of(f"stage.{r}@1") == group) for group in ROLE_GROUPS.values()
    }
    assert groups == {
        "weights": ["bias", "prior", "weight"],
        "activations": ["coupling", "input", "out", "presquash", "sum_out", "votes"],
        "routing": ["logits", "sum"],
    }
