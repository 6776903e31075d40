from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from prunable import DEEP, EFFICIENT, MOBILE, RESNET, RESNET_CAPS, SHALLOW

from qcaps.evaluation.cost_model import cost_model
from qcaps.models.spec import build
from qcaps.pruning.isomorphic import alike, isomorphic_rules
from qcaps.pruning.strategy import width_rules
from qcaps.pruning.targets import Target, budget, meet

# Convolutions 2 and 3 have 5 and 6 channels of 3×3, read by 3×3; the first one has another kernel.
NETWORK = build(EFFICIENT)
COUNTS = {unit.name: unit.count for unit in NETWORK.units}
SCORES = {name: torch.ones(count, dtype=torch.float64) for name, count in COUNTS.items()}
# Means of 2 and 3: divided by them, all but the last channel of convolution 2 are less than any of convolution 3.
SCORES |= {"conv2.channels": torch.tensor([1.0, 1, 1, 1, 6]), "conv3.channels": torch.full((6,), 3.0)}


def rules_of(scores=SCORES, network=NETWORK, **numbers):
    counts = {unit.name: unit.count for unit in network.units}
    return isomorphic_rules(width_rules(counts, **{"caps": {"*": 1.0}, **numbers}), network, scores)


def widths_of(rules, share):
    """Let the same share of every class go."""
    return rules.named(rules.widths(np.full(len(rules.counts), share)))


def test_layers_of_another_kernel_or_role_are_ranked_apart():
    inner = [f"layer{n}.{i}" for n, blocks in enumerate((3, 4, 6, 3), start=1) for i in range(blocks)]
    expected = {
        ("stem.channels",),
        tuple(f"{block}.conv1.channels" for block in inner),
        tuple(f"{block}.conv2.channels" for block in inner),
        *((f"layer{n}.out.channels",) for n in (1, 2, 3, 4)),
    }
    assert set(alike(build(RESNET))) == expected
    assert set(alike(build(RESNET_CAPS))) == {*expected, ("primary.types",), ("primary.dims",)}
    assert alike(build(MOBILE)) == (
        ("stem.channels",),
        tuple(f"block{n}.channels" for n in range(1, 13)),
        ("block13.channels",),
    )


def test_capsules_of_another_size_are_ranked_apart():
    network = build(replace(DEEP, types=(3,) * 12, dims=(4, 4, 4, 8, 8, 8, 8, 6, 8, 8, 8, 8)))
    classes = {name: names for names in alike(network) for name in names}
    assert classes["block2.l1.types"] == ("block2.l1.types", "block3.l1.types")  # block 4 has its 3-D routing
    assert classes["block1.l1.types"] == ("block1.l1.types",)
    # Layer 2 of block 3 has 6 dimensions; the 3-D routing has no tensor of its own for the types it reads.
    assert classes["block2.l2.types"] == ("block2.l2.types", "block4.l1.types", "block4.l2.types")
    assert classes["block2.l2.dims"] == ("block2.l2.dims", "block4.l2.dims")


def test_alike_means_alike_whatever_the_widths():
    narrow = RESNET.with_widths({"layer1.0.conv1.channels": 1, "layer3.2.conv2.channels": 2, "stem.channels": 3})
    assert alike(build(narrow)) == alike(build(RESNET))


def test_the_least_of_a_class_go_first_once_divided_by_the_mean_of_their_layer():
    # 4 of 11 channels of convolutions 2 and 3 together, 1 of the others' 4, 3 and 4.
    assert widths_of(rules_of(), 4.5 / 11) == {
        "conv1.channels": 3,
        "conv2.channels": 1,
        "conv3.channels": 6,
        "primary.types": 2,
        "primary.dims": 3,
    }


def test_a_layer_at_its_cap_leaves_the_rest_to_those_alike():
    widths = widths_of(rules_of(caps={"*": 1.0, "conv2.*": 0.5}), 4.5 / 11)
    assert (widths["conv2.channels"], widths["conv3.channels"]) == (3, 4)


def test_a_layer_keeps_its_least_width():
    widths = widths_of(rules_of(least={"conv2.*": 4}), 4.5 / 11)
    assert (widths["conv2.channels"], widths["conv3.channels"]) == (4, 3)


def test_a_unit_without_a_cap_stays_whole():
    assert widths_of(rules_of(caps={"conv3.*": 1.0}), 1.0) == {**COUNTS, "conv3.channels": 1}


