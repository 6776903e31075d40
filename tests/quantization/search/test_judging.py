from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import FOLDED

from qcaps.artifacts.journal import Journal
from qcaps.data.images import ImageSet
from qcaps.evaluation.ends import Ends, Halt
from qcaps.evaluation.measure import Measurement
from qcaps.models.network import Output
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.search import judging
from qcaps.quantization.search.judging import Baseline, Bench, Judgement, margins_of
from qcaps.quantization.search.spending import Ledger
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
