"""Searches on toy networks: what they quantize, and where they are judged."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from toys import ROUTED, echo_network, toy_images, toy_network

from qcaps.artifacts.journal import Journal
from qcaps.data.images import ImageSet
from qcaps.data.spec import data_spec
from qcaps.evaluation.ends import Ends, Halt
from qcaps.evaluation.measure import Measurement, measure, predictor
from qcaps.evaluation.tolerance import Tolerance
from qcaps.models.network import CapsuleNetwork
from qcaps.models.spec import ModelSpec
from qcaps.progress import OnProgress, silent
from qcaps.quantization.applying import ArrayRounder, round_weights, weights_replaced
from qcaps.quantization.calibration import Calibration, SiteRange, calibrate
from qcaps.quantization.formats import Rounding
from qcaps.quantization.limits import Limits
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.search import pareto
from qcaps.quantization.search import task as task_module
from qcaps.quantization.search.groups import Group, Widths
from qcaps.quantization.search.judging import Baseline, Bench, Judgement
from qcaps.quantization.search.subject import Subject
from qcaps.quantization.search.task import Task

# Two whole batches and a part of a third.
IMAGES = 150
# Every tenth image is one that the float network has wrong.
WRONG = 10


@functools.cache
def judged_images(spec: ModelSpec = ROUTED, count: int = IMAGES) -> ImageSet:
    """Draw images labelled as the toy network sees them, but for every tenth."""
    images = toy_images(spec, count)
    labels = measure(predictor(toy_network(spec)), images, batch_size=count).predictions
    labels[::WRONG] = (labels[::WRONG] + 1) % spec.classes
    return dataclasses.replace(images, labels=labels)


@functools.cache
def toy_calibration(spec: ModelSpec = ROUTED) -> Calibration:
    """Calibrate the toy network on other images."""
    return calibrate(toy_network(spec), toy_images(spec, split="train"), batch_size=20, seed=0)


def toy_subject(
    spec: ModelSpec = ROUTED, rounding: Rounding = "round_to_nearest", *, seed: int = 7, per_channel: bool = False
) -> Subject:
    """Make what a search quantizes out of the toy network of a spec."""
    network, ranges = toy_network(spec), toy_calibration(spec)
    return Subject(spec, network, data_spec("digits"), ranges, rounding, seed, per_channel=per_channel)


@contextlib.contextmanager
def toy_bench(
    folder: Path | None = None,
    images: ImageSet | None = None,
    *,
    on_progress: OnProgress = silent,
    ends: Ends | None = None,
    memory_bytes: int = 0,
) -> Iterator[Bench]:
    """Open a bench, with the journal of a folder if one is given."""
    settings = {"on_progress": on_progress, "ends": ends or Ends(), "memory_bytes": memory_bytes}
    with contextlib.ExitStack() as stack:
        journal = None if folder is None else stack.enter_context(Journal.open(folder / "journal.jsonl"))
        yield Bench(images or judged_images(), journal=journal, **settings)


def toy_task(
    bench: Bench,
    subject: Subject | None = None,
    *,
    allowed: int = 5,
    widths: Sequence[int] = (2, 4, 8, 32),
    memory_budget: int | None = None,
    activation_budget: int | None = None,
    activation_weight: float = 1.0,
    per_iteration: bool = False,
) -> Task:
    """Set up the search for a subject, after its float pass; a budget of memory is one of payload."""
    subject = subject or toy_subject()
    return Task(
        bench=bench,
        baseline=bench.measure_float(subject.model, subject.network),
        subject=subject,
        limits=Limits(Tolerance(Decimal(5)), memory_budget, "payload", activation_budget),
        allowed=allowed,
        widths=dict.fromkeys(subject.sites, tuple(widths)),
        overhead_bytes=0,
        allowance=Fraction(allowed),
        activation_weight=activation_weight,
        per_iteration=per_iteration,
    )


def by_hand(subject: Subject, images: ImageSet, plan: BitPlan, seed: int | None = None) -> Tensor:
    """Predict with a plan on a network of one's own, without any bench."""
    network = _own_network(subject.model)
    rounder = ArrayRounder(plan, subject.seed if seed is None else seed)
    with weights_replaced(network, round_weights(network, plan, subject.seed).tensors):
        return measure(rounder.predictor(network), images, batch_size=50).predictions


@functools.cache
def _own_network(spec: ModelSpec) -> CapsuleNetwork:
    return toy_network(spec)


