from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_search import IMAGES, by_hand, judged_images, net_loss, toy_bench, toy_subject, toy_task
from toys import FOLDED, NORMED, ROUTED, toy_network

from qcaps.evaluation.measure import Measurement, measure, predictor
from qcaps.models.spec import ModelSpec
from qcaps.quantization.applying import round_weights
from qcaps.quantization.artifact import SELF_TEST_IMAGES, predictions_sha256
from qcaps.quantization.formats import Rounding
from qcaps.quantization.loading import load
from qcaps.quantization.search.groups import Widths
from qcaps.quantization.search.judging import Bench
from qcaps.quantization.search.subject import Subject
from qcaps.quantization.search.trial import Trial, file_bytes, make_trial, summed_verdict
from qcaps.verbs.quantize_job import _overhead

# A busy machine would break a deadline without a reason.
BRIEFLY = settings(deadline=None, max_examples=25)


def tried(bench: Bench, subject: Subject, bits: int | Widths = 3, allowed: int = 5, **options: object) -> Trial:
    baseline = bench.measure_float(subject.model, subject.network)
    widths = dict.fromkeys(subject.sites, bits) if isinstance(bits, int) else bits
    return make_trial(bench, subject, widths, baseline=baseline, allowed=allowed, **options)


def test_the_file_holds_the_plan_and_what_the_search_saw(tmp_path: Path) -> None:
    subject, images = toy_subject(), judged_images()
    with toy_bench() as bench:
        trial = tried(bench, subject, 4, notes={"phase": "front"})
    (tmp_path / "a.pt").write_bytes(trial.file)
    file = load(tmp_path / "a.pt")
    assert file.artifact is not None
    assert (file.artifact.plan, file.artifact.seed, file.model) == (trial.plan, 7, ROUTED)
    assert trial.plan == subject.common_width(4)
    found = measure(file.predictor(), images, batch_size=50)
    assert torch.equal(found.predictions, trial.measurements[0].predictions)
    assert file.artifact.record["search"] == {
        "split": "validation",
        "images": IMAGES,
        "baseline_correct": IMAGES - IMAGES // 10,
        "correct": found.correct,
        "predictions_sha256": predictions_sha256(found.predictions),
        "phase": "front",
    }


