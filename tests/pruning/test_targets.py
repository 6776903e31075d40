from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from toys import NORMED, ROUTED

from qcaps.errors import InfeasibleError, UsageError
from qcaps.evaluation.cost_model import cost_model as derived
from qcaps.models.cnn_small import CNNSmallSpec
from qcaps.models.deepcaps import DeepCapsSpec
from qcaps.models.efficient_capsnet import EfficientCapsNetSpec
from qcaps.models.mobilenetv1_capsnet import MobileNetV1CapsNetSpec
from qcaps.models.shallow_capsnet import ShallowCapsNetSpec
from qcaps.pruning.strategy import width_rules
from qcaps.pruning.targets import Target, budget, check_reachable, cut_names, meet

# A model is derived once; nothing changes it.
cost_model = functools.cache(derived)
SHALLOW, EFFICIENT, MOBILENET = ShallowCapsNetSpec(), EfficientCapsNetSpec(), MobileNetV1CapsNetSpec()


def rules_of(model, cap=0.95, **numbers):
    return width_rules(model.units, caps={"*": cap}, **numbers)


def directions(model, count=20):
    draws = np.random.default_rng(3)
    return [1 - draws.random(len(model.units)) for _ in range(count)]


def met(spec, direction, *targets, rules=None):
    model = cost_model(spec)
    budgets = [budget(target, model) for target in targets]
    widths = meet(budgets, rules or rules_of(model), direction)
    return model, budgets, widths


@pytest.mark.parametrize("kind", ["flops", "params"])
@pytest.mark.parametrize("kept", [0.75, 0.5, 0.25])
@pytest.mark.parametrize("spec", [SHALLOW, EFFICIENT, DeepCapsSpec(), MOBILENET], ids=lambda s: s.architecture)
def test_every_direction_comes_within_a_step_of_its_target_and_never_over_it(spec, kept, kind):
    for direction in directions(cost_model(spec), 5):
        _, (one,), widths = met(spec, direction, Target(kind, kept))
        assert 0.985 * kept < one.share(widths) <= kept


def test_a_large_step_of_one_unit_is_made_up_for_by_the_others():
    # Scaled down, three of eight dimensions are too many; with two there is room left for channels.
    model = cost_model(SHALLOW)
    one = budget(Target("flops", 0.25), model)
    channels, types, dims, positions = meet([one], rules_of(model), np.array([0.3, 0.01, 0.9, 0.01])).tolist()
    assert (types, dims, positions) == (32, 2, 36)
    shares = [one.share(np.array([n, types, dims, positions])) for n in (channels, channels + 1)]
    assert 0.248 < shares[0] <= 0.25 < shares[1] + 0.001


def test_equal_ratios_come_close_too_though_many_units_step_at_once():
    for spec in (SHALLOW, EFFICIENT, DeepCapsSpec()):
        _, (one,), widths = met(spec, np.ones(len(cost_model(spec).units)), Target("flops", 0.3))
        assert 0.295 < one.share(widths) <= 0.3


def test_the_widths_keep_the_shape_of_the_direction():
    model, _, widths = met(MOBILENET, np.linspace(0.05, 1, 16), Target("flops", 0.5))
    counts = np.array(list(model.units.values()))
    ratios = 1 - widths / counts
    scale = ratios[-3] / np.linspace(0.05, 1, 16)[-3]
    assert ratios[:-2] == pytest.approx(np.minimum(scale * np.linspace(0.05, 1, 16), 0.95)[:-2], abs=0.04)


def test_a_target_of_everything_cuts_nothing():
    model, _, widths = met(EFFICIENT, np.ones(5), Target("flops", 1.0))
    assert widths.tolist() == list(model.units.values())


def test_several_targets_hold_together():
    targets = Target("flops", 0.5), Target("params", 0.3), Target("capsules", 0.5)
    for direction in directions(cost_model(SHALLOW)):
        _, budgets, widths = met(SHALLOW, direction, *targets)
        assert all(one.holds(widths) for one in budgets)
        assert any(one.share(widths) > 0.97 * one.target.kept for one in budgets)


def test_what_one_target_leaves_alone_may_grow_until_another_binds():
    # Few capsules do not make a ShallowCapsNet cheap; its convolutions are cut no further than they need to be.
    _, (capsules, flops), widths = met(
        SHALLOW, np.array([0.2, 1.0, 0.1, 1.0]), Target("capsules", 0.05), Target("flops", 0.2)
    )
    assert capsules.share(widths) <= 0.05
    assert flops.share(widths) == pytest.approx(0.2, abs=0.01)


