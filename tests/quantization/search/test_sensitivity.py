from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from toy_search import IMAGES, judged_images, toy_bench, toy_subject, toy_task
from toys import ROUTED, toy_network

from qcaps.data.images import ImageSet
from qcaps.evaluation.ends import Ends, Halt
from qcaps.evaluation.measure import Measurement
from qcaps.progress import Step
from qcaps.quantization.applying import ArrayRounder, round_weights, weights_replaced
from qcaps.quantization.calibration import Calibration
from qcaps.quantization.formats import Rounding
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.search import judging, sensitivity
from qcaps.quantization.search.groups import Group
from qcaps.quantization.search.judging import Baseline, Bench
from qcaps.quantization.search.sensitivity import MEASURED, Scores, measure_sensitivity, predicted_losses
from qcaps.quantization.search.subject import Subject

# A weight, an array and one of several iterations.
SOME = ("conv1.weight", "primary.out", "class_caps.sum")
NEAR = sensitivity.IMAGES


def groups_of(subject: Subject, names: Sequence[str] = SOME) -> list[Group]:
    with toy_bench() as bench:
        return [group for group in toy_task(bench, subject).groups if group.name in names]


def scored(
    bench: Bench, subject: Subject, widths: Sequence[int] = (2, 4, 8, 32), names: Sequence[str] = SOME
) -> Scores:
    baseline = bench.measure_float(subject.model, subject.network)
    groups = groups_of(subject, names)
    return measure_sensitivity(bench, baseline, subject, groups, dict.fromkeys(names, widths))


def margins(images: ImageSet, subject: Subject, plan: BitPlan | None) -> list[float]:
    """Score images one by one on a fresh network; give the score of the label less the best other one."""
    network = toy_network(subject.model)
    rounded = {} if plan is None else round_weights(network, plan, subject.seed).tensors
    found = []
    with weights_replaced(network, rounded):
        for pixels, label, index in zip(images.prepared(), images.labels, images.indices, strict=True):
            run = (
                network
                if plan is None
                else lambda x, i=index: ArrayRounder(plan, subject.seed).forward(network, x, i[None])
            )
            scores = run(pixels[None]).scores[0].tolist()
            right = scores.pop(int(label))
            found.append(right - max(scores))
    return found


@pytest.mark.parametrize("rounding", ["round_to_nearest", "stochastic_rounding", "logarithmic"])
def test_a_score_is_the_mean_squared_loss_of_the_smallest_right_margins(rounding: Rounding) -> None:
    subject, images = toy_subject(rounding=rounding), judged_images()
    with toy_bench() as bench:
        found = scored(bench, subject, (2, 8))
    exact = margins(images, subject, None)
    order = sorted((margin, place) for place, margin in enumerate(exact) if margin > 0)
    near = images.subset(torch.tensor([place for _, place in order[:NEAR]]))
    before = margins(near, subject, None)
    for group in groups_of(subject):
        least = math.inf
        for bits in (2, 8):
            plan = subject.plan(dict.fromkeys(subject.sites, 32) | dict.fromkeys(group.sites, bits))
            losses = [max(0.0, b - a) ** 2 for a, b in zip(margins(near, subject, plan), before, strict=True)]
            least = min(least, sum(losses) / NEAR)  # powers of two may do more damage with more bits
            assert found[group.name][bits] == pytest.approx(least, rel=5e-2)
            assert least > 0


@pytest.mark.parametrize("rounding", ["truncation", "stochastic_rounding"])
def test_every_width_has_a_score_and_none_is_above_that_of_a_narrower_one(rounding: Rounding) -> None:
    subject = toy_subject(rounding=rounding)
    widths = (*range(1, 17), 32)
    with toy_bench() as bench:
        found = scored(bench, subject, widths)
    assert list(found) == list(SOME)
    for scores in found.values():
        assert tuple(scores) == widths
        assert all(wide <= narrow for narrow, wide in pairwise(scores.values()))
        assert scores[32] == 0


