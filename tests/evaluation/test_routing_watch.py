from __future__ import annotations

import math

import pytest
import torch

from qcaps.evaluation.routing_watch import RoutingWatch, evenness


def entropy_by_hand(shares):
    total = sum(abs(share) for share in shares)
    return -sum(abs(s) / total * math.log(abs(s) / total) for s in shares if s) / math.log(len(shares))


@pytest.mark.parametrize(
    "shares",
    [[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.7, 0.1, 0.15, 0.05], [0.5, 0.25, 0, 0.125], [2, -1, 1, 0]],
)
def test_the_entropy_of_a_coupling_is_a_share_of_the_largest_there_is(shares):
    (found,) = evenness(torch.tensor([[shares]], dtype=torch.float64)).flatten().tolist()
    assert found == pytest.approx(entropy_by_hand(shares), abs=1e-12)


def test_even_couplings_have_one_and_single_ones_nothing():
    assert evenness(torch.full((2, 3, 10), 0.1)).allclose(torch.ones(2, 3))
    assert torch.equal(evenness(torch.eye(5).unsqueeze(0)), torch.zeros(1, 5))


def test_a_capsule_that_is_coupled_to_nobody_has_nothing():
    assert evenness(torch.zeros(1, 1, 10)).item() == 0


def test_matrix_capsules_are_compared_position_by_position():
    coupling = torch.rand(2, 5, 4, 7, dtype=torch.float64)  # (batch, positions, out, in)
    found = evenness(coupling)
    assert found.shape == (2, 5, 7)
    assert found[1, 3, 6].item() == pytest.approx(entropy_by_hand(coupling[1, 3, :, 6].tolist()))


def test_a_watch_takes_the_mean_over_everything_that_passed_a_site():
    watch = RoutingWatch()
    watch.see("caps.coupling@1", torch.full((1, 2, 4), 0.25))
    watch.see("caps.coupling@1", torch.eye(4)[None, :2])
    watch.see("caps.coupling@2", torch.eye(4)[None, :2])
    assert {site: mean.value for site, mean in watch.entropy.items()} == {"caps.coupling@1": 0.5, "caps.coupling@2": 0}


def test_a_watch_counts_logits_that_are_zero():
    watch = RoutingWatch()
    watch.see("caps.logits@1", torch.tensor([[0.0, -0.0, 1.0], [2.0, -3.0, 0.0]]))
    watch.see("caps.logits@1", torch.ones(1, 2))
    assert watch.zero_logits["caps.logits@1"].value == 3 / 8


@pytest.mark.parametrize(
    ("site", "shape"), [("caps.out", (2, 3, 4)), ("primary.coupling", (2, 1)), ("a.coupling", (2, 3, 1))]
)
def test_a_watch_ignores_what_tells_nothing_of_routing(site, shape):
    watch = RoutingWatch()
    watch.see(site, torch.ones(shape))
    assert (watch.entropy, watch.zero_logits) == ({}, {})
