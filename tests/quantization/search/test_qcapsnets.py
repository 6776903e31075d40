from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcaps.errors import InfeasibleError
from qcaps.models.network import array_sites, weight_sites
from qcaps.models.spec import build, image_of, preset
from qcaps.quantization.search.qcapsnets import search_qcapsnets, stage2_widths, width_at
from qcaps.quantization.search.sequential import Block, blocks_of

HONEST = (*range(2, 17), 32)
LOGARITHMIC = (*range(2, 9), 32)
# Every width told apart, up to the 32 fraction bits that the published code starts with.
EVERY = tuple(range(1, 33))


def network(blocks: int, routed: dict[int, bool]) -> tuple[Block, ...]:
    """Blocks b0, b1, ...; `routed` gives those with a routing group, and whether it is iterated."""
    return tuple(
        Block((f"b{i}.w",), (f"b{i}.a",), (f"b{i}.r",) if i in routed else (), iterated=routed.get(i, False))
        for i in range(blocks)
    )


SHALLOW = network(3, {1: False, 2: True})
DEEP = network(6, {4: True, 5: True})


def sites_of(blocks):
    return [site for block in blocks for site in block.weights + block.activations + block.routing]


def allow(blocks, widths):
    return dict.fromkeys(sites_of(blocks), tuple(widths))


@dataclass
class Stub:
    """Loses one image, or `price`, for every bit that a site has less than it needs; a weight is `values` large."""

    needs: dict[str, int]
    price: int = 10**6
    values: int = 8
    asked: list[tuple[dict[str, int], int]] = field(default_factory=list)

    def losses(self, widths):
        return self.price * sum(max(0, need - widths[site]) for site, need in self.needs.items())

    def passes(self, widths, most_losses):
        self.asked.append((dict(widths), most_losses))
        return self.losses(widths) <= most_losses

    def net_losses(self, widths):
        return self.losses(widths)

    def weight_bytes(self, weights):
        return sum(math.ceil(self.values * bits / 8) for bits in weights.values())


def needing(blocks, bits, **others):
    """Ideal oracle: a plan passes if no site is narrower than `bits`, or than what `others` says of it."""
    return Stub({site: others.get(site.replace(".", "_"), bits) for site in sites_of(blocks)})


def row(widths, blocks, group):
    return [widths[site] for block in blocks for site in getattr(block, group)]


def plans_of(result, stage):
    return next(s.tested for s in result.stages if s.name.startswith(stage))


# Stage 1


def test_stage_1_tests_32_then_16_and_then_halves_its_step():
    stub = needing(SHALLOW, 7)
    result = search_qcapsnets(SHALLOW, allow(SHALLOW, EVERY), stub, allowance=Fraction(10))
    # N = 32, 16, 8, 4, 6, 5 are 32 (there is no 33), 17, 9, 5, 7, 6 bits in all
    assert [plan["b0.w"] for plan in plans_of(result, "1")] == [32, 17, 9, 5, 7, 6]
    assert set(result.stages[0].widths.values()) == {7}


def test_every_group_has_the_same_width_in_stage_1():
    result = search_qcapsnets(SHALLOW, allow(SHALLOW, EVERY), needing(SHALLOW, 7), allowance=Fraction(10))
    assert all(len(set(plan.values())) == 1 for plan in plans_of(result, "1"))


def test_stage_1_records_the_last_plan_that_passed_and_not_the_last_one_tested():
    record = search_qcapsnets(SHALLOW, allow(SHALLOW, HONEST), needing(SHALLOW, 7), allowance=Fraction(1)).stages[0]
    assert (record.widths["b0.w"], record.tested[-1]["b0.w"], record.passed) == (7, 6, True)


@pytest.mark.parametrize("n", range(1, 32))
def test_stage_1_finds_every_width_from_1_to_31_in_six_tests(n):
    widths = tuple(range(1, 40))  # no float32, so that all are told apart
    record = search_qcapsnets(SHALLOW, allow(SHALLOW, widths), needing(SHALLOW, n + 1), allowance=Fraction(1)).stages[0]
    assert (record.widths["b0.w"], len(record.tested)) == (n + 1 if n < 31 else 39, 6)


