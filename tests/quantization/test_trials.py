from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toys import FOLDED, ROUTED, toy_images, toy_network

from qcaps.artifacts.journal import Journal
from qcaps.data.images import ImageSet
from qcaps.data.spec import data_spec
from qcaps.errors import StoppedError
from qcaps.evaluation.measure import Measurement, Predict, measure, predictor
from qcaps.evaluation.tolerance import Tolerance, ToleranceKind
from qcaps.models.spec import ModelSpec
from qcaps.progress import Step
from qcaps.quantization import trials
from qcaps.quantization.applying import ArrayRounder, round_weights, weights_replaced
from qcaps.quantization.artifact import SELF_TEST_IMAGES, load, payload_bytes
from qcaps.quantization.calibration import Calibration, SiteRange, calibrate, plan_of_width
from qcaps.quantization.formats import Rounding
from qcaps.quantization.trials import Bench, Subject, measure_float, size_of_width, summed_verdict, try_width

IMAGES = 40


def float_labelled(spec: ModelSpec, images: ImageSet) -> ImageSet:
    """Label images as the float network sees them, so that it is always right."""
    labels = measure(predictor(toy_network(spec)), images, divisor=255, batch_size=20).predictions
    return dataclasses.replace(images, labels=labels)


@contextlib.contextmanager
def bench(
    folder: Path,
    images: ImageSet | None = None,
    *,
    divisor: int = 255,
    batch_size: int = 20,
    steps: list[Step] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Bench]:
    images = toy_images(FOLDED, IMAGES) if images is None else images
    told = [] if steps is None else steps
    with Journal.open(folder / "journal.jsonl") as journal:
        yield Bench(images, divisor=divisor, batch_size=batch_size, journal=journal, on_progress=told.append, stop=stop)


def subject_of(spec: ModelSpec = FOLDED, rounding: Rounding = "round_to_nearest", seed: int = 7) -> Subject:
    network = toy_network(spec)
    ranges = calibrate(network, toy_images(spec, split="train"), divisor=255, batch_size=20, seed=0)
    return Subject(spec, network, data_spec("digits"), ranges, rounding, seed)


def tolerance(percent: str, kind: ToleranceKind = "relative") -> Tolerance:
    return Tolerance(Decimal(percent), kind)


def tried(place: Bench, subject: Subject, bits: int = 3, percent: str = "10", margin_pct: int = 10) -> trials.Trial:
    baseline = measure_float(place, subject.model, subject.network)
    return try_width(place, subject, bits, baseline=baseline, tolerance=tolerance(percent), margin_pct=margin_pct)


