from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_search import IMAGES, by_hand, judged_images, net_loss, toy_bench, toy_subject
from toys import FOLDED, ROUTED, toy_images, toy_network

from qcaps.artifacts.journal import Journal
from qcaps.data.images import ImageSet
from qcaps.evaluation.measure import Measurement, measure, predictor
from qcaps.models.network import Output
from qcaps.progress import Step
from qcaps.quantization.calibration import Calibration
from qcaps.quantization.formats import Rounding
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.search import judging
from qcaps.quantization.search.judging import BATCH, Baseline, Bench, Judgement, margins_of
from qcaps.quantization.search.spending import Ends, Halt, Ledger
from qcaps.quantization.search.subject import Subject

# A busy machine would break a deadline without a reason.
BRIEFLY = settings(deadline=None, max_examples=100)
# Files take their time.
WITH_FILES = settings(deadline=None, max_examples=30)
PLAN = BitPlan("truncation", {}, {})


@dataclasses.dataclass(frozen=True)
class Table:
    """What float and a candidate say of every image: margins of the float network, right or wrong by seed and image."""

    margins: Sequence[float]
    right: Sequence[Sequence[bool]]

    @property
    def float_right(self) -> list[bool]:
        return [margin > 0 for margin in self.margins]

    @property
    def net_loss(self) -> int:
        """Sum lost − gained over the seeds."""
        return sum(before - after for seed in self.right for before, after in zip(self.float_right, seed, strict=True))


@st.composite
def tables(draw: st.DrawFn, most: int = 40) -> Table:
    count = draw(st.integers(1, most))
    # halves, so that margins tie, and every one of them is exact in any precision
    margins = draw(st.lists(st.integers(-6, 6).map(lambda m: (2 * m + 1) / 2), min_size=count, max_size=count))
    one_seed = st.lists(st.booleans(), min_size=count, max_size=count)
    return Table(margins, draw(st.one_of(st.tuples(one_seed), st.tuples(one_seed, one_seed, one_seed))))