def test_the_thresholds_of_all_stages_are_exact():
    # T = 40: stage 1 must lose less than 2 images, stage 4A at most 40; stage 2 loses 7, and 7 + 0.55 · 33 = 25.15
    stub = needing(SHALLOW, 0, b0_w=9)
    stub.price, budget = 7, 23
    result = search_qcapsnets(SHALLOW, allow(SHALLOW, EVERY), stub, allowance=Fraction(40), budget_bytes=budget)
    assert row(result.satisfied, SHALLOW, "weights") == [8, 7, 6]
    counts = [len(stage.tested) for stage in result.stages]
    assert [most for _, most in stub.asked] == [1] * 6 + [25] * counts[2] + [40] * counts[3]


@pytest.mark.parametrize(
    ("allowance", "most"), [(Fraction(0), -1), (Fraction(1, 100), 0), (Fraction(20), 0), (Fraction(201, 10), 1)]
)
def test_stage_1_must_strictly_beat_a_twentieth_of_the_tolerance(allowance, most):
    stub = needing(SHALLOW, 4)
    search_qcapsnets(SHALLOW, allow(SHALLOW, HONEST), stub, allowance=allowance)
    assert {most_losses for _, most_losses in stub.asked[:6]} == {most}


def test_without_tolerance_the_search_falls_back_to_float_and_says_so():
    stub = needing(SHALLOW, 5)
    result = search_qcapsnets(SHALLOW, allow(SHALLOW, HONEST), stub, allowance=Fraction(0), budget_bytes=10**6)
    assert set(result.stages[0].widths.values()) == {32}
    assert result.notes == ("no common width stays below a twentieth of the tolerance; stage 1 takes the widest",)
    assert row(result.satisfied, SHALLOW, "activations") == [32, 32, 32]
    assert stub.losses(result.satisfied) == 0


def test_a_search_that_needs_no_fallback_has_no_notes():
    assert search_qcapsnets(SHALLOW, allow(SHALLOW, HONEST), needing(SHALLOW, 5), allowance=Fraction(1)).notes == ()


def test_16_is_tested_after_32_though_32_fails():
    class Odd(Stub):
        def losses(self, widths):
            return 1 if 32 in widths.values() else super().losses(widths)

    stub = Odd(dict.fromkeys(sites_of(SHALLOW), 9))
    record = search_qcapsnets(SHALLOW, allow(SHALLOW, EVERY), stub, allowance=Fraction(1)).stages[0]
    assert [plan["b0.w"] for plan in record.tested] == [32, 17, 9, 5, 7, 8]
    assert record.widths["b0.w"] == 9


# Stage 2

MB = 1_000_000
FIXTURES = [
    ("shallow-capsnet", 1, (1, 0, 0), "31.9"),
    ("shallow-capsnet", 3, (3, 2, 1), "11.5"),
    ("shallow-capsnet", 5, (6, 5, 4), "5.53"),
    ("shallow-capsnet", 6, (7, 6, 5), "4.72"),
    ("shallow-capsnet", 8, (9, 8, 7), "3.64"),
    ("deepcaps", 3, (4, 3, 2, 1, 0, 0), "16.2"),
    ("deepcaps", 5, (6, 5, 4, 3, 2, 2), "8.04"),
    ("deepcaps", 6, (7, 6, 5, 4, 3, 3), "6.43"),
    ("deepcaps", 8, (9, 8, 7, 6, 5, 5), "4.59"),
    ("deepcaps-64", 8, (7, 6, 5, 4, 3, 3), "6.93"),
    ("deepcaps-64", 13, (10, 9, 8, 7, 6, 6), "4.20"),
]


@functools.cache
def parameters(name):
    stages = build(preset(name).spec).stages.values()
    return [sum(parameter.numel() for parameter in stage.parameters()) for stage in stages]


def fill(counts, budget_bytes, widths=(*range(1, 17), 32)):
    """Run stage 2 on one weight for each block, charged by the bit."""
    blocks = [Block(weights=(f"b{i}",)) for i in range(len(counts))]

    def size(weights):
        return math.ceil(sum(count * weights[f"b{i}"] for i, count in enumerate(counts)) / 8)

    return tuple(stage2_widths(blocks, allow(blocks, widths), size, budget_bytes).values())


@pytest.mark.parametrize(("name", "megabytes", "fraction_bits", "ratio"), FIXTURES)
def test_stage_2_gives_the_widths_of_the_published_algorithm(name, megabytes, fraction_bits, ratio):
    counts = parameters(name)
    widths = fill(counts, megabytes * MB)
    assert widths == tuple(n + 1 for n in fraction_bits)
    reduction = 32 * sum(counts) / sum(c * w for c, w in zip(counts, widths, strict=True))
    assert f"{reduction:.{len(ratio.split('.')[1])}f}" == ratio


