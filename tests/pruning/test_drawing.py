from __future__ import annotations

import functools
import gc
import time

import numpy as np
import pytest

from qcaps.errors import InfeasibleError
from qcaps.evaluation.cost_model import cost_model as derived
from qcaps.models.efficient_capsnet import EfficientCapsNetSpec
from qcaps.models.mobilenetv1 import MobileNetV1Spec
from qcaps.models.network import CapsuleNetwork
from qcaps.models.resnet50 import ResNet50Spec
from qcaps.models.resnet50_capsnet import ResNet50CapsNetSpec
from qcaps.pruning import drawing
from qcaps.pruning.drawing import draw, usual_cap
from qcaps.pruning.strategy import width_rules
from qcaps.pruning.targets import Target, budget

# A model is derived once; nothing changes it.
cost_model = functools.cache(derived)
EFFICIENT, MOBILENET, RESNET = EfficientCapsNetSpec(), MobileNetV1Spec(), ResNet50CapsNetSpec()


def half_of(spec, kept=0.5, *, convention="qcaps"):
    """Give what draws of half of the MACs need."""
    model = cost_model(spec, convention)
    rules = width_rules(model.units, caps={"*": usual_cap(kept)})
    return model, {"budgets": [budget(Target("flops", kept), model)], "rules": rules}


def test_every_candidate_of_a_resnet_with_capsules_meets_its_target():
    model, job = half_of(RESNET)
    (one,) = job["budgets"]
    drawn = [draw(number, seed=0, **job) for number in range(100)]
    shares = [one.share(model.vector(candidate.widths)) for candidate in drawn]
    assert 0.495 < min(shares) <= max(shares) <= 0.5
    assert len({tuple(candidate.widths.values()) for candidate in drawn}) == 100
    assert all(candidate.draws == 1 for candidate in drawn)


def test_a_strategy_names_every_unit_in_the_order_of_the_network():
    model, job = half_of(EFFICIENT)
    assert list(draw(0, seed=0, **job).widths) == list(model.units)


@pytest.mark.parametrize("sampler", ["bisection", "rejection"])
def test_a_candidate_depends_on_the_seed_and_its_number_alone(sampler):
    _, job = half_of(EFFICIENT)
    forwards = [draw(number, seed=7, sampler=sampler, **job) for number in range(5)]
    backwards = [draw(number, seed=7, sampler=sampler, **job) for number in reversed(range(5))]
    assert forwards == backwards[::-1]
    assert draw(3, seed=8, sampler=sampler, **job).widths != forwards[3].widths


def test_a_seed_draws_the_same_strategies_for_good():
    # Journals and reports of earlier searches rely on it.
    _, job = half_of(EFFICIENT)
    assert tuple(draw(0, seed=0, **job).widths.values()) == (28, 46, 40, 10, 8)


def test_directions_are_even():
    # One target that never binds before its cap shows the directions: half of the units lose more than the median.
    model, job = half_of(RESNET)
    counts = np.array(list(model.units.values()))
    ratios = np.array([1 - model.vector(draw(n, seed=1, **job).widths) / counts for n in range(50)])
    large = ratios[:, counts >= 64]
    assert large.std(axis=0).min() > 0.02
    assert large.mean(axis=0) == pytest.approx(np.full(large.shape[1], large.mean()), abs=0.13)


@pytest.mark.parametrize(
    ("kept", "cap"), [(0.75, 0.4), (0.5, 0.7), (0.25, 0.8), (0.625, 0.55), (0.9, 0.4), (0.05, 0.96)]
)
def test_the_usual_caps_are_those_of_eagleeye(kept, cap):
    assert usual_cap(kept) == pytest.approx(cap)


@pytest.mark.parametrize("kept", np.linspace(0.01, 0.99, 50))
def test_under_the_usual_cap_every_share_of_a_single_kind_can_be_reached(kept):
    assert usual_cap(kept) > 1 - kept


def test_rejection_accepts_what_eagleeye_accepts():
    model, job = half_of(EFFICIENT)
    (one,) = job["budgets"]
    for number in range(20):
        candidate = draw(number, seed=0, sampler="rejection", **job)
        assert abs(one.share(model.vector(candidate.widths)) - 0.5) <= 0.005
        assert all(width >= 0.3 * model.units[name] for name, width in candidate.widths.items())


@pytest.mark.parametrize(
    ("spec", "kept", "published", "candidates"),
    [(MOBILENET, 0.5, 28, 100), (ResNet50Spec(), 0.5, 31, 100)],
    ids=["mobilenetv1", "resnet50"],
)
def test_rejection_wastes_as_many_draws_as_measured_of_eagleeye(spec, kept, published, candidates):
    _, job = half_of(spec, kept, convention="eagleeye")
    draws = sum(draw(number, seed=0, sampler="rejection", **job).draws for number in range(candidates))
    assert draws / candidates == pytest.approx(published, rel=0.35)  # three standard errors of a mean of 100


def test_a_target_out_of_reach_is_refused_before_anything_is_drawn():
    _, job = half_of(EFFICIENT)
    job["budgets"] = [budget(Target("flops", 0.01), cost_model(EFFICIENT))]
    for sampler in ("bisection", "rejection"):
        with pytest.raises(InfeasibleError, match="the narrowest keeps"):
            draw(0, seed=0, sampler=sampler, **job)


def test_rejection_gives_up_rather_than_drawing_for_ever(monkeypatch):
    monkeypatch.setattr(drawing, "MOST_DRAWS", 10)
    _, job = half_of(EFFICIENT)
    job["budgets"] = [budget(Target("flops", 0.99), cost_model(EFFICIENT))]
    with pytest.raises(InfeasibleError, match="none of 10 draws"):
        draw(0, seed=0, sampler="rejection", **job)


def test_drawing_keeps_no_network_alive():
    gc.collect()
    before = sum(type(found) is CapsuleNetwork for found in gc.get_objects())
    model = derived(EFFICIENT)
    one, rules = budget(Target("flops", 0.5), model), width_rules(model.units, caps={"*": 0.7})
    kept = [draw(number, seed=0, budgets=[one], rules=rules) for number in range(100)]
    gc.collect()
    assert len(kept) == 100
    assert sum(type(found) is CapsuleNetwork for found in gc.get_objects()) == before


@pytest.mark.slow
def test_a_hundred_candidates_of_a_resnet_are_drawn_in_a_second():
    _, job = half_of(RESNET)
    start = time.perf_counter()
    for number in range(100):
        draw(number, seed=0, **job)
    assert time.perf_counter() - start < 1