def numbered(count: int) -> ImageSet:
    """Make images whose two pixels are their number; all are of class 0."""
    numbers = torch.arange(count)
    pixels = torch.stack([numbers // 256, numbers % 256], 1).view(count, 1, 1, 2).to(torch.uint8)
    return ImageSet("digits", "validation", pixels, torch.zeros(count, dtype=torch.int64), numbers, ("a", "b"))


def scores_of(margins: Sequence[float], indices: torch.Tensor) -> torch.Tensor:
    """Score class 0 so much above class 1."""
    chosen = torch.tensor(margins)[indices]
    return torch.stack([chosen, torch.zeros_like(chosen)], 1)


class FloatStub:
    """A float network whose scores come out of a table."""

    def __init__(self, margins: Sequence[float]) -> None:
        self.margins = margins

    def __call__(self, pixels: torch.Tensor) -> Output:
        numbers = (pixels.flatten(1) * 255 @ torch.tensor([256.0, 1.0])).round().long()
        return Output(scores_of(self.margins, numbers), torch.empty(0))

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}


@contextlib.contextmanager
def judged_by(
    table: Table, block: int, journal: Journal | None = None, line: int = 1
) -> Iterator[tuple[Bench, Subject]]:
    """Open a bench whose candidate answers by a table, after its float pass, with batches of another size."""
    subject = SimpleNamespace(seeds=tuple(range(len(table.right))), seed=0, content=("stub",))

    @contextlib.contextmanager
    def running(_subject: object, _plan: object, _memory: object) -> Iterator[judging.Run]:
        yield lambda _batch, _pixels, indices, seed: scores_of(
            [2.0 * right - 1 for right in table.right[seed]], indices
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "BATCH", block)
        patch.setattr(judging, "LINE", line)
        patch.setattr(judging, "running", running)
        patch.setattr(os, "fsync", lambda _file: None)  # nobody pulls the plug here
        bench = Bench(
            numbered(len(table.margins)),
            divisor=255,
            journal=journal,
            on_progress=lambda step: None,
            ends=Ends(),
        )
        bench.measure_float(FOLDED, FloatStub(table.margins))
        yield bench, subject


def losses_around(table: Table) -> st.SearchStrategy[int]:
    """Draw what may be lost: anything that can make a difference, the true loss and its neighbours above all."""
    count = len(table.margins) * len(table.right)
    return st.one_of(st.integers(-1, 1).map(lambda d: table.net_loss + d), st.integers(-count - 1, count + 1))


@BRIEFLY
@given(st.data(), tables(), st.integers(1, 50))
def test_the_verdict_is_that_of_the_full_evaluation(data: st.DataObject, table: Table, block: int) -> None:
    allowed = data.draw(losses_around(table))
    with judged_by(table, block) as (bench, subject):
        assert bench.judge(subject, PLAN, allowed).passed is (table.net_loss <= allowed)


def outcomes(table: Table, order: Sequence[int], seen: int) -> set[int]:
    """List every net loss there could be once some images are seen, by trying all answers for the others."""
    before = table.float_right
    known = sum(before[i] - seed[i] for seed in table.right for i in order[:seen])
    unseen = [before[i] for i in order[seen:] for _ in table.right]
    found = {known}
    for right in unseen:
        found = {loss + right - answer for loss in found for answer in (False, True)}
    return found


@BRIEFLY
@given(st.data(), tables(most=12), st.integers(1, 5))
def test_judging_stops_at_the_first_batch_that_leaves_no_doubt(data: st.DataObject, table: Table, block: int) -> None:
    allowed = data.draw(losses_around(table))
    with judged_by(table, block) as (bench, subject):
        seen = bench.judge(subject, PLAN, allowed).seen
    order = sorted(range(len(table.margins)), key=lambda i: (table.float_right[i], table.margins[i], i))
    ends = [*range(block, len(order), block), len(order)]
    certain = [end for end in ends if len({loss <= allowed for loss in outcomes(table, order, end)}) == 1]
    assert seen == certain[0]


@BRIEFLY
@given(st.data(), tables(most=60), st.integers(1, 6), st.integers(1, 15))
def test_steering_takes_a_pass_for_granted_once_no_image_was_lost_for_long(
    data: st.DataObject, table: Table, block: int, quiet: int
) -> None:
    allowed = data.draw(losses_around(table))
    with judged_by(table, block) as (bench, subject), pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "QUIET", quiet)
        certain, found = (bench.judge(subject, PLAN, allowed, steering=steering) for steering in (False, True))
    if found.certain:
        assert found == certain
        return
    assert found.passed
    assert found.seen < certain.seen
    assert found.lost - found.gained <= allowed
    order = sorted(range(len(table.margins)), key=lambda i: (table.float_right[i], table.margins[i], i))
    late = order[found.seen - quiet // block * block - block * (quiet % block > 0) : found.seen]
    assert len(late) >= quiet
    assert all(table.float_right[i] and all(seed[i] for seed in table.right) for i in late)


@BRIEFLY
@given(tables(most=60), st.integers(1, 6), st.integers(1, 15))
def test_what_is_certain_does_not_depend_on_steering(table: Table, block: int, quiet: int) -> None:
    with judged_by(table, block) as (bench, subject), pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "QUIET", quiet)
        for allowed in (table.net_loss - 1, table.net_loss):
            bench.judge(subject, PLAN, allowed, steering=True)
            assert bench.judge(subject, PLAN, allowed).passed is (table.net_loss <= allowed)


@BRIEFLY
@given(st.data(), tables(), st.integers(1, 50))
def test_what_was_lost_and_gained_is_counted_among_the_images_seen(
    data: st.DataObject, table: Table, block: int
) -> None:
    with judged_by(table, block) as (bench, subject):
        found = bench.judge(subject, PLAN, data.draw(losses_around(table)))
    order = sorted(range(len(table.margins)), key=lambda i: (table.float_right[i], table.margins[i], i))
    pairs = [(table.float_right[i], seed[i]) for seed in table.right for i in order[: found.seen]]
    assert (found.lost, found.gained) == (pairs.count((True, False)), pairs.count((False, True)))