def test_a_budget_below_the_minimum_fails_at_once_and_names_the_minimum():
    with pytest.raises(InfeasibleError, match=r"memory budget 1\.000 MB is below the minimum of 1\.056 MB"):
        fill(parameters("deepcaps"), 1 * MB)


def test_an_impossible_budget_is_refused_before_any_test():
    stub = needing(SHALLOW, 5)
    with pytest.raises(InfeasibleError) as refused:
        search_qcapsnets(SHALLOW, allow(SHALLOW, HONEST), stub, allowance=Fraction(1), budget_bytes=5)
    assert refused.value.exit_code == 4
    assert stub.asked == []


@pytest.mark.parametrize(("budget", "widths"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (5, (2, 1, 1)), (6, (3, 2, 1))])
def test_offsets_become_flat_where_the_last_width_would_be_too_small(budget, widths):
    assert fill((8, 8, 8), budget) == widths


def test_offsets_fall_four_times_at_most():
    assert fill((8,) * 7, 10 + 9 + 8 + 7 + 6 + 6 + 6) == (10, 9, 8, 7, 6, 6, 6)


def test_no_weight_is_narrower_than_the_smallest_width_and_that_sets_the_smallest_budget():
    assert fill((8, 8, 8), 9, range(3, 17)) == (3, 3, 3)
    with pytest.raises(InfeasibleError, match="minimum of 9 B"):
        fill((8, 8, 8), 8, range(3, 17))


def test_weights_wider_than_16_bits_are_charged_as_float():
    # 18 17 16 is charged 32 + 32 + 16, and one byte less leaves 17 16 15, charged 32 + 16 + 15
    assert fill((8, 8, 8), 80) == (32, 32, 16)
    assert fill((8, 8, 8), 79) == (32, 16, 15)


def test_logarithmic_weights_wider_than_8_bits_are_charged_as_float():
    assert fill((8, 8, 8), 47, LOGARITHMIC) == (32, 8, 7)
    assert fill((8, 8, 8), 46, LOGARITHMIC) == (8, 7, 6)


def test_a_roomy_budget_is_filled_with_float_weights():
    assert fill((8, 8, 8), 96) == (32, 32, 32)


def test_weights_that_are_all_pinned_need_no_offsets():
    blocks = SHALLOW
    allowed = {**allow(blocks, HONEST), "b0.w": (8,), "b1.w": (4,), "b2.w": (3,)}
    result = search_qcapsnets(blocks, allowed, needing(blocks, 3), allowance=Fraction(1), budget_bytes=15)
    assert row(result.satisfied, blocks, "weights") == [8, 4, 3]


# Paths and outcomes


def test_path_a_keeps_the_weights_of_stage_2_and_lowers_activations_and_routing():
    needs = {"b0_a": 6, "b1_a": 5, "b1_r": 4, "b2_a": 4, "b2_r": 3}
    stub = needing(SHALLOW, 4, **needs)
    result = search_qcapsnets(SHALLOW, allow(SHALLOW, HONEST), stub, allowance=Fraction(1), budget_bytes=18)
    assert (result.path, result.memory, result.accuracy) == ("A", None, None)
    assert row(result.satisfied, SHALLOW, "weights") == [7, 6, 5]
    assert row(result.satisfied, SHALLOW, "activations") == [6, 5, 4]
    assert row(result.satisfied, SHALLOW, "routing") == [5, 3]  # primary follows its block; class_caps goes on alone


def test_path_b_gives_a_plan_for_the_budget_and_one_for_the_tolerance():
    stub = needing(SHALLOW, 5, b0_w=6)
    result = search_qcapsnets(SHALLOW, allow(SHALLOW, HONEST), stub, allowance=Fraction(1), budget_bytes=12)
    assert (result.path, result.satisfied) == ("B", None)
    assert row(result.memory, SHALLOW, "weights") == [5, 4, 3]
    assert row(result.accuracy, SHALLOW, "weights") == [6, 5, 5]
    assert row(result.accuracy, SHALLOW, "activations") == [6, 6, 6]
    assert stub.losses(result.memory) > 1