def test_rounding_happens_before_the_cost_is_looked_at():
    model = cost_model(MOBILENET)
    for direction in directions(model, 5):
        _, (one,), widths = met(MOBILENET, direction, Target("flops", 0.5), rules=rules_of(model, round_to=8))
        channels = dict(zip(model.units, widths.tolist(), strict=True))
        assert all(width % 8 == 0 for name, width in channels.items() if name.endswith("channels"))
        assert 0.48 < one.share(widths) <= 0.5


def test_caps_and_floors_hold():
    model = cost_model(EFFICIENT)
    rules = width_rules(model.units, caps={"*": 0.8, "conv1.*": 0.0}, least={"primary.types": 12})
    for direction in directions(model):
        widths = rules.named(meet([budget(Target("flops", 0.4), model)], rules, direction))
        assert widths["conv1.channels"] == 32
        assert widths["primary.types"] >= 12
        assert widths["conv2.channels"] >= 64 - 51


@pytest.mark.parametrize("spec", [NORMED, ROUTED], ids=["normed", "routed"])
def test_a_tiny_network_comes_as_close_as_its_units_let_it(spec):
    for direction in directions(cost_model(spec)):
        _, (one,), widths = met(spec, direction, Target("flops", 0.5))
        assert one.holds(widths)
        assert (widths >= 1).all()


def test_a_target_out_of_reach_names_the_smallest_cost_that_can_be_reached():
    model = cost_model(EFFICIENT)
    one, rules = budget(Target("flops", 0.001), model), rules_of(model, cap=0.5)
    smallest = model.at({name: count - count // 2 for name, count in model.units.items()}).macs / 30_135_424
    with pytest.raises(InfeasibleError, match=f"the narrowest keeps {smallest:.4g}"):
        check_reachable([one], rules)
    with pytest.raises(InfeasibleError, match="no strategy keeps 0"):
        meet([one], rules, np.ones(5))


def test_the_smallest_cost_can_be_reached():
    model = cost_model(EFFICIENT)
    rules = rules_of(model, cap=0.5)
    smallest = budget(Target("flops", 1.0), model).share(rules.narrowest)
    one = budget(Target("flops", smallest), model)
    assert meet([one], rules, np.array([1, 0.01, 1, 0.5, 0.3])).tolist() == rules.narrowest.tolist()


@pytest.mark.parametrize("kept", [0.0, -0.5, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(kept):
    with pytest.raises(UsageError, match="no fraction to keep"):
        Target("flops", kept)


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (SHALLOW, ("primary.types", "primary.positions")),
        (EFFICIENT, ("primary.types",)),
        (DeepCapsSpec(), ("block3.types", "block4.types")),
    ],
    ids=lambda part: getattr(part, "architecture", None),
)
def test_a_capsule_target_cuts_the_units_that_capsules_are_counted_by(spec, names):
    model = cost_model(spec)
    assert cut_names([budget(Target("capsules", 0.5), model)], model) == names


def test_a_second_target_adds_its_units():
    model = cost_model(EFFICIENT)
    both = [budget(Target("capsules", 0.5), model), budget(Target("flops", 0.5), model)]
    assert cut_names(both, model) == tuple(model.units)


def test_a_capsule_target_is_met_to_a_capsule_where_only_types_are_cut():
    model = cost_model(EFFICIENT)
    one = budget(Target("capsules", 0.25), model)
    rules = width_rules(model.units, caps=dict.fromkeys(cut_names([one], model), 0.95))
    assert rules.named(meet([one], rules, np.full(5, 0.3))) == {**model.units, "primary.types": 4}


@pytest.mark.parametrize(
    "spec", [CNNSmallSpec(), MobileNetV1CapsNetSpec(softmax_axis="inputs")], ids=["no capsules", "not to be cut"]
)
def test_a_capsule_target_without_capsules_to_cut_is_refused(spec):
    with pytest.raises(UsageError, match="no unit that changes its number of capsules"):
        budget(Target("capsules", 0.5), cost_model(spec))


def test_a_latency_target_without_measured_layers_is_refused():
    with pytest.raises(UsageError, match="needs measured layers"):
        budget(Target("latency", 0.5), cost_model(EFFICIENT))


def test_a_latency_target_is_met_with_whatever_the_layers_were_predicted_to_take():
    @dataclasses.dataclass
    class Sums:
        full: float = 184.0  # units of an Efficient-CapsNet, a millisecond each

        def __call__(self, widths):
            return float(widths.sum())

    model = cost_model(EFFICIENT)
    one = budget(Target("latency", 0.5), model, Sums())
    assert meet([one], rules_of(model), np.array([1, 0.5, 0.7, 0.2, 0.1])).sum() == 92