def net_loss(labels: Tensor, before: Tensor, after: Tensor) -> int:
    """Count the images lost less those gained, one by one."""
    pairs = zip(labels.tolist(), before.tolist(), after.tolist(), strict=True)
    return sum((b == label) - (a == label) for label, b, a in pairs)


# ---- A search without a network: sizes that are easily added up, and a rule that says what passes


def made_up_subject() -> Subject:
    """Make up a network of three weights and three arrays, one of them of two iterations."""
    sample = torch.linspace(-1, 1, 9)

    def ranges(**values: int) -> dict[str, SiteRange]:
        return {site.replace("_", "."): SiteRange(1.0, sample, count) for site, count in values.items()}

    weights = ranges(a_weight=40, b_weight=4000, b_bias=16)
    iterations = {f"c.logits@{t}": SiteRange(1.0, sample, 200) for t in (1, 2)}
    arrays = ranges(a_out=1000, c_votes=3000) | iterations
    return Subject(ROUTED, echo_network(), data_spec("digits"), Calibration(weights, arrays), "round_to_nearest", 7)


@dataclasses.dataclass(eq=False)
class MadeUpBench:
    """Answers by a rule, and remembers what it was asked.

    Parameters
    ----------
    passes
        Whether widths keep the accuracy, for certain.
    doubtful
        Whether a verdict that only steers takes them to pass without being certain.
    """

    passes: Callable[[Widths], bool]
    doubtful: Callable[[Widths], bool] = lambda widths: False
    ends: Ends = dataclasses.field(default_factory=Ends)
    asked: list[Widths] = dataclasses.field(default_factory=list)

    def judge(self, _subject: Subject, plan: BitPlan, _held: int, _phase: str, *, steering: bool = False) -> Judgement:
        if self.ends.reason(len(self.asked)):
            raise Halt(self.ends.reason(len(self.asked)))
        widths = widths_of(plan)
        self.asked.append(widths)
        if steering and self.doubtful(widths):
            return Judgement(True, 0, 0, 1, certain=False)
        return Judgement(self.passes(widths), 0, 0, 1)


def widths_of(plan: BitPlan) -> dict[str, int]:
    """Give the width of every site of a plan."""
    return {site: fmt.bits for site, fmt in (*plan.weights.items(), *plan.arrays.items())}


def made_up_task(
    bench: MadeUpBench,
    widths: Sequence[int] = (2, 3, 4, 6, 8, 32),
    *,
    limits: Limits | None = None,
    pins: Mapping[str, int] | None = None,
    activation_weight: float = 1.0,
    per_iteration: bool = False,
    overhead_bytes: int = 0,
) -> Task:
    """Set up a search whose candidates are never run."""
    subject, margins = made_up_subject(), torch.linspace(-0.2, 2, 40)
    labels = torch.zeros(40, dtype=torch.int64)
    return Task(
        bench=bench,
        baseline=Baseline(Measurement((margins <= 0).long(), labels), margins),
        subject=subject,
        limits=limits or Limits(Tolerance(Decimal(5)), None, "payload"),
        allowed=8,
        widths={site: (pins[site],) if site in (pins or {}) else tuple(widths) for site in subject.sites},
        overhead_bytes=overhead_bytes,
        allowance=Fraction(8),
        activation_weight=activation_weight,
        per_iteration=per_iteration,
    )


def haphazard(salt: int, share: int) -> Callable[[Widths], bool]:
    """Let pass so many percent of all widths, without any order."""
    return lambda widths: zlib.crc32(repr((salt, sorted(widths.items()))).encode()) % 100 < share


def made_up_scores(groups: Sequence[Group], widths: Mapping[str, Sequence[int]]) -> dict[str, dict[int, float]]:
    """Damage every group by the law of the rounding error, the later ones more."""
    return {
        group.name: {bits: 0.0 if bits == 32 else (1 + place) * 0.25**bits for bits in widths[group.name]}
        for place, group in enumerate(groups)
    }


@contextlib.contextmanager
def never_run() -> Iterator[None]:
    """Search with made-up scores, and give back widths alone as trials."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_module, "make_trial", lambda _bench, _subject, widths, **_: SimpleNamespace(widths=widths))
        patch.setattr(
            pareto, "measure_sensitivity", lambda _b, _base, _s, groups, widths: made_up_scores(groups, widths)
        )
        yield