def test_an_accuracy_plan_within_the_budget_is_satisfied():
    # 17 bytes hold 6 5 5 (16), but offsets give 6 5 4 (15), which fails
    stub = needing(SHALLOW, 5, b0_w=6)
    result = search_qcapsnets(SHALLOW, allow(SHALLOW, HONEST), stub, allowance=Fraction(1), budget_bytes=17)
    assert (result.path, result.memory, result.accuracy) == ("B", None, None)
    assert row(result.satisfied, SHALLOW, "weights") == [6, 5, 5]


def test_a_memory_plan_that_spends_exactly_the_tolerance_is_satisfied():
    class Jump(Stub):
        def losses(self, widths):
            weights = row(widths, SHALLOW, "weights")
            return 2 if weights == [6, 5, 4] else 0 if min(weights) >= 8 else 100

    stub = Jump({})
    result = search_qcapsnets(SHALLOW, allow(SHALLOW, HONEST), stub, allowance=Fraction(2), budget_bytes=15)
    assert (result.path, row(result.satisfied, SHALLOW, "weights")) == ("B", [6, 5, 4])


def test_without_a_budget_the_accuracy_plan_is_the_answer():
    result = search_qcapsnets(SHALLOW, allow(SHALLOW, HONEST), needing(SHALLOW, 5, b0_w=6), allowance=Fraction(1))
    assert [stage.name for stage in result.stages] == ["1 layer-uniform", "3B weights"]
    assert (row(result.satisfied, SHALLOW, "weights"), result.memory, result.accuracy) == ([6, 5, 5], None, None)


def test_a_float_network_that_fails_itself_is_never_called_satisfied():
    stub = needing(SHALLOW, 33)
    result = search_qcapsnets(SHALLOW, allow(SHALLOW, HONEST), stub, allowance=Fraction(3))
    assert (result.satisfied, set(result.accuracy.values())) == (None, {32})
    assert result.notes[-1] == "not even the widest plan holds the tolerance"


def test_a_network_that_nothing_hurts_ends_at_the_smallest_widths():
    stub = needing(DEEP, 0)
    result = search_qcapsnets(DEEP, allow(DEEP, HONEST), stub, allowance=Fraction(5), budget_bytes=12)
    assert set(result.satisfied.values()) == {2}


# Block-wise lowering


def test_a_suffix_is_lowered_together_and_widths_never_grow_with_depth():
    stub = needing(DEEP, 4, b2_w=7)
    result = search_qcapsnets(DEEP, allow(DEEP, HONEST), stub, allowance=Fraction(1))
    # the third block keeps the first two at 7 bits, though they need only 4
    assert row(result.satisfied, DEEP, "weights") == [7, 7, 7, 4, 4, 4]


def test_a_loop_never_goes_above_its_start_though_its_first_test_fails():
    class Moody(Stub):
        def passes(self, widths, most_losses):
            return super().passes(widths, most_losses) and len(self.asked) <= 6

    stub = Moody(dict.fromkeys(sites_of(SHALLOW), 9))
    result = search_qcapsnets(SHALLOW, allow(SHALLOW, HONEST), stub, allowance=Fraction(1))
    assert result.stages[-1].widths == result.stages[0].widths
    assert not result.stages[-1].passed


def test_a_block_at_its_smallest_width_stays_there_while_others_go_on():
    result = search_qcapsnets(
        SHALLOW, allow(SHALLOW, HONEST), needing(SHALLOW, 2), allowance=Fraction(1), budget_bytes=100
    )
    assert set(row(result.satisfied, SHALLOW, "activations")) == {2}
    blocks = network(2, {})
    allowed = {**allow(blocks, HONEST), "b1.w": (6, 7, 8)}
    result = search_qcapsnets(blocks, allowed, needing(blocks, 3, b1_w=6, b0_a=6), allowance=Fraction(1))
    assert row(result.satisfied, blocks, "weights") == [3, 6]


def test_routing_follows_the_activations_of_its_own_block():
    stub = needing(DEEP, 2, b0_a=8, b3_a=6)
    result = search_qcapsnets(DEEP, allow(DEEP, HONEST), stub, allowance=Fraction(1), budget_bytes=60)
    for plan in plans_of(result, "3A"):
        assert (plan["b4.r"], plan["b5.r"]) == (plan["b4.a"], plan["b5.a"])


def test_a_routing_of_one_pass_is_not_lowered_further():
    result = search_qcapsnets(
        SHALLOW, allow(SHALLOW, HONEST), needing(SHALLOW, 2, b1_a=6), allowance=Fraction(1), budget_bytes=60
    )
    assert (result.satisfied["b1.r"], result.satisfied["b2.r"]) == (6, 2)