@BRIEFLY
@given(tables(), st.integers(1, 50))
def test_a_measurement_is_complete_and_in_the_natural_order(table: Table, block: int) -> None:
    with judged_by(table, block) as (bench, subject):
        measured = bench.measure(subject, PLAN)
    assert [m.hits.tolist() for m in measured] == [list(seed) for seed in table.right]


@BRIEFLY
@given(tables(), st.integers(1, 50))
def test_the_float_pass_gives_predictions_and_margins_in_the_natural_order(table: Table, block: int) -> None:
    with judged_by(table, block) as (bench, _):
        baseline = bench.measure_float(FOLDED, FloatStub(table.margins))
    assert baseline.measured.hits.tolist() == table.float_right
    assert baseline.margins.tolist() == list(table.margins)


@WITH_FILES
@given(st.data(), tables(), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 10, 100]))
def test_an_interrupted_judgement_goes_on_where_its_journal_stopped(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, table: Table, block: int, stop_at: int, line: int
) -> None:
    allowed, asked = data.draw(losses_around(table)), itertools.count(1)

    def judged(folder: Path, ends: Ends) -> tuple[Judgement | None, int]:
        """Judge as far as it goes; tell the verdict, and how many images passed a network."""
        found = None
        with (
            Journal.open(folder / "journal.jsonl") as journal,
            judged_by(table, block, journal, line) as (bench, subject),
        ):
            bench.ends = ends
            with contextlib.suppress(Halt):
                found = bench.judge(subject, PLAN, allowed)
            return found, bench.image_forwards_now

    whole, parts = (tmp_path_factory.mktemp(name) for name in ("whole", "parts"))
    expected, forwards = judged(whole, Ends())
    _, before = judged(parts, Ends(lambda: next(asked) >= stop_at))
    found, after = judged(parts, Ends())
    assert found == expected
    assert forwards <= before + after < forwards + len(table.right) * (line + block)
    assert line > 1 or before + after == forwards
    assert (parts / "journal.jsonl").read_bytes() == (whole / "journal.jsonl").read_bytes()
    assert judged(parts, Ends()) == (expected, 0)


@WITH_FILES
@given(st.data(), tables(most=20), st.integers(1, 9))
def test_a_warm_journal_gives_the_ledger_of_a_cold_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, table: Table, block: int
) -> None:
    held = data.draw(st.lists(losses_around(table), min_size=1, max_size=4))
    ledgers: list[Ledger] = []
    folder = tmp_path_factory.mktemp("journal")
    for _ in range(2):
        with Journal.open(folder / "journal.jsonl") as journal, judged_by(table, block, journal) as (bench, subject):
            judgements = [bench.judge(subject, PLAN, allowed) for allowed in held]
            ledgers.append(bench.ledger)
    cold, warm = ledgers
    assert warm == cold
    count, seeds = len(table.margins), len(table.right)
    assert cold.image_forwards == count + seeds * max(judgement.seen for judgement in judgements)
    assert (cold.tests, cold.whole) == (len(held), len(held) * seeds * count)
    assert cold.without_rejection(count) == count + seeds * count
    assert bench.image_forwards_now == 0


def test_several_seeds_are_summed_before_they_are_judged() -> None:
    # two images right in float: lost by the first seed, by no other one; one wrong: gained by the second seed
    table = Table([1.5, 2.5, -0.5], [[False, False, False], [True, True, True], [True, True, False]])
    for allowed, passed in [(0, False), (1, True), (2, True)]:
        with judged_by(table, 3) as (bench, subject):
            assert bench.judge(subject, PLAN, allowed) == Judgement(passed, 2, 1, 3)


def test_a_hopeless_candidate_is_refused_once_so_many_are_lost() -> None:
    # 200 images, all right in float and all lost; six may be lost, so that the seventh decides
    table = Table([1.5] * 200, [[False] * 200])
    with judged_by(table, 1) as (bench, subject):
        assert bench.judge(subject, PLAN, 6) == Judgement(False, 7, 0, 7)