def test_the_share_of_a_class_is_the_mean_of_the_ratios_of_its_units():
    ratios = np.zeros(len(COUNTS))
    ratios[[1, 2]] = 3.5 / 11, 5.5 / 11
    assert rules_of().named(rules_of().widths(ratios)) == {**COUNTS, "conv2.channels": 1}


def test_the_ratios_of_widths_leave_these_widths():
    rules = rules_of(caps={"*": 0.8})
    for share in np.linspace(0, 1, 101):
        left = rules.widths(np.array([share, 1 - share, share, share**2, share]))
        ratios = rules.ratios(left)
        assert (ratios > 0).all()
        assert rules.widths(ratios).tolist() == left.tolist()


def test_widths_that_no_threshold_leaves_become_those_of_their_class():
    # The least important of both layers together are four channels of convolution 2.
    left = rules_of().widths(rules_of().ratios(np.array([4, 4, 3, 3, 4])))
    assert left.tolist() == [4, 1, 6, 3, 4]


@pytest.mark.parametrize("round_to", [1, 2])
def test_no_width_grows_with_a_ratio_and_the_narrowest_is_reached(round_to):
    network = build(RESNET)
    generator = torch.Generator().manual_seed(1)
    scores = {unit.name: torch.rand(unit.count, generator=generator, dtype=torch.float64) for unit in network.units}
    rules = rules_of(scores, network, caps={"*": 0.7}, round_to=round_to)
    direction = np.random.default_rng(0).uniform(0.1, 1, len(scores))
    widths = [rules.widths(s * direction) for s in np.linspace(0, 1 / direction.min(), 200)]
    assert all((after <= before).all() for before, after in itertools.pairwise(widths))
    assert widths[0].tolist() == list(rules.counts.values())
    assert widths[-1].tolist() == rules.narrowest.tolist()
    assert len({tuple(each) for each in widths}) > 20


@pytest.mark.parametrize("share", [0.1, 0.33, 0.5, 0.81, 1.0])
def test_widths_are_those_of_a_slow_loop(share):
    network = build(RESNET)
    generator = torch.Generator().manual_seed(2)
    scores = {unit.name: torch.rand(unit.count, generator=generator, dtype=torch.float64) for unit in network.units}
    found = widths_of(rules_of(scores, network, caps={"*": 0.6}), share)
    for names in alike(network):
        widths = {name: len(scores[name]) for name in names}
        budget = int(share * sum(widths.values()))
        ranked = sorted((s / scores[n].mean().item(), n) for n in names for s in scores[n].tolist())
        for _, name in ranked:
            count = len(scores[name])
            if budget and count - (widths[name] - 1) <= 0.6 * count and widths[name] > 1:
                widths[name] -= 1
                budget -= 1
        assert {name: found[name] for name in names} == widths


def test_a_target_is_met_along_a_direction_as_in_the_other_scope():
    model = cost_model(RESNET)
    network = build(RESNET)
    generator = torch.Generator().manual_seed(2)
    scores = {unit.name: torch.rand(unit.count, generator=generator, dtype=torch.float64) for unit in network.units}
    half = budget(Target("flops", 0.5), model)
    widths = meet([half], rules_of(scores, network), np.ones(len(scores)))
    assert 0.45 < half.share(widths) <= 0.5


def test_scores_that_are_all_zero_are_no_trouble():
    scores = {name: torch.zeros(count, dtype=torch.float64) for name, count in COUNTS.items()}
    widths = widths_of(rules_of(scores), 4.5 / 11)
    # Of equals the highest index goes first, then the last layer: 5, 4 and 3 of convolution 3, and 4 of convolution 2.
    assert (widths["conv2.channels"], widths["conv3.channels"]) == (4, 3)


def test_a_single_unit_of_its_class_has_its_own_ratio():
    network = build(SHALLOW)
    scores = {unit.name: torch.ones(unit.count, dtype=torch.float64) for unit in network.units}
    plain = width_rules({unit.name: unit.count for unit in network.units}, caps={"*": 1.0})
    ratios = np.array([0.5, 0.3, 0.4, 0.6, 0.2])
    assert isomorphic_rules(plain, network, scores).widths(ratios).tolist() == plain.widths(ratios).tolist()


def test_as_many_units_go_as_were_counted_whatever_a_quotient_rounds_to():
    # 1/49 · 49 is less than 1 in floating point.
    network = build(replace(SHALLOW, conv_channels=(49, 4)))
    scores = {unit.name: torch.ones(unit.count, dtype=torch.float64) for unit in network.units}
    assert [widths_of(rules_of(scores, network), (n + 0.5) / 49)["conv1.channels"] for n in range(49)] == list(
        range(49, 0, -1)
    )