def test_a_pinned_site_keeps_its_width_in_every_plan():
    allowed = {**allow(SHALLOW, HONEST), "b0.w": (8,), "b2.a": (3,)}
    stub = needing(SHALLOW, 3)
    search_qcapsnets(SHALLOW, allowed, stub, allowance=Fraction(1), budget_bytes=20)
    assert {(plan["b0.w"], plan["b2.a"]) for plan, _ in stub.asked} == {(8, 3)}


def test_a_block_that_is_pinned_takes_no_tests():
    free = search_qcapsnets(SHALLOW, allow(SHALLOW, HONEST), needing(SHALLOW, 7), allowance=Fraction(1))
    allowed = {**allow(SHALLOW, HONEST), "b1.w": (9,)}
    pinned = search_qcapsnets(SHALLOW, allowed, needing(SHALLOW, 7), allowance=Fraction(1))
    assert (free.tests, pinned.tests) == (6 + 3 * 2 + 1, 6 + 2 * 2 + 1)


@pytest.mark.parametrize("only", [(2, 4, 8), (8,), (3,), (1, 16), (32,)])
def test_a_restricted_search_uses_the_given_widths_alone(only):
    stub = needing(SHALLOW, 3)
    result = search_qcapsnets(SHALLOW, allow(SHALLOW, only), stub, allowance=Fraction(1), budget_bytes=200)
    assert {bits for plan, _ in stub.asked for bits in plan.values()} <= set(only)
    assert stub.losses(result.satisfied) == 0


def test_a_loop_steps_to_the_next_width_that_is_allowed():
    result = search_qcapsnets(SHALLOW, allow(SHALLOW, (2, 4, 8)), needing(SHALLOW, 5, b2_w=3), allowance=Fraction(1))
    assert [row(plan, SHALLOW, "weights") for plan in plans_of(result, "3B")] == [
        [8, 8, 8],
        [4, 4, 4],
        [8, 8, 8],
        [8, 4, 4],
        [8, 8, 8],
        [8, 8, 4],
        [8, 8, 2],
        [8, 8, 4],
    ]


@pytest.mark.parametrize(
    ("allowed", "widths"),
    [
        (HONEST, {0: 2, 1: 2, 2: 2, 9: 9, 16: 16, 17: 32, 33: 32}),
        (LOGARITHMIC, {1: 2, 8: 8, 9: 32, 33: 32}),
        ((2, 4, 8), {1: 2, 3: 2, 4: 4, 7: 4, 8: 8, 9: 8, 33: 8}),
        ((32,), {1: 32, 33: 32}),
    ],
)
def test_the_algorithm_says_a_width_and_the_site_takes_the_nearest_it_may_have(allowed, widths):
    assert {bits: width_at(allowed, bits) for bits in widths} == widths


# Blocks by name


@functools.cache
def named_blocks(name):
    spec = preset(name).spec
    model = build(spec).eval()
    stages = list(model.stages)
    found = blocks_of(stages, [*array_sites(model, image_of(spec)), *weight_sites(model)])
    return dict(zip(stages, found, strict=True))


def test_the_routing_of_deepcaps_belongs_to_block_4_and_the_class_capsules():
    blocks = named_blocks("deepcaps")
    assert list(blocks) == ["conv1", "block1", "block2", "block3", "block4", "class_caps"]
    assert [name for name, block in blocks.items() if block.routing] == ["block4", "class_caps"]
    assert [name for name, block in blocks.items() if block.iterated] == ["block4", "class_caps"]
    assert {site.split(".")[0] for site in blocks["block4"].routing} == {"block4"}


@pytest.mark.parametrize(
    ("name", "routed", "iterated"),
    [
        ("shallow-capsnet", ["primary", "class_caps"], ["class_caps"]),
        ("efficient-capsnet", ["class_caps"], []),
    ],
)
def test_only_routing_of_several_passes_is_iterated(name, routed, iterated):
    blocks = named_blocks(name)
    assert [name for name, block in blocks.items() if block.routing] == routed
    assert [name for name, block in blocks.items() if block.iterated] == iterated