@pytest.mark.parametrize("spec", [FOLDED, NORMED, ROUTED], ids=["folded", "normed", "routed"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_the_payload_is_what_the_file_holds(spec: ModelSpec, per_channel: bool, tmp_path: Path) -> None:
    subject = toy_subject(spec, per_channel=per_channel)
    with toy_bench(images=judged_images(spec)) as bench:
        trial = tried(bench, subject, 5)
    (tmp_path / "a.pt").write_bytes(trial.file)
    assert trial.payload_bytes == load(tmp_path / "a.pt").checks.tensor_bytes == subject.payload_bytes(trial.widths)
    assert trial.activation_bytes == subject.activation_bytes(trial.widths)


def test_a_trial_of_another_plan_keeps_that_plan() -> None:
    subject = toy_subject()
    plan = subject.common_width(6)
    with toy_bench() as bench:
        trial = tried(bench, subject, 3, plan=plan)
    assert trial.plan == plan
    assert trial.measurements[0].predictions.tolist() == by_hand(subject, judged_images(), plan).tolist()


@pytest.mark.parametrize("rounding", ["round_to_nearest", "truncation", "logarithmic", "stochastic_rounding"])
def test_a_verdict_counts_the_images_lost_and_gained_of_every_seed(rounding: Rounding) -> None:
    subject, images = toy_subject(rounding=rounding), judged_images()
    with toy_bench() as bench:
        trial = tried(bench, subject, 3, allowed=7)
    before = measure(predictor(toy_network(ROUTED)), images, batch_size=50).predictions
    runs = [by_hand(subject, images, trial.plan, seed) for seed in subject.seeds]
    loss = sum(net_loss(images.labels, before, run) for run in runs)
    assert trial.verdict.lost - trial.verdict.gained == loss > 0
    assert (trial.verdict.images, trial.verdict.allowed) == (len(runs) * IMAGES, 7)
    assert trial.verdict.passed is (loss <= 7)
    assert len({tuple(run.tolist()) for run in runs}) == len(runs)


def hits(*right: bool) -> Measurement:
    return Measurement(torch.tensor([0 if hit else 1 for hit in right]), torch.zeros(len(right), dtype=torch.int64))


@pytest.mark.parametrize(("allowed", "passed"), [(0, False), (1, True), (2, True)])
def test_verdicts_of_several_seeds_are_summed_before_they_are_judged(allowed: int, passed: bool) -> None:
    baseline = hits(True, True, False)
    runs = (hits(False, False, False), hits(True, True, True), hits(True, True, False))
    verdict = summed_verdict(baseline, runs, allowed)
    assert (verdict.lost, verdict.gained, verdict.images, verdict.passed) == (2, 1, 9, passed)


def test_the_baseline_is_the_trained_network_not_the_folded_one() -> None:
    subject, images = toy_subject(), judged_images()
    wrong = images.labels.add(1).remainder(3)
    with toy_bench() as bench:
        baseline = bench.measure_float(ROUTED, subject.network)
        turned = type(baseline)(Measurement(wrong, images.labels), baseline.margins)
        widths = dict.fromkeys(subject.sites, 32)
        trial = make_trial(bench, subject, widths, baseline=turned, allowed=0)
    assert (trial.verdict.lost, trial.verdict.gained) == (0, IMAGES - IMAGES // 10)


def test_a_file_does_not_depend_on_what_was_tried_before(tmp_path: Path) -> None:
    with toy_bench(tmp_path, memory_bytes=10**9) as bench:
        subject = toy_subject(rounding="stochastic_rounding")
        late = [tried(bench, subject, bits) for bits in (8, 2, 4)][-1]
    with toy_bench() as bench:
        early = tried(bench, toy_subject(rounding="stochastic_rounding"), 4)
    assert early.file == late.file
    assert early.verdict == late.verdict


def test_what_was_measured_costs_the_self_test_of_its_file_alone(tmp_path: Path) -> None:
    subject = toy_subject()
    with toy_bench(tmp_path) as bench:
        first = tried(bench, subject)
        seen: list[int] = []
        subject.network.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
        again = tried(bench, subject, allowed=50)
    assert seen == [SELF_TEST_IMAGES]
    assert again.file == first.file
    assert (first.verdict.allowed, again.verdict.allowed) == (5, 50)


def test_weights_are_rounded_with_the_first_seed_alone(tmp_path: Path) -> None:
    subject = toy_subject(rounding="stochastic_rounding")
    with toy_bench() as bench:
        trial = tried(bench, subject, 4)
    expected = round_weights(toy_network(ROUTED), trial.plan, 7).tensors
    (tmp_path / "a.pt").write_bytes(trial.file)
    found = dict(load(tmp_path / "a.pt").network.named_parameters())
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_trial_leaves_the_network_as_it_was() -> None:
    subject = toy_subject()
    before = {name: tensor.clone() for name, tensor in subject.network.state_dict().items()}
    with toy_bench() as bench:
        tried(bench, subject, 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.network.state_dict().items())


# Among them all that packs into whole bytes, and nothing packed at all.
WIDTHS = {"logarithmic": (2, 3, 5, 8, 32), "round_to_nearest": (1, 2, 3, 7, 8, 9, 10, 13, 16, 32)}


@BRIEFLY
@given(st.sampled_from(sorted(WIDTHS)), st.sampled_from([FOLDED, ROUTED]), st.booleans(), st.integers(0, 10**6))
def test_a_file_is_as_large_as_was_said_before_and_never_above_the_bound(
    rounding: Rounding, spec: ModelSpec, per_channel: bool, salt: int
) -> None:
    subject = toy_subject(spec, rounding, per_channel=per_channel)
    drawn = random.Random(salt)  # noqa: S311  # widths, no secrets
    few = drawn.sample(WIDTHS[rounding], drawn.randint(1, 3))
    widths = {site: drawn.choice(few) for site in subject.sites}
    with toy_bench(images=judged_images(spec)) as bench:
        trial = tried(bench, subject, widths)
        before = file_bytes(bench, subject, trial.plan)
        bound = trial.payload_bytes + _overhead(toy_task(bench, subject))
    assert len(trial.file) <= before <= bound
    assert before - len(trial.file) <= 64  # the digits of the record
    assert bound - before < 2500
