from __future__ import annotations

import functools
import math

import pytest
from toys import FOLDED, ROUTED, echo_network

from qcaps.evaluation.liveness import Life, array_lives, peak
from qcaps.models.network import CapsuleNetwork, array_sites
from qcaps.models.spec import ModelSpec, build, image_of, preset
from qcaps.registry import MODELS


@functools.cache
def built(spec: ModelSpec) -> CapsuleNetwork:
    return build(spec).eval()


def lives_of(spec: ModelSpec) -> dict[str, Life]:
    return array_lives(built(spec), image_of(spec))


def values_of(spec: ModelSpec) -> dict[str, int]:
    return {site.split("@")[0]: values for site, values in array_sites(built(spec), image_of(spec)).items()}


def test_the_class_capsules_of_shallow_capsnet_are_the_published_peak():
    spec = preset("shallow-capsnet").spec
    votes, logits, coupling, total, out = 184_320, 11_520, 11_520, 160, 160
    assert peak(lives_of(spec), values_of(spec)) == votes + logits + coupling + total + out == 207_680


def test_a_chain_keeps_two_neighbours_at_a_time():
    lives = lives_of(FOLDED)
    assert [lives[f"conv{i}.out"] for i in (1, 2, 3)] == [Life(0, 1), Life(1, 2), Life(2, 3)]


def test_the_iterations_of_a_routing_share_one_place():
    # conv1.out, votes, coupling, sum and out of the primary capsules; then votes, three passes, the read-out.
    lives = lives_of(ROUTED)
    assert (lives["conv1.out"], lives["primary.votes"], lives["primary.out"]) == (Life(0, 1), Life(1, 3), Life(4, 5))
    votes = 5
    passes = {"coupling": (6, 10, 14), "sum": (7, 11, 15), "out": (8, 12, 16), "logits": (9, 13)}
    last_sum, read_out = passes["sum"][-1], 17
    assert lives["class_caps.votes"] == Life(votes, last_sum)
    assert lives["class_caps.coupling"] == Life(passes["coupling"][0], last_sum)
    assert lives["class_caps.logits"] == Life(passes["logits"][0], passes["coupling"][-1])
    assert lives["class_caps.sum"] == Life(passes["sum"][0], passes["out"][-1])
    assert lives["class_caps.out"] == Life(passes["out"][0], read_out)


def test_a_skip_connection_keeps_what_both_ways_read():
    lives = lives_of(preset("deepcaps").spec)
    assert lives["block1.l1.out"].last == lives["block1.skip.presquash"].first  # read by l2, then by the skip layer
    assert lives["block1.l3.out"].last == lives["block1.sum_out"].first
    # The capsules of block 3 wait beside all of block 4 until the class capsules vote.
    assert lives["block3.sum_out"].last == lives["class_caps.votes"].first


def test_an_identity_around_a_block_is_kept_until_the_sum():
    lives = lives_of(preset("resnet50").spec)
    sums = [array for array in lives if array.endswith("sum_out")]
    assert lives[sums[0]].last == lives[sums[1]].first  # the second block has no convolution around it


def test_what_the_read_out_reads_lives_to_the_end():
    spec = preset("em-capsnet").spec
    lives = lives_of(spec)
    end = len(array_sites(built(spec), image_of(spec)))
    assert {array for array, life in lives.items() if life.last == end} == {
        "class_caps.routing.activation.out",
        "class_caps.out",
    }


@pytest.mark.parametrize("name", MODELS.names())
def test_the_peak_lies_between_the_largest_array_and_the_sum_of_all(name: str):
    spec = preset(name).spec
    values = values_of(spec)
    assert max(values.values()) <= peak(lives_of(spec), values) <= sum(values.values())


def test_a_peak_is_found_by_walking_through_all_steps():
    lives = {"a": Life(0, 2), "b": Life(1, 1), "c": Life(2, 4), "d": Life(4, 5)}
    sizes = {"a": 3.0, "b": 2.5, "c": 2.0, "d": 4.0}
    at_each_step = [sum(sizes[n] for n, life in lives.items() if life.first <= s <= life.last) for s in range(6)]
    assert peak(lives, sizes) == max(at_each_step) == 6.0


def test_numbers_and_switches_of_the_network_stay_as_they_are():
    network = echo_network(2.0)
    lives = array_lives(network, (1, 3, 3))
    assert lives == {"echo.out": Life(0, 1)}
    assert not any(p.requires_grad for p in network.parameters())
    assert math.isclose(float(network.stages["echo"].weight), 2.0)