def test_dynamic_routing_of_a_single_pass_is_not_iterated():
    (once,) = blocks_of(["caps"], ["caps.weight", "caps.sum@1", "caps.out@1"])
    (twice,) = blocks_of(["caps"], ["caps.weight", "caps.sum@1", "caps.logits@1", "caps.sum@2"])
    assert (once.routing, once.iterated, twice.iterated) == (("caps.sum@1",), False, True)


def test_routing_bits_reach_sums_and_logits_alone():
    block = named_blocks("shallow-capsnet")["class_caps"]
    assert {site.split(".")[1].split("@")[0] for site in block.routing} == {"sum", "logits"}
    assert {site.split(".")[1].split("@")[0] for site in block.activations} == {"votes", "coupling", "out"}
    assert block.weights == ("class_caps.weight", "class_caps.bias")


# Cost


def test_shallow_capsnet_costs_20_tests_with_three_steps_down_and_6_of_them_repeat():
    stub = needing(SHALLOW, 3, b0_w=6, b0_a=5, b1_a=4, b2_a=4)
    result = search_qcapsnets(SHALLOW, allow(SHALLOW, EVERY), stub, allowance=Fraction(1), budget_bytes=21)
    assert row(result.satisfied, SHALLOW, "activations") == [5, 4, 4]  # two steps down from 6
    assert row(result.satisfied, SHALLOW, "routing") == [4, 3]  # and one
    assert (result.path, result.tests, result.repeats) == ("A", 20, 6)


def test_deepcaps_costs_28_tests_with_three_steps_down_and_10_of_them_repeat():
    stub = needing(DEEP, 3, b0_w=6, b0_a=5, b2_a=5, b3_a=4, b4_a=4, b5_a=4, b4_r=4)
    result = search_qcapsnets(DEEP, allow(DEEP, EVERY), stub, allowance=Fraction(1), budget_bytes=38)
    assert row(result.satisfied, DEEP, "activations") == [5, 5, 5, 4, 4, 4]
    assert row(result.satisfied, DEEP, "routing") == [4, 3]
    assert (result.path, result.tests, result.repeats) == ("A", 28, 10)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(3, 12), min_size=6, max_size=6))
def test_path_b_costs_8_tests_two_for_each_block_and_the_steps_down(needs):
    stub = Stub({f"b{i}.w": bits for i, bits in enumerate(needs)})
    result = search_qcapsnets(DEEP, allow(DEEP, EVERY), stub, allowance=Fraction(1), budget_bytes=6)
    steps = max(needs) - needs[5]
    assert (result.path, result.tests) == ("B", 8 + 2 * 6 + steps)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(3, 12), min_size=6, max_size=6), st.tuples(st.integers(2, 3), st.integers(2, 3)))
def test_path_a_costs_9_tests_two_for_each_group_and_the_steps_down(activations, routing):
    stub = Stub({f"b{i}.a": bits for i, bits in enumerate(activations)} | {"b4.r": routing[0], "b5.r": routing[1]})
    result = search_qcapsnets(DEEP, allow(DEEP, EVERY), stub, allowance=Fraction(1), budget_bytes=60)
    steps = (max(activations) - activations[5]) + (activations[5] - routing[1])
    assert (result.path, result.tests) == ("A", 9 + 2 * 6 + 2 * 2 + steps)


# The whole algorithm


