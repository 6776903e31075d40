"""The bench on toy networks: what it runs, what it knows already, and where it ends."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from toy_search import IMAGES, by_hand, judged_images, net_loss, toy_bench, toy_subject
from toys import FOLDED, ROUTED, toy_images, toy_network

from qcaps.data.images import ImageSet
from qcaps.data.preparation import Preparation
from qcaps.evaluation.ends import Ends, Halt
from qcaps.evaluation.measure import measure, predictor
from qcaps.progress import Step
from qcaps.quantization.calibration import Calibration
from qcaps.quantization.formats import Rounding
from qcaps.quantization.search import judging
from qcaps.quantization.search.judging import BATCH
from qcaps.quantization.search.subject import Subject


@pytest.mark.parametrize("rounding", ["round_to_nearest", "truncation", "logarithmic", "stochastic_rounding"])
@pytest.mark.parametrize("bits", [3, 5])
def test_a_judgement_is_that_of_the_plan_applied_by_hand(rounding: Rounding, bits: int) -> None:
    subject, images = toy_subject(rounding=rounding), judged_images()
    plan = subject.common_width(bits)
    before = measure(predictor(toy_network(ROUTED)), images, batch_size=50).predictions
    loss = sum(net_loss(images.labels, before, by_hand(subject, images, plan, seed)) for seed in subject.seeds)
    with toy_bench() as bench:
        bench.measure_float(ROUTED, subject.network)
        for allowed in (0, loss - 1, loss, loss + 1, 40):
            assert bench.judge(subject, plan, allowed).passed is (loss <= allowed)
        measured = bench.measure(subject, plan)
    assert [m.predictions.tolist() for m in measured] == [
        by_hand(subject, images, plan, seed).tolist() for seed in subject.seeds
    ]
    assert loss > 0


def test_the_float_width_loses_nothing() -> None:
    subject = toy_subject()
    with toy_bench() as bench:
        bench.measure_float(ROUTED, subject.network)
        found = bench.judge(subject, subject.common_width(32), 0)
    assert (found.passed, found.lost, found.gained) == (True, 0, 0)


def test_only_the_first_seed_rounds_the_weights() -> None:
    subject = toy_subject(rounding="stochastic_rounding")
    plan = subject.common_width(32)
    weights = {site: subject.format(site, 3) for site in plan.weights}
    with toy_bench() as bench:
        bench.measure_float(ROUTED, subject.network)
        measured = bench.measure(subject, dataclasses.replace(plan, weights=weights))
    assert len({tuple(m.predictions.tolist()) for m in measured}) == 1
    assert measured[0].correct < IMAGES - IMAGES // 10


@pytest.mark.parametrize("rounding", ["round_to_nearest", "stochastic_rounding"])
@pytest.mark.parametrize("batch", [1, 7])
def test_predictions_do_not_depend_on_where_batches_are_cut(
    rounding: Rounding, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = judged_images(count=40)

    def predictions() -> list[list[int]]:
        subject = toy_subject(rounding=rounding)
        with toy_bench(images=images) as bench:
            bench.measure_float(ROUTED, subject.network)
            return [m.predictions.tolist() for m in bench.measure(subject, subject.common_width(4))]

    expected = predictions()
    monkeypatch.setattr(judging, "BATCH", batch)
    assert predictions() == expected


def test_the_order_of_images_changes_no_prediction() -> None:
    subject, images = toy_subject(rounding="stochastic_rounding"), judged_images()
    turned = images.subset(torch.arange(len(images)).flip(0))
    with toy_bench(images=images) as bench, toy_bench(images=turned) as other:
        there, back = (place.measure(subject, subject.common_width(3)) for place in (bench, other))
    assert [m.predictions.tolist() for m in there] == [m.predictions.flip(0).tolist() for m in back]


def test_judging_does_not_depend_on_the_candidates_before(tmp_path: Path) -> None:
    subject = toy_subject(rounding="stochastic_rounding")
    with toy_bench(tmp_path, memory_bytes=10**9) as bench:
        bench.measure_float(ROUTED, subject.network)
        for bits in (8, 2):
            bench.judge(subject, subject.common_width(bits), 3)
        late = bench.judge(subject, subject.common_width(4), 9)
    fresh = toy_subject(rounding="stochastic_rounding")
    with toy_bench() as bench:
        bench.measure_float(ROUTED, fresh.network)
        assert bench.judge(fresh, fresh.common_width(4), 9) == late


def test_a_second_float_pass_starts_from_the_natural_order() -> None:
    subject = toy_subject()
    with toy_bench(memory_bytes=10**9) as bench:
        early = bench.measure(subject, subject.common_width(4))
        first = bench.measure_float(ROUTED, subject.network)
        late = bench.measure(subject, subject.common_width(4))
        second = bench.measure_float(ROUTED, subject.network)
    assert torch.equal(first.measured.predictions, second.measured.predictions)
    assert torch.equal(first.margins, second.margins)
    assert torch.equal(early[0].predictions, late[0].predictions)


def test_every_image_counts_once_for_the_float_network_and_once_for_every_seed() -> None:
    subject = toy_subject(rounding="stochastic_rounding")
    with toy_bench() as bench:
        bench.measure_float(ROUTED, subject.network)
        assert bench.image_forwards_now == IMAGES
        bench.measure(subject, subject.common_width(3))
        assert bench.image_forwards_now == 4 * IMAGES
        assert bench.ledger.image_forwards == 4 * IMAGES


def with_weight(subject: Subject) -> Subject:
    network = toy_network(subject.model)
    network.stages["class_caps"].weight[0, 0, 0, 0] += 1.0
    return dataclasses.replace(subject, network=network)


def with_arrays(subject: Subject) -> Subject:
    """Give the arrays a range sixteen times as wide; the weights round as before."""
    ranges = subject.calibration
    wide = {
        site: dataclasses.replace(found, largest=16 * found.largest, sample=16 * found.sample)
        for site, found in ranges.arrays.items()
    }
    return dataclasses.replace(subject, calibration=Calibration(ranges.weights, wide))


@pytest.mark.parametrize(
    "other",
    [
        with_weight(toy_subject()),
        with_arrays(toy_subject()),
        toy_subject(seed=8),
        toy_subject(rounding="truncation"),
        toy_subject(per_channel=True),
        dataclasses.replace(toy_subject(), model=dataclasses.replace(ROUTED, squash_eps=0.5)),
    ],
    ids=["weight", "arrays", "seed", "rounding", "channels", "spec"],
)
def test_another_weight_plan_seed_or_spec_is_run(tmp_path: Path, other: Subject) -> None:
    subject = toy_subject()
    with toy_bench(tmp_path) as bench:
        bench.measure_float(ROUTED, subject.network)
        for candidate in (subject, other, subject, other):
            bench.measure(candidate, candidate.common_width(3))
        assert bench.image_forwards_now == 3 * IMAGES


def test_the_seed_of_the_weights_tells_candidates_apart(tmp_path: Path) -> None:
    # both draw their arrays with the seeds 8 and 9
    one, other = (toy_subject(rounding="stochastic_rounding", seed=seed) for seed in (7, 8))
    plan = one.common_width(2)
    with toy_bench(tmp_path) as bench:
        bench.measure_float(ROUTED, one.network)
        bench.measure(one, plan)
        measured = bench.measure(other, plan)
    for seed, found in zip((8, 9, 10), measured, strict=True):
        assert torch.equal(found.predictions, by_hand(other, judged_images(), plan, seed))


def with_one_pixel(images: ImageSet) -> ImageSet:
    pixels = images.pixels.clone()
    pixels[-1, 0, -1, -1] ^= 1
    return dataclasses.replace(images, pixels=pixels)


@pytest.mark.parametrize(
    "images",
    [
        dataclasses.replace(judged_images(), preparation=Preparation(256)),
        judged_images().subset(torch.arange(IMAGES - 1)),
        with_one_pixel(judged_images()),
        dataclasses.replace(judged_images(), indices=judged_images().indices + 1),
    ],
    ids=["divisor", "fewer", "pixel", "indices"],
)
def test_other_images_or_another_scaling_are_run(tmp_path: Path, images: ImageSet) -> None:
    assert forwards_of(tmp_path, judged_images()) == 2 * IMAGES
    assert forwards_of(tmp_path, images) == 2 * len(images)
    assert forwards_of(tmp_path, images) == forwards_of(tmp_path, judged_images()) == 0


def test_images_in_another_order_are_judged_in_the_same_one(tmp_path: Path) -> None:
    turned = judged_images().subset(torch.arange(IMAGES).flip(0))
    assert forwards_of(tmp_path) == 2 * IMAGES
    assert forwards_of(tmp_path, turned) == IMAGES  # the float network alone


def test_other_numerics_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert forwards_of(tmp_path) == 2 * IMAGES
    monkeypatch.setattr(judging, "NUMERICS_VERSION", judging.NUMERICS_VERSION + 1)
    assert forwards_of(tmp_path) == 2 * IMAGES


def forwards_of(folder: Path, images: ImageSet | None = None) -> int:
    """Measure the float network and a candidate; count the images that passed a network."""
    subject = toy_subject()
    with toy_bench(folder, images) as bench:
        bench.measure_float(ROUTED, subject.network)
        bench.measure(subject, subject.common_width(3))
        return bench.image_forwards_now


def test_the_same_float_numbers_under_another_spec_are_run(tmp_path: Path) -> None:
    fewer = dataclasses.replace(ROUTED, routing_passes=1)
    with toy_bench(tmp_path) as bench:
        for spec in (ROUTED, fewer, ROUTED):
            bench.measure_float(spec, toy_network(spec))
        assert bench.image_forwards_now == 2 * IMAGES


def test_the_bench_tells_what_it_runs(tmp_path: Path) -> None:
    steps: list[Step] = []
    subject = toy_subject()
    with toy_bench(tmp_path, on_progress=steps.append) as bench:
        bench.measure_float(ROUTED, subject.network)
        bench.measure(subject, subject.common_width(4), "try 4 bits")
        bench.judge(subject, subject.common_width(4), 3, "try again")  # all of it is known
    expected = [(phase, done) for phase in ("float network", "try 4 bits") for done in (64, 128, IMAGES)]
    assert [(step.phase, step.done) for step in steps] == expected
    assert {step.total for step in steps} == {IMAGES}


@pytest.mark.parametrize("limit", [1, IMAGES, IMAGES + 1, IMAGES + BATCH, IMAGES + BATCH + 1, 2 * IMAGES])
def test_a_limit_of_image_forwards_ends_at_the_first_batch_that_reaches_it(limit: int, tmp_path: Path) -> None:
    subject = toy_subject()
    for _ in range(2):  # what the journal knows counts as well
        with toy_bench(tmp_path) as bench:
            bench.measure_float(ROUTED, subject.network)
            bench.ends = Ends(image_forwards=limit)
            if limit > IMAGES + 2 * BATCH:
                bench.measure(subject, subject.common_width(4))
                continue
            with pytest.raises(Halt, match="limit of image-forwards"):
                bench.measure(subject, subject.common_width(4))
            batches = max(0, math.ceil((limit - IMAGES) / BATCH))
            assert bench.ledger.image_forwards == IMAGES + batches * BATCH


def test_time_runs_out_between_two_batches() -> None:
    clock = iter(range(100))
    subject = toy_subject()
    with toy_bench(ends=Ends(seconds=4, clock=lambda: next(clock))) as bench:
        bench.measure_float(ROUTED, subject.network)
        with pytest.raises(Halt, match="time budget"):
            bench.measure(subject, subject.common_width(4))
        assert bench.image_forwards_now == IMAGES + 2 * BATCH


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_exception_leaves_the_float_network_as_it_was_and_keeps_what_was_measured(
    tmp_path: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "LINE", BATCH)
    subject = toy_subject(FOLDED)
    images = toy_images(FOLDED, IMAGES)
    before = {name: tensor.clone() for name, tensor in subject.network.state_dict().items()}

    def fail(step: Step) -> None:
        if step.done == 2 * BATCH:
            raise error

    with toy_bench(tmp_path, images) as bench:
        bench.measure_float(FOLDED, subject.network)
        bench.on_progress = fail
        with pytest.raises(error):
            bench.measure(subject, subject.common_width(2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.network.state_dict().items())
    with toy_bench(tmp_path, images) as bench:
        bench.measure_float(FOLDED, subject.network)
        bench.measure(subject, subject.common_width(2))
        assert bench.image_forwards_now == IMAGES - BATCH


def test_a_killed_run_loses_a_line_of_the_journal_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "LINE", BATCH)
    subject = toy_subject()
    held: list[bytes] = []
    with toy_bench(tmp_path) as bench:
        bench.measure_float(ROUTED, subject.network)
        bench.on_progress = lambda _step: held.append((tmp_path / "journal.jsonl").read_bytes())
        bench.measure(subject, subject.common_width(3))
    for number, data in enumerate(held):  # as the file stood when a batch was told
        (tmp_path / "journal.jsonl").write_bytes(data)
        with toy_bench(tmp_path) as bench:
            bench.measure_float(ROUTED, subject.network)
            bench.measure(subject, subject.common_width(3))
            assert bench.image_forwards_now == IMAGES - number * BATCH
    assert len(held) == 3


def test_negative_margins_come_out_of_the_journal_as_they_went_in(tmp_path: Path) -> None:
    subject = toy_subject()
    with toy_bench(tmp_path) as bench:
        cold = bench.measure_float(ROUTED, subject.network)
    with toy_bench(tmp_path) as bench:
        warm = bench.measure_float(ROUTED, subject.network)
        assert bench.image_forwards_now == 0
    assert torch.equal(cold.margins, warm.margins)
    assert cold.margins.min() < 0 < cold.margins.max()
    assert torch.equal(cold.margins > 0, cold.measured.hits)