def test_images_that_float_has_wrong_come_first_and_then_those_near_to_it() -> None:
    margins = torch.tensor([3.0, 0.0, -1.0, 0.5, 0.0, 3.0, -2.0])
    predictions = torch.tensor([0, 0, 1, 0, 1, 0, 1])  # with two equal scores it may be right, or wrong
    baseline = Baseline(Measurement(predictions, torch.zeros(7, dtype=torch.int64)), margins)
    assert baseline.order().tolist() == [6, 2, 4, 1, 3, 0, 5]


def test_a_margin_is_the_score_of_the_label_above_the_largest_other_one() -> None:
    scores = torch.tensor([[0.9, 0.2, 0.5], [0.9, 0.2, 0.5], [0.9, 0.2, 0.5], [0.7, 0.7, 0.1]])
    expected = torch.tensor([0.4, -0.7, -0.4, 0.0])
    assert torch.allclose(margins_of(scores, torch.tensor([0, 1, 2, 0])), expected)


# ---- A toy network instead of a table


@pytest.mark.parametrize("rounding", ["round_to_nearest", "truncation", "logarithmic", "stochastic_rounding"])
@pytest.mark.parametrize("bits", [3, 5])
def test_a_judgement_is_that_of_the_plan_applied_by_hand(rounding: Rounding, bits: int) -> None:
    subject, images = toy_subject(rounding=rounding), judged_images()
    plan = subject.common_width(bits)
    before = measure(predictor(toy_network(ROUTED)), images, divisor=255, batch_size=50).predictions
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
    # both are run with the seeds 8 and 9, which draw the arrays
    one, other = (toy_subject(rounding="stochastic_rounding", seed=seed) for seed in (7, 8))
    with toy_bench(tmp_path) as bench:
        bench.measure_float(ROUTED, one.network)
        for subject in (one, other):
            bench.measure(subject, subject.common_width(3))
        assert bench.image_forwards_now == (1 + 3 + 3) * IMAGES


def with_one_pixel(images: ImageSet) -> ImageSet:
    pixels = images.pixels.clone()
    pixels[-1, 0, -1, -1] ^= 1
    return dataclasses.replace(images, pixels=pixels)


@pytest.mark.parametrize(
    ("images", "divisor"),
    [
        (judged_images(), 256),
        (judged_images().subset(torch.arange(IMAGES - 1)), 255),
        (with_one_pixel(judged_images()), 255),
        (dataclasses.replace(judged_images(), indices=judged_images().indices + 1), 255),
    ],
    ids=["divisor", "fewer", "pixel", "indices"],
)
def test_other_images_or_another_scaling_are_run(tmp_path: Path, images: ImageSet, divisor: int) -> None:
    assert forwards_of(tmp_path, judged_images(), 255) == 2 * IMAGES
    assert forwards_of(tmp_path, images, divisor) == 2 * len(images)
    assert forwards_of(tmp_path, images, divisor) == forwards_of(tmp_path, judged_images(), 255) == 0


def test_images_in_another_order_are_judged_in_the_same_one(tmp_path: Path) -> None:
    turned = judged_images().subset(torch.arange(IMAGES).flip(0))
    assert forwards_of(tmp_path) == 2 * IMAGES
    assert forwards_of(tmp_path, turned) == IMAGES  # the float network alone


def test_other_numerics_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert forwards_of(tmp_path) == 2 * IMAGES
    monkeypatch.setattr(judging, "NUMERICS_VERSION", judging.NUMERICS_VERSION + 1)
    assert forwards_of(tmp_path) == 2 * IMAGES


def forwards_of(folder: Path, images: ImageSet | None = None, divisor: int = 255) -> int:
    """Measure the float network and a candidate; count the images that passed a network."""
    subject = toy_subject()
    with toy_bench(folder, images, divisor=divisor) as bench:
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