def by_the_table(blocks, stub, tolerance, budget):
    """Follow the table of the algorithm in terms of accuracy, on lists of widths: plans tested, and outcomes."""
    tested = []
    routed = [i for i, block in enumerate(blocks) if block.routing]
    iterated = [k for k, i in enumerate(routed) if blocks[i].iterated]
    depth = len(blocks)

    def accuracy(w, a, r):  # in images, that of the float network being 0
        plan = {f"b{i}.w": w[i] for i in range(depth)} | {f"b{i}.a": a[i] for i in range(depth)}
        plan |= {f"b{i}.r": r[k] for k, i in enumerate(routed)}
        tested.append(plan)
        return -stub.losses(plan)

    def charged(n):
        return 32 if n > 16 else max(n, 2)

    def lower(bits, where):
        smaller = [16 if b == 32 else b - 1 if b > 2 else 2 for b in bits]
        return [s if i in where else b for i, (b, s) in enumerate(zip(bits, smaller, strict=True))]

    minimum = -tolerance
    passing = [32]

    def uniform(n):
        one = charged(n + 1)
        return [one] * depth, [one] * depth, [one] * len(routed)

    def test(n):
        if accuracy(*uniform(n)) > 0 - Fraction("0.05") * (0 - minimum):
            passing.append(n)
        return passing[-1] == n

    test(32)
    n = 16
    for step in (8, 4, 2, 1):
        n = n - step if test(n) else n + step
    test(n)
    w, a, r = uniform(passing[-1])

    filled = next(
        candidate
        for d in (5, 4, 3, 2, 1)
        for n in range(33, 1, -1)
        if n - min(d, depth) + 1 >= 2
        for candidate in [[charged(n - min(i, d - 1)) for i in range(depth)]]
        if sum(candidate) <= budget  # eight values each
    )
    after = accuracy(filled, a, r)
    if after > minimum:
        threshold = after - Fraction("0.55") * (after - minimum)
        for first in range(depth):
            while accuracy(filled, a, r) >= threshold:
                kept = a, r
                a = lower(a, range(first, depth))
                r = lower(r, [k for k, i in enumerate(routed) if i >= first])
                if (a, r) == kept:
                    break
            a, r = kept
        accuracy(filled, a, r)
        for first in range(len(iterated)):
            while accuracy(filled, a, r) >= minimum:
                kept = r
                r = lower(r, iterated[first:])
                if r == kept:
                    break
            r = kept
        accuracy(filled, a, r)
        return tested, "satisfied", tested[-1]
    memory = tested[-1]
    kept = w
    for first in range(depth):
        while accuracy(w, a, r) >= minimum:
            kept = w
            w = lower(w, range(first, depth))
            if w == kept:
                break
        w = kept
    if accuracy(w, a, r) >= minimum and sum(w) <= budget:
        return tested, "satisfied", tested[-1]
    if after >= minimum:
        return tested, "satisfied", memory
    return tested, "both", (memory, tested[-1])


class Rough(Stub):
    """Not monotone: a plan may lose or gain one image more than its widths say."""

    def losses(self, widths):
        noise = sum(k * bits for k, bits in enumerate(widths[site] for site in sorted(widths))) % 3 - 1
        return super().losses(widths) + noise


@st.composite
def problems(draw):
    depth = draw(st.integers(1, 5))
    blocks = network(depth, draw(st.dictionaries(st.integers(0, depth - 1), st.booleans())))
    needs = draw(st.lists(st.integers(0, 20), min_size=3 * depth, max_size=3 * depth))
    kind = draw(st.sampled_from([Stub, Rough]))
    stub = kind(dict(zip(sites_of(blocks), needs, strict=False)), price=draw(st.integers(1, 3)))
    return blocks, stub, Fraction(draw(st.integers(0, 120)), 7), draw(st.integers(2 * depth, 20 * depth))


@settings(deadline=None, max_examples=80)
@given(problems())
def test_the_search_tests_what_the_table_of_the_algorithm_says(problem):
    blocks, stub, tolerance, budget = problem
    tested, outcome, plans = by_the_table(blocks, stub, tolerance, budget)
    result = search_qcapsnets(blocks, allow(blocks, HONEST), stub, allowance=tolerance, budget_bytes=budget)
    assert [plan for stage in result.stages for plan in stage.tested] == tested
    if outcome == "satisfied":
        assert (result.satisfied, result.memory, result.accuracy) == (plans, None, None)
    else:
        assert (result.satisfied, result.memory, result.accuracy) == (None, *plans)


@settings(deadline=None, max_examples=50)
@given(problems(), st.sets(st.integers(1, 16)), st.booleans())
def test_every_search_ends_with_an_outcome_that_is_true(problem, only, has_budget):
    blocks, stub, tolerance, budget = problem
    allowed = allow(blocks, sorted(only) or LOGARITHMIC)
    budget = budget if has_budget else None
    try:
        result = search_qcapsnets(blocks, allowed, stub, allowance=tolerance, budget_bytes=budget)
    except InfeasibleError:
        assert min(allowed["b0.w"]) * len(blocks) > budget
        return
    for plan in (result.satisfied, result.memory):
        if plan is not None and has_budget:
            assert stub.weight_bytes({site: plan[site] for site in plan if site.endswith("w")}) <= budget
    if result.satisfied is not None:
        assert stub.losses(result.satisfied) <= tolerance
    assert (result.satisfied is None) != (result.memory is None and result.accuracy is None)


def test_a_network_without_sites_ends_at_once():
    result = search_qcapsnets((), {}, Stub({}), allowance=Fraction(1), budget_bytes=10)
    assert (result.path, result.satisfied) == ("A", {})
