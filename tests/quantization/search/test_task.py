"""Whole searches: on made-up rules where only the course matters, on a toy network where the verdicts do."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from toy_search import (
    IMAGES,
    MadeUpBench,
    by_hand,
    judged_images,
    made_up_task,
    net_loss,
    never_run,
    toy_bench,
    toy_subject,
    toy_task,
)
from toys import FOLDED, ROUTED, toy_network

from qcaps.evaluation.ends import INTERRUPT, Ends, Halt
from qcaps.evaluation.measure import measure, predictor
from qcaps.evaluation.tolerance import Tolerance
from qcaps.models.spec import ModelSpec
from qcaps.progress import Step
from qcaps.quantization.formats import Rounding
from qcaps.quantization.limits import Limits
from qcaps.quantization.loading import load
from qcaps.quantization.plan import plan_to_dict
from qcaps.quantization.search import judging, pareto
from qcaps.quantization.search.common_width import search_common_width
from qcaps.quantization.search.groups import Widths
from qcaps.quantization.search.pareto import search_pareto
from qcaps.quantization.search.spending import Ledger
from qcaps.quantization.search.subject import Subject
from qcaps.quantization.search.task import Found, Search, Task, run_search
from qcaps.quantization.search.trial import file_bytes
from qcaps.verbs.quantize_job import _overhead

SEARCHES = {"pareto": search_pareto, "common width": search_common_width}
both_searches = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


@pytest.fixture(autouse=True)
def _soon_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pass be likely after one batch without a loss, and write a line for every one, since images are few."""
    monkeypatch.setattr(judging, "QUIET", 64)
    monkeypatch.setattr(judging, "LINE", 64)
    monkeypatch.setattr(os, "fsync", lambda _file: None)  # nobody pulls the plug here


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a search on a toy network gave and spent."""

    found: Found
    ledger: Ledger
    forwards: int

    @property
    def course(self) -> list[tuple[object, ...]]:
        """List what was tried, and said of it."""
        return [(t.phase, tuple(t.widths.items()), t.judgement) for t in self.found.tried]

    @property
    def files(self) -> dict[str, bytes]:
        return {name: trial.file for name, trial in self.found.by_file().items()}


def searched(
    folder: Path | None = None,
    search: Search = search_pareto,
    *,
    ends: Ends | None = None,
    on_progress: Callable[[Step], None] = lambda step: None,
    memory_bytes: int = 0,
    spec: ModelSpec = ROUTED,
    rounding: Rounding = "round_to_nearest",
    allowed: int = 8,
    **options: object,
) -> Result:
    """Search for the toy network of a spec, with an own ledger as `qcaps quantize` has it."""
    with toy_bench(folder, judged_images(spec), memory_bytes=memory_bytes, on_progress=on_progress) as bench:
        task = toy_task(bench, toy_subject(spec, rounding), allowed=allowed, **options)
        bench.ends = ends or Ends()
        found = run_search(search, task)
        return Result(found, bench.ledger, bench.image_forwards_now)


@functools.cache
def undisturbed(search: Search = search_pareto) -> tuple[Result, int]:
    """Search to the end; tell also how often it was asked whether to go on."""
    asked = itertools.count()
    whole = searched(search=search, ends=Ends(lambda: next(asked) < 0))
    return whole, next(asked)


def losses(subject: Subject, widths: Widths) -> int:
    """Give the net loss of a candidate on all images, without any bench."""
    images, plan = judged_images(subject.model), subject.plan(widths)
    before = float_predictions(subject.model)
    return sum(net_loss(images.labels, before, by_hand(subject, images, plan, seed)) for seed in subject.seeds)


@functools.cache
def float_predictions(spec: ModelSpec) -> torch.Tensor:
    return measure(predictor(toy_network(spec)), judged_images(spec), batch_size=50).predictions


@pytest.mark.parametrize(
    ("spec", "rounding", "allowed"),
    [
        (ROUTED, "round_to_nearest", 8),
        (ROUTED, "round_to_nearest", 4),
        (FOLDED, "round_to_nearest", 8),
        (ROUTED, "truncation", 20),
        (ROUTED, "stochastic_rounding", 24),
    ],
)
def test_every_verdict_of_a_search_is_that_of_a_complete_evaluation(
    spec: ModelSpec, rounding: Rounding, allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pareto, "TRUSTED", 10.0)  # for plans that fail to be tried
    found = searched(spec=spec, rounding=rounding, allowed=allowed, memory_bytes=10**8).found
    subject = toy_subject(spec, rounding)
    certain = [tried for tried in found.tried if tried.judgement.certain]
    for tried in certain:
        assert tried.judgement.passed is (losses(subject, tried.widths) <= allowed)
    assert {tried.judgement.passed for tried in certain} == {True, False}
    assert any(tried.judgement.seen < IMAGES for tried in certain)
    assert all(tried.judgement.passed for tried in found.tried if not tried.judgement.certain)
    assert found.satisfied.verdict.lost - found.satisfied.verdict.gained <= allowed


@both_searches
def test_a_second_search_runs_nothing_and_says_the_same(search: Search, tmp_path: Path) -> None:
    cold, warm = (searched(tmp_path, search) for _ in range(2))
    assert (warm.course, warm.files, warm.ledger) == (cold.course, cold.files, cold.ledger)
    assert (warm.forwards, cold.forwards > IMAGES) == (0, True)


def test_memory_changes_nothing_but_the_time() -> None:
    without, _ = undisturbed()
    tight, roomy = (searched(memory_bytes=size) for size in (200_000, 10**9))
    assert without.course == tight.course == roomy.course
    assert without.files == tight.files == roomy.files


def test_another_tolerance_in_between_changes_nothing(tmp_path: Path) -> None:
    alone = searched(allowed=3)
    for allowed in (20, 0):
        searched(tmp_path, allowed=allowed)
    after = searched(tmp_path, allowed=3)
    assert (after.course, after.files, after.ledger) == (alone.course, alone.files, alone.ledger)
    assert after.forwards < alone.forwards / 2


@contextmanager
def noted_runs() -> Iterator[list[tuple[str, int, int]]]:
    """Note which batch of which plan runs with which seed."""
    ran: list[tuple[str, int, int]] = []
    real = judging.running

    @contextmanager
    def running(subject, plan, memory):
        with real(subject, plan, memory) as run:
            yield (
                lambda batch, pixels, indices, seed: (
                    ran.append((repr(plan_to_dict(plan)), batch, seed)) or run(batch, pixels, indices, seed)
                )
            )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "running", running)
        yield ran


@pytest.mark.parametrize(
    ("search", "share"),
    [*((search_pareto, share) for share in (0, 0.03, 0.6, 0.75, 0.9, 1)), (search_common_width, 0.3)],
)
def test_a_search_that_was_interrupted_goes_on_to_the_same_end(search: Search, share: float, tmp_path: Path) -> None:
    whole, asked = undisturbed(search)
    count = itertools.count()
    with noted_runs() as ran:
        stopped = searched(tmp_path, search, ends=Ends(lambda: next(count) >= share * asked))
        resumed = searched(tmp_path, search)
    assert stopped.found.stopped == (INTERRUPT if share < 1 else "")
    assert (resumed.course, resumed.files, resumed.ledger) == (whole.course, whole.files, whole.ledger)
    assert resumed.found.stopped == ""
    assert len(ran) == len(set(ran))  # no batch of a plan twice


@functools.cache
def journals() -> tuple[bytes, ...]:
    """Search with a journal; give the file as it stood at every step."""
    held: list[bytes] = []
    with tempfile.TemporaryDirectory() as name:
        journal = Path(name) / "journal.jsonl"
        searched(Path(name), on_progress=lambda _step: held.append(journal.read_bytes()))
    return tuple(held)


@pytest.mark.parametrize("share", [0, 0.05, 0.6, 0.9])
def test_a_search_that_was_killed_goes_on_to_the_same_end(share: float, tmp_path: Path) -> None:
    whole, _ = undisturbed()
    held = journals()[int(share * len(journals()))]
    (tmp_path / "journal.jsonl").write_bytes(held[:-3])  # in the middle of a line
    resumed = searched(tmp_path)
    assert (resumed.course, resumed.files, resumed.ledger) == (whole.course, whole.files, whole.ledger)
    assert resumed.forwards < whole.forwards or share == 0


@pytest.mark.parametrize("share", [0.0001, 0.3, 0.8, 0.95])
def test_a_limit_of_image_forwards_ends_with_the_best_so_far(share: float, tmp_path: Path) -> None:
    whole, _ = undisturbed()
    limit = Ends(image_forwards=share * whole.ledger.image_forwards)
    ended = [searched(tmp_path, ends=limit) for _ in range(2)]  # what is known counts as well
    assert ended[0].course == ended[1].course
    assert ended[0].found.stopped == ended[1].found.stopped == "limit of image-forwards"
    # up to the limit the course is that of the whole search; then what seems to pass is made certain
    course = list(itertools.takewhile(lambda step: step[0] != "make certain", ended[0].course))
    assert course == whole.course[: len(course)]
    assert len(course) < len(whole.course)
    check_best_so_far(ended[0].found)


@pytest.mark.parametrize("share", [0, 0.5, 0.95, 1.1])
def test_a_time_budget_ends_with_the_best_so_far(share: float) -> None:
    clock, (_, asked) = itertools.count(), undisturbed()
    found = searched(ends=Ends(seconds=share * asked, clock=lambda: float(next(clock)))).found
    assert found.stopped == ("time budget" if share < 1 else "")
    check_best_so_far(found)


def check_best_so_far(found: Found) -> None:
    """Hold what was found against what was tried."""
    with toy_bench() as bench:
        task = toy_task(bench)
    passed = [t.widths for t in found.tried if t.judgement.passed and t.judgement.certain]
    if passed:
        assert task.objective(found.satisfied.widths) == min(map(task.objective, passed))
        assert found.satisfied.verdict.passed
    else:
        assert found.by_file() == {}


@both_searches
def test_pins_are_kept_by_every_plan(search: Search) -> None:
    with toy_bench() as bench:
        task = toy_task(bench, widths=(2, 4, 8))
        task.widths = {**task.widths, "conv1.weight": (7,), "class_caps.sum@2": (5,), "conv1.out": (32,)}
        found = run_search(search, task)
    plans = [*(tried.widths for tried in found.tried), *(trial.widths for trial in found.by_file().values())]
    assert plans
    for widths in plans:
        assert (widths["conv1.weight"], widths["class_caps.sum@2"], widths["conv1.out"]) == (7, 5, 32)
        assert all(bits in task.widths[site] for site, bits in widths.items())


def on_files(task: Task, budget: int) -> Task:
    """Give a task a budget of file bytes."""
    limits = Limits(Tolerance(Decimal(5)), budget, "file")
    return dataclasses.replace(task, limits=limits, overhead_bytes=_overhead(task))


@both_searches
def test_no_file_exceeds_its_budget(search: Search, tmp_path: Path) -> None:
    with toy_bench(tmp_path) as bench:
        task = toy_task(bench)
        widths = dict.fromkeys(task.subject.sites, 2)
        smallest = file_bytes(bench, task.subject, task.subject.plan(widths))
        kinds = set()
        for extra in (0, 1, 300, 1000, 3000):
            found = run_search(search, on_files(toy_task(bench), smallest + extra))
            kinds |= set(found.by_file())
            for name, trial in found.by_file().items():
                assert len(trial.file) <= smallest + extra or name == "accuracy.pt"
                assert trial.verdict.passed or name == "memory.pt"
    assert kinds == {"satisfied.pt", "memory.pt", "accuracy.pt"}


@both_searches
def test_the_smallest_file_is_a_budget_that_can_be_kept(search: Search) -> None:
    with toy_bench() as bench:
        task = toy_task(bench, allowed=IMAGES)
        widths = dict.fromkeys(task.subject.sites, 2)
        smallest = file_bytes(bench, task.subject, task.subject.plan(widths))
        found = run_search(search, on_files(task, smallest))
    assert found.satisfied.widths == widths
    assert smallest - 64 <= len(found.satisfied.file) <= smallest


@pytest.mark.parametrize("budget", [400, 700, 1100])
def test_activations_stay_within_their_budget(budget: int) -> None:
    found = searched(activation_budget=budget).found
    assert (found.satisfied or found.memory).activation_bytes <= budget
    assert found.satisfied is not None or found.accuracy.verdict.passed


@both_searches
def test_a_search_leaves_the_network_as_it_was(search: Search) -> None:
    subject = toy_subject(FOLDED, "stochastic_rounding")
    before = {name: tensor.clone() for name, tensor in subject.network.state_dict().items()}
    with toy_bench(images=judged_images(FOLDED), memory_bytes=10**8) as bench:
        run_search(search, toy_task(bench, subject, widths=(4, 8)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.network.state_dict().items())


def test_the_common_width_is_the_smallest_that_a_complete_evaluation_lets_pass() -> None:
    found = searched(search=search_common_width, widths=range(2, 9)).found
    subject = toy_subject()
    passing = [losses(subject, dict.fromkeys(subject.sites, bits)) <= 8 for bits in range(2, 9)]
    assert passing == sorted(passing)
    assert set(found.satisfied.widths.values()) == {2 + passing.index(True)}


def test_files_hold_what_the_search_judged(tmp_path: Path) -> None:
    found = searched(rounding="stochastic_rounding", allowed=15).found
    (tmp_path / "a.pt").write_bytes(found.satisfied.file)
    file = load(tmp_path / "a.pt")
    for seed, measured in zip((7, 8, 9), found.satisfied.measurements, strict=True):
        again = measure(file.predictor(seed=seed), judged_images(), batch_size=50)
        assert torch.equal(again.predictions, measured.predictions)


def test_the_record_tells_sizes_scores_and_verdicts() -> None:
    found = undisturbed()[0].found
    with toy_bench() as bench:
        task = toy_task(bench)
    subject = task.subject
    for tried in found.tried:
        assert tried.payload_bytes == subject.payload_bytes(tried.widths)
        assert tried.activation_bytes == subject.activation_bytes(tried.widths)
        assert tried.allowed == 8
        if tried.phase != "make certain":
            groups = task.groups
            assert tried.score == pytest.approx(sum(found.scores[g.name][tried.widths[g.sites[0]]] for g in groups))


# ---- Made-up rules


def judged(task: Task, widths: Widths, **options: object) -> bool:
    return task.judge({**dict.fromkeys(task.subject.sites, 8), **widths}, "try", **options)


def test_the_smallest_that_passed_for_certain_is_kept() -> None:
    task = made_up_task(MadeUpBench(lambda widths: widths["a.out"] > 2))
    for bits in (6, 4, 2, 8):
        judged(task, {"a.out": bits})
    assert (task.best["a.out"], task.smallest["a.out"]) == (4, 4)


def test_what_exceeds_a_budget_is_smallest_but_not_best() -> None:
    limits = Limits(Tolerance(Decimal(5)), None, "payload", 3000)
    task = made_up_task(MadeUpBench(lambda widths: True), limits=limits)
    judged(task, {"b.weight": 2})
    assert (task.best, task.smallest["b.weight"]) == (None, 2)
    judged(task, {"c.votes": 3})
    assert (task.best["c.votes"], task.smallest["b.weight"]) == (3, 2)


def test_a_pass_that_only_steers_is_promising_until_it_is_certain() -> None:
    task = made_up_task(MadeUpBench(lambda widths: widths["a.out"] > 3, lambda widths: True))
    for bits in (8, 6, 4, 3, 2):
        assert judged(task, {"a.out": bits}, steering=True)
    assert (task.best, len(task.promising)) == (None, 5)
    task.make_certain()
    assert task.best["a.out"] == 4
    assert [(t.phase, t.widths["a.out"]) for t in task.tried[5:]] == [("make certain", b) for b in (2, 3, 4)]
    assert task.promising == []


def test_a_pass_under_a_wider_allowance_is_not_kept() -> None:
    task = made_up_task(MadeUpBench(lambda widths: True))
    assert judged(task, {}, allowed=9)
    assert (task.best, task.smallest) == (None, None)
    assert judged(task, {}, allowed=7)
    assert task.best is not None


def test_a_search_that_is_ended_before_anything_passed_finds_nothing() -> None:
    task = made_up_task(MadeUpBench(lambda widths: True, ends=Ends(lambda: True)))
    with never_run():
        found = run_search(search_pareto, task)
    assert (found.by_file(), found.stopped, found.tried) == ({}, INTERRUPT, ())


def test_what_seemed_to_pass_is_made_certain_when_a_search_is_ended() -> None:
    task = made_up_task(MadeUpBench(lambda widths: widths["a.out"] > 3, lambda widths: True))

    def search(task: Task) -> Found:
        for bits in (8, 6, 3):
            judged(task, {"a.out": bits}, steering=True)
        raise Halt("time budget")

    with never_run():
        found = run_search(search, task)
    assert (found.satisfied.widths["a.out"], found.stopped) == (6, "time budget")


def test_what_passed_but_exceeds_a_budget_is_given_when_a_search_is_ended() -> None:
    limits = Limits(Tolerance(Decimal(5)), 3000, "payload")
    task = made_up_task(MadeUpBench(lambda widths: True), limits=limits)

    def search(task: Task) -> Found:
        judged(task, {"b.weight": 6})
        raise Halt("time budget")

    with never_run():
        found = run_search(search, task)
    assert (list(found.by_file()), found.accuracy.widths["b.weight"]) == (["accuracy.pt"], 6)


def test_ends_hold_again_after_a_search_was_ended() -> None:
    ends = Ends(lambda: True)
    with toy_bench() as bench:
        task = toy_task(bench)
        bench.ends = ends
        run_search(search_pareto, task)
        assert bench.ends is ends


def test_results_have_the_names_that_q_capsnets_gives_its_files() -> None:
    found = searched(memory_budget=650).found
    assert list(found.by_file()) == ["memory.pt", "accuracy.pt"]
    assert list(undisturbed()[0].found.by_file()) == ["satisfied.pt"]