def measured_by(
    monkeypatch: pytest.MonkeyPatch, by_bits: dict[int, float], widths: Sequence[int]
) -> tuple[dict[int, float], list[int]]:
    """Score one group whose margins change by a table; give its scores, and the widths that were run."""
    ran: list[int] = []

    def change(_bench: object, subject: Subject, images: ImageSet, plan: BitPlan) -> torch.Tensor:
        bits = plan.weights["conv1.weight"].bits
        if bits < 32:
            ran.append(bits)
        return torch.full((len(images),), -(by_bits[bits] ** 0.5) if bits < 32 else 0.0)

    monkeypatch.setattr(sensitivity, "_margins", change)
    with toy_bench() as bench:
        found = scored(bench, toy_subject(), widths, ["conv1.weight"])["conv1.weight"]
    return {bits: round(score, 6) for bits, score in found.items()}, ran


def test_widths_between_are_interpolated_and_those_above_follow_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {2: 64.0, 3: 16.0, 4: 4.0, 6: 1.0, 8: 0.25}
    scores, ran = measured_by(monkeypatch, table, (2, 3, 4, 5, 6, 7, 8, 9, 11, 32))
    # 5 lies halfway between 4 and 1 on the logarithmic scale, 7 between 1 and 0.25; above 8 every bit takes a quarter
    assert scores == table | {5: 2.0, 7: 0.5, 9: 0.0625, 11: 0.003906, 32: 0.0}
    assert ran == [2, 3, 4, 6, 8]


def test_a_wider_width_that_does_more_damage_is_scored_as_the_narrower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, _ = measured_by(monkeypatch, {2: 8.0, 3: 9.0, 4: 2.0}, (2, 3, 4))
    assert scores == {2: 8.0, 3: 8.0, 4: 2.0}


def test_without_a_width_that_is_usually_measured_the_narrowest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not {5, 7, 9} & set(MEASURED)
    scores, ran = measured_by(monkeypatch, {5: 4.0}, (5, 7, 9, 32))
    assert ran == [5]
    assert scores == {5: 4.0, 7: 0.25, 9: 0.015625, 32: 0.0}


def test_a_width_below_the_measured_ones_follows_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, ran = measured_by(monkeypatch, {8: 1.0}, (7, 8, 32))
    assert (scores, ran) == ({7: 4.0, 8: 1.0, 32: 0.0}, [8])