class Counting:
    """A candidate that finds the label in the first pixel, and counts the images it was shown."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, pixels: Tensor, indices: Tensor) -> Tensor:
        self.images += len(pixels)
        return (pixels[:, 0, 0, 0] * 255 % 3).round().long()


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    candidate = Counting()
    with bench(tmp_path) as place:
        first = place.measure(candidate, ("a", 1), "try")
        again = place.measure(candidate, ("a", 1), "try")
        assert (candidate.images, place.image_forwards_now) == (IMAGES, IMAGES)
        assert place.image_forwards == 2 * IMAGES
    assert torch.equal(again.predictions, first.predictions)
    assert torch.equal(again.labels, place.images.labels)


def test_the_journal_of_an_earlier_run_saves_measuring(tmp_path: Path) -> None:
    candidate = Counting()
    with bench(tmp_path) as place:
        first = place.measure(candidate, ("a", 1), "try").predictions
    with bench(tmp_path, batch_size=7) as place:
        again = place.measure(candidate, ("a", 1), "try")
        assert (place.image_forwards, place.image_forwards_now) == (IMAGES, 0)
    assert candidate.images == IMAGES
    assert torch.equal(again.predictions, first)


def turned(images: ImageSet) -> ImageSet:
    return images.subset(torch.arange(len(images)).flip(0))


def with_one_pixel(images: ImageSet) -> ImageSet:
    pixels = images.pixels.clone()
    pixels[-1, 0, -1, -1] ^= 1
    return dataclasses.replace(images, pixels=pixels)


@pytest.mark.parametrize(
    ("content", "images", "divisor"),
    [
        (("a", 2), toy_images(FOLDED, IMAGES), 255),
        (("a",), toy_images(FOLDED, IMAGES), 255),
        (("a", 1), toy_images(FOLDED, IMAGES), 256),
        (("a", 1), turned(toy_images(FOLDED, IMAGES)), 255),
        (("a", 1), with_one_pixel(toy_images(FOLDED, IMAGES)), 255),
        (("a", 1), toy_images(FOLDED, IMAGES).subset(torch.arange(IMAGES - 1)), 255),
    ],
)
def test_other_content_images_or_scaling_are_measured(
    tmp_path: Path, content: tuple[object, ...], images: ImageSet, divisor: int
) -> None:
    candidate = Counting()
    with bench(tmp_path) as place:
        place.measure(candidate, ("a", 1), "try")
    with bench(tmp_path, images, divisor=divisor) as place:
        place.measure(candidate, content, "try")
    assert candidate.images == IMAGES + len(images)


def test_other_numerics_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = Counting()
    with bench(tmp_path) as place:
        place.measure(candidate, ("a", 1), "try")
        monkeypatch.setattr(trials, "NUMERICS_VERSION", trials.NUMERICS_VERSION + 1)
        place.measure(candidate, ("a", 1), "try")
    assert candidate.images == 2 * IMAGES


def test_the_bench_tells_what_it_does(tmp_path: Path) -> None:
    steps: list[Step] = []
    subject = subject_of()
    with bench(tmp_path, steps=steps) as place:
        for bits in (3, 32):
            tried(place, subject, bits)
    expected = [(phase, done) for phase in ("float network", "try 3 bits", "try float32") for done in (20, 40)]
    assert [(step.phase, step.done) for step in steps] == expected


def seen_by(subject: Subject) -> list[int]:
    """Count the images of every batch that the network of a subject is given from now on."""
    seen: list[int] = []
    subject.network.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    return seen


def test_a_width_that_was_tried_costs_the_self_test_of_its_file_alone(tmp_path: Path) -> None:
    subject = subject_of()
    seen = seen_by(subject)
    with bench(tmp_path) as place:
        first = tried(place, subject)
        assert sum(seen) == 2 * IMAGES + SELF_TEST_IMAGES  # float and quantized
        again = tried(place, subject, percent="50", margin_pct=0)
        assert sum(seen) == 2 * IMAGES + 2 * SELF_TEST_IMAGES
    assert torch.equal(again.measurements[0].predictions, first.measurements[0].predictions)
    assert again.verdict.allowed > first.verdict.allowed


def with_weight(subject: Subject) -> Subject:
    network = toy_network(subject.model)
    network.stages["class_caps"].weight[0, 0, 0, 0] += 1.0
    return dataclasses.replace(subject, network=network)


def with_arrays(subject: Subject) -> Subject:
    """Give the arrays a range sixteen times as wide; the weights round as before."""
    ranges = subject.calibration
    wide = {s: SiteRange(16 * r.largest, 16 * r.sample, r.values) for s, r in ranges.arrays.items()}
    return dataclasses.replace(subject, calibration=Calibration(ranges.weights, wide))


@pytest.mark.parametrize(
    "other",
    [
        with_weight(subject_of()),
        with_arrays(subject_of()),
        dataclasses.replace(subject_of(), seed=8),
        subject_of(rounding="truncation"),
        dataclasses.replace(subject_of(), model=dataclasses.replace(FOLDED, attention_scale=3.0)),
        dataclasses.replace(subject_of(), model=dataclasses.replace(FOLDED, squash_eps=0.5)),
    ],
    ids=["weight", "arrays", "seed", "rounding", "spec", "epsilon"],
)
def test_another_weight_plan_seed_or_spec_is_measured(tmp_path: Path, other: Subject) -> None:
    with bench(tmp_path) as place:
        tried(place, subject_of())
        spent = place.image_forwards_now
        baseline = measure_float(place, FOLDED, toy_network(FOLDED))
        try_width(place, other, 3, baseline=baseline, tolerance=tolerance("10"), margin_pct=10)
        assert place.image_forwards_now == spent + IMAGES


def test_the_same_float_numbers_under_another_spec_are_measured(tmp_path: Path) -> None:
    fewer = dataclasses.replace(ROUTED, routing_passes=1)
    with bench(tmp_path, toy_images(ROUTED, IMAGES)) as place:
        for spec in (ROUTED, fewer, ROUTED):
            measure_float(place, spec, toy_network(spec))
        assert place.image_forwards_now == 2 * IMAGES


def test_another_width_is_measured(tmp_path: Path) -> None:
    subject = subject_of()
    with bench(tmp_path) as place:
        for bits in (3, 4, 32, 3):
            tried(place, subject, bits)
        assert place.image_forwards_now == 4 * IMAGES  # float, and three widths


def test_a_trial_does_not_depend_on_what_was_tried_before(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with bench(tmp_path / "one") as place:
        subject = subject_of(rounding="stochastic_rounding")
        late = [tried(place, subject, bits) for bits in (8, 2, 4)][-1]
    with bench(tmp_path / "two") as place:
        early = tried(place, subject_of(rounding="stochastic_rounding"), 4)
    assert early.file == late.file
    assert early.verdict == late.verdict
    assert early.plan == late.plan


def by_hand(subject: Subject, images: ImageSet, bits: int, seed: int) -> Tensor:
    """Predict with a plan on a fresh network, without any bench."""
    network = toy_network(subject.model)
    plan = plan_of_width(subject.calibration, bits, subject.rounding)
    with weights_replaced(network, round_weights(network, plan, subject.seed).tensors):
        return measure(ArrayRounder(plan, seed).predictor(network), images, divisor=255, batch_size=20).predictions


@pytest.mark.parametrize("rounding", ["round_to_nearest", "truncation", "logarithmic"])
def test_a_verdict_counts_the_images_lost_and_gained(tmp_path: Path, rounding: Rounding) -> None:
    subject, images = subject_of(ROUTED, rounding), toy_images(ROUTED, IMAGES)
    with bench(tmp_path, images) as place:
        baseline = measure_float(place, subject.model, subject.network)
        trial = try_width(place, subject, 2, baseline=baseline, tolerance=tolerance("20"), margin_pct=10)
    before = measure(predictor(toy_network(ROUTED)), images, divisor=255, batch_size=20).predictions
    after = by_hand(subject, images, 2, seed=7)
    pairs = list(zip((before == images.labels).tolist(), (after == images.labels).tolist(), strict=True))
    assert (trial.verdict.lost, trial.verdict.gained) == (pairs.count((True, False)), pairs.count((False, True)))
    assert trial.verdict.lost + trial.verdict.gained > 0
    assert trial.verdict.images == IMAGES


@pytest.mark.parametrize(
    ("percent", "margin_pct", "allowed"), [("10", 0, 4), ("10", 10, 3), ("50", 10, 18), ("0", 10, 0)]
)
def test_a_verdict_allows_the_tolerance_less_the_margin(
    tmp_path: Path, percent: str, margin_pct: int, allowed: int
) -> None:
    # the float network recognises all 40 images
    with bench(tmp_path, float_labelled(FOLDED, toy_images(FOLDED, IMAGES))) as place:
        trial = tried(place, subject_of(), 3, percent, margin_pct)
    assert trial.verdict.allowed == allowed
    assert trial.verdict.passed is (trial.verdict.lost <= allowed)


def test_the_baseline_is_the_trained_network_not_the_folded_one(tmp_path: Path) -> None:
    images = float_labelled(FOLDED, toy_images(FOLDED, IMAGES))
    wrong = Measurement((images.labels + 1) % 3, images.labels)
    with bench(tmp_path, images) as place:
        trial = try_width(place, subject_of(), 32, baseline=wrong, tolerance=tolerance("0"), margin_pct=0)
    assert (trial.verdict.lost, trial.verdict.gained) == (0, IMAGES)


def test_float_width_loses_nothing(tmp_path: Path) -> None:
    with bench(tmp_path, float_labelled(ROUTED, toy_images(ROUTED, IMAGES))) as place:
        trial = tried(place, subject_of(ROUTED), 32, "0")
    assert (trial.verdict.lost, trial.verdict.gained, trial.verdict.passed) == (0, 0, True)


def test_a_stochastic_verdict_sums_three_seeds(tmp_path: Path) -> None:
    subject = subject_of(ROUTED, "stochastic_rounding")
    images = float_labelled(ROUTED, toy_images(ROUTED, IMAGES))
    with bench(tmp_path, images) as place:
        trial = tried(place, subject, 3)
        assert place.image_forwards_now == 4 * IMAGES
    runs = [by_hand(subject, images, 3, seed) for seed in (7, 8, 9)]
    lost = [int((run != images.labels).sum()) for run in runs]
    assert [m.correct for m in trial.measurements] == [IMAGES - count for count in lost]
    assert len(set(lost)) > 1
    assert (trial.verdict.lost, trial.verdict.gained, trial.verdict.images) == (sum(lost), 0, 3 * IMAGES)
    assert trial.verdict.allowed == 10  # floor(0.9 * floor(3 * 4))


@pytest.mark.parametrize(
    ("rounding", "seeds"), [("round_to_nearest", (7,)), ("logarithmic", (7,)), ("stochastic_rounding", (7, 8, 9))]
)
def test_only_a_random_scheme_takes_several_seeds(rounding: Rounding, seeds: tuple[int, ...]) -> None:
    assert subject_of(rounding=rounding).seeds == seeds


def test_weights_are_rounded_with_the_first_seed_alone(tmp_path: Path) -> None:
    subject = subject_of(rounding="stochastic_rounding")
    with bench(tmp_path) as place:
        trial = tried(place, subject, 4)
    expected = round_weights(toy_network(FOLDED), trial.plan, 7).tensors
    (tmp_path / "a.pt").write_bytes(trial.file)
    found = dict(load(tmp_path / "a.pt").network.named_parameters())
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def hits(*right: bool) -> Measurement:
    return Measurement(torch.tensor([0 if hit else 1 for hit in right]), torch.zeros(len(right), dtype=torch.int64))


@pytest.mark.parametrize(("allowed", "passed"), [(0, False), (1, True), (2, True)])
def test_verdicts_of_several_seeds_are_summed_before_they_are_judged(allowed: int, passed: bool) -> None:
    baseline = hits(True, True, False)
    runs = (hits(False, False, False), hits(True, True, True), hits(True, True, False))
    verdict = summed_verdict(baseline, runs, allowed)
    assert (verdict.lost, verdict.gained, verdict.images, verdict.passed) == (2, 1, 9, passed)


def test_the_file_of_a_trial_holds_its_plan_and_what_the_search_saw(tmp_path: Path) -> None:
    subject, images = subject_of(), float_labelled(FOLDED, toy_images(FOLDED, IMAGES))
    with bench(tmp_path, images) as place:
        trial = tried(place, subject, 4)
    (tmp_path / "a.pt").write_bytes(trial.file)
    file = load(tmp_path / "a.pt")
    assert file.artifact is not None
    assert (file.artifact.plan, file.artifact.seed, file.model) == (trial.plan, 7, FOLDED)
    assert trial.plan == plan_of_width(subject.calibration, 4, "round_to_nearest")
    assert trial.payload_bytes == payload_bytes(toy_network(FOLDED), trial.plan)
    found = measure(file.predictor(), images, divisor=255, batch_size=20)
    assert torch.equal(found.predictions, trial.measurements[0].predictions)
    record = file.artifact.record["search"]
    assert isinstance(record, dict)
    assert (record["split"], record["images"], record["baseline_correct"]) == ("validation", IMAGES, IMAGES)
    assert record["correct"] == found.correct < IMAGES


def test_a_trial_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    subject = subject_of()
    before = {name: tensor.clone() for name, tensor in subject.network.state_dict().items()}
    with bench(tmp_path) as place:
        tried(place, subject, 2)
        size_of_width(place, subject, 2, baseline=measure_float(place, FOLDED, subject.network))
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.network.state_dict().items())


@pytest.mark.parametrize("rounding", ["round_to_nearest", "stochastic_rounding", "logarithmic"])
@pytest.mark.parametrize("bits", [2, 7, 32])
def test_the_size_of_a_width_is_known_without_measuring_and_never_too_small(
    tmp_path: Path, rounding: Rounding, bits: int
) -> None:
    subject = subject_of(rounding=rounding)
    with bench(tmp_path) as place:
        baseline = measure_float(place, subject.model, subject.network)
        before = place.image_forwards_now
        file_bytes, payload = size_of_width(place, subject, bits, baseline=baseline)
        assert place.image_forwards_now == before
        trial = tried(place, subject, bits)
    assert len(trial.file) <= file_bytes <= len(trial.file) + 64
    assert payload == trial.payload_bytes


def test_the_size_of_a_width_allows_for_the_longest_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # zip files grow in steps of 64 bytes, which would hide a record that is a little too short
    monkeypatch.setattr(trials, "artifact_bytes", lambda artifact: json.dumps(artifact.record).encode())
    with bench(tmp_path, float_labelled(FOLDED, toy_images(FOLDED, IMAGES))) as place:
        subject = subject_of()
        baseline = measure_float(place, FOLDED, subject.network)
        file_bytes, _ = size_of_width(place, subject, 32, baseline=baseline)
        assert file_bytes == len(tried(place, subject, 32).file)


def test_a_stopped_measurement_is_not_kept(tmp_path: Path) -> None:
    subject = subject_of()
    before = {name: tensor.clone() for name, tensor in subject.network.state_dict().items()}
    with bench(tmp_path) as place:
        baseline = measure_float(place, FOLDED, subject.network)
        place.stop = lambda: True
        with pytest.raises(StoppedError):
            try_width(place, subject, 3, baseline=baseline, tolerance=tolerance("10"), margin_pct=10)
        assert place.image_forwards_now == IMAGES
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.network.state_dict().items())
    with bench(tmp_path) as place:
        tried(place, subject)
        assert place.image_forwards_now == IMAGES  # the float network was kept, the width was not


def test_a_candidate_is_given_what_keys_its_draws(tmp_path: Path) -> None:
    given: list[Tensor] = []
    images = toy_images(FOLDED, IMAGES)

    def note(candidate: Predict) -> Predict:
        return lambda pixels, indices: (given.append(indices), candidate(pixels, indices))[1]

    with bench(tmp_path, images) as place:
        place.measure(note(Counting()), ("a", 1), "try")
    assert torch.equal(torch.cat(given), images.indices)