@pytest.mark.parametrize("bits", [4, 32])
def test_a_group_of_one_width_is_not_measured(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured_by(monkeypatch, {}, (bits,)) == ({bits: 0.0}, [])


def test_scores_come_out_of_the_journal_without_a_pass(tmp_path: Path) -> None:
    with toy_bench(tmp_path) as bench:
        cold = scored(bench, toy_subject())
        # the float network on the split and on the nearest images, and three widths of three groups
        assert bench.image_forwards_now == IMAGES + NEAR + 9 * NEAR
        ledger = bench.ledger
    with toy_bench(tmp_path) as bench:
        assert scored(bench, toy_subject()) == cold
        assert bench.image_forwards_now == 0
        assert bench.ledger == ledger
    assert ledger.image_forwards == IMAGES + NEAR + 9 * NEAR


@pytest.mark.parametrize("known", [0, 1, 5])
def test_an_interrupted_sensitivity_goes_on_where_it_stopped(tmp_path: Path, known: int) -> None:
    with toy_bench() as bench:
        expected = scored(bench, toy_subject())
    with toy_bench(tmp_path) as bench:
        steps: list[Step] = []
        bench.on_progress = steps.append
        bench.ends = Ends(lambda: len(steps) == 3 + known)  # three batches of the float network
        with pytest.raises(Halt):
            scored(bench, toy_subject())
    with toy_bench(tmp_path) as bench:
        assert scored(bench, toy_subject()) == expected
        assert bench.image_forwards_now == NEAR + (9 - known) * NEAR


def test_memory_changes_no_score() -> None:
    with toy_bench() as bench, toy_bench(memory_bytes=10**9) as large:
        assert scored(bench, toy_subject()) == scored(large, toy_subject())


def with_wider_arrays(subject: Subject) -> Subject:
    ranges = subject.calibration
    wide = {
        site: dataclasses.replace(found, largest=16 * found.largest, sample=16 * found.sample)
        for site, found in ranges.arrays.items()
    }
    return dataclasses.replace(subject, calibration=Calibration(ranges.weights, wide))


@pytest.mark.parametrize(
    ("other", "jobs"),
    [
        (toy_subject(rounding="truncation"), 9),
        (toy_subject(seed=8), 9),
        (toy_subject(per_channel=True), 3),  # the weight
        (with_wider_arrays(toy_subject()), 6),  # the two arrays
    ],
    ids=["rounding", "seed", "channels", "calibration"],
)
def test_another_scheme_seed_or_scale_is_measured(tmp_path: Path, other: Subject, jobs: int) -> None:
    with toy_bench(tmp_path) as bench:
        scored(bench, toy_subject())
    with toy_bench(tmp_path) as bench:
        found = scored(bench, other)
        assert bench.image_forwards_now == NEAR + jobs * NEAR
    with toy_bench() as bench:
        assert scored(bench, other) == found


def test_other_numerics_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        with toy_bench(tmp_path) as bench:
            scored(bench, toy_subject())
            assert bench.image_forwards_now == IMAGES + NEAR + 9 * NEAR
        monkeypatch.setattr(judging, "NUMERICS_VERSION", judging.NUMERICS_VERSION + 1)


def test_a_network_that_has_nothing_right_is_measured_on_what_it_has() -> None:
    images = judged_images()
    wrong = dataclasses.replace(images, labels=torch.full_like(images.labels, 2))  # it predicts 0 and 1 alone
    with toy_bench(images=wrong) as bench:
        baseline = bench.measure_float(ROUTED, toy_network(ROUTED))
        assert baseline.measured.correct == 0
        found = scored(bench, toy_subject(), (2, 8), ["conv1.weight"])
        assert bench.image_forwards_now == 2 * IMAGES + 3 * NEAR
    assert 0 <= found["conv1.weight"][8] <= found["conv1.weight"][2] < math.inf


def baseline_of(margins: torch.Tensor) -> Baseline:
    labels = torch.zeros(len(margins), dtype=torch.int64)
    return Baseline(Measurement((margins <= 0).long(), labels), margins)


def test_no_damage_loses_nothing() -> None:
    assert predicted_losses(baseline_of(torch.tensor([0.1, -0.1])), 0.0) == 0


def test_a_single_image_is_lost_as_often_as_normal_noise_says() -> None:
    # a margin of one standard deviation: 15.87 %; of two: 2.28 %
    assert predicted_losses(baseline_of(torch.tensor([0.5])), 0.25) == pytest.approx(0.158655, abs=1e-6)
    assert predicted_losses(baseline_of(torch.tensor([-1.0])), 0.25) == pytest.approx(-0.022750, abs=1e-6)


def test_predicted_losses_are_those_of_normal_noise_on_the_margins() -> None:
    generator = torch.Generator().manual_seed(1)
    margins = torch.randn(500, generator=generator) + 1
    noise = 0.7 * torch.randn(4000, 500, generator=generator)
    right = margins > 0
    mean = float((right & (margins + noise <= 0)).sum() - (~right & (margins + noise > 0)).sum()) / 4000
    assert predicted_losses(baseline_of(margins), 0.49) == pytest.approx(mean, abs=0.5)
    assert mean > 20


def test_overwhelming_damage_loses_one_half_and_gains_one_half() -> None:
    margins = torch.tensor([1.0] * 30 + [-1.0] * 10)
    assert predicted_losses(baseline_of(margins), 1e12) == pytest.approx(10, abs=0.01)
    assert math.isfinite(predicted_losses(baseline_of(margins), math.inf))
