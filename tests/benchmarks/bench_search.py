"""Search widths of trained networks: `pareto` against `qcapsnets`, at the smallest budget that the latter satisfies.

Run it by hand: ``python tests/benchmarks/bench_search.py [--checkpoint FILE]``, with QCAPS_DATA set. A ShallowCapsNet
comes from ``qcaps run shallow_capsnet_mnist``; the default is the shipped Efficient-CapsNet. It exits with 1 if
`pareto` needs more than half the image-forwards, more bytes or more activation bytes, or if a verdict that was reached
early is not that of the complete evaluation.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import torch

from qcaps.artifacts.checkpoint import Checkpoint, read_checkpoint
from qcaps.artifacts.journal import Journal
from qcaps.config import QuantizeConfig
from qcaps.data.load import load_split
from qcaps.evaluation.ends import Ends
from qcaps.progress import silent
from qcaps.quantization.search.groups import Widths
from qcaps.quantization.search.judging import Bench
from qcaps.quantization.search.pareto import search_pareto
from qcaps.quantization.search.qcapsnets import search_qcapsnets, stage2_widths
from qcaps.quantization.search.qcapsnets_task import search_sequentially
from qcaps.quantization.search.sequential import blocks_of
from qcaps.quantization.search.spending import Ledger
from qcaps.quantization.search.task import Found, Search, Task, run_search
from qcaps.verbs.quantize_job import Job, calibrated, make_job, make_task

PRETRAINED = Path(__file__).parents[2] / "pretrained" / "efficient_capsnet_mnist.pt"
MOST_FORWARDS = 0.5
# What was searched, what was found, what it cost, and seconds.
Run = tuple[Task, Found, Ledger, float]


def main() -> int:
    """Compare both searches at every tolerance."""
    options = arguments()
    torch.set_num_threads(options.threads)
    source = read_checkpoint(options.checkpoint)[0]
    assert source.data is not None
    images = {split: load_split(source.data, split) for split in ("validation", "train")}
    held = []
    with Journal.open(options.journal) as journal:
        bench = Bench(
            images["validation"], journal=journal, on_progress=silent, ends=Ends(),
            memory_bytes=options.cache_memory,
        )  # fmt: skip
        baseline = bench.measure_float(source.model, source.network())
        print(
            f"{source.model.architecture}: {baseline.measured.correct} of {len(bench.images)} validation images right"
        )
        calibration = calibrated(job_of(source, options, None, None), images["train"], bench)
        for percent in options.tolerances:
            job = job_of(source, options, percent, None)
            task = make_task(job, "round_to_nearest", calibration, bench, baseline)
            if not options.budget:
                show("pareto", *run(task, search_pareto))
            budget = options.budget or smallest_budget(task)
            job = job_of(source, options, percent, budget)
            task = make_task(job, "round_to_nearest", calibration, bench, baseline)
            print(f"\ntolerance {percent} %: {task.allowed} net losses; budget {budget:,} bytes")
            theirs = run(task, search_sequentially)
            show("qcapsnets", *theirs)
            assert theirs[1].satisfied is not None
            # Its file is smaller than its own bound: that is the smallest budget.
            job = job_of(source, options, percent, len(theirs[1].satisfied.file))
            ours = run(make_task(job, "round_to_nearest", calibration, bench, baseline), search_pareto)
            show("pareto", *ours)
            held.append(compare(theirs, ours) and (not options.check or same_verdicts(ours[0])))
    return 0 if all(held) else 1


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compare the searches.")
    parser.add_argument("--checkpoint", type=Path, default=PRETRAINED)
    parser.add_argument("--tolerances", type=Decimal, nargs="+", default=[Decimal(t) for t in ("0.2", "0.5", "1.0")])
    parser.add_argument("--scales", choices=["tensor", "channel"], default="channel")
    parser.add_argument("--budget", type=int, help="bytes; by default the smallest that qcapsnets satisfies")
    parser.add_argument("--journal", type=Path, default=Path("bench_search.jsonl"))
    parser.add_argument("--cache-memory", type=int, default=1_000_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="evaluate every candidate of pareto completely as well")
    return parser.parse_args()


def job_of(source: Checkpoint, options: argparse.Namespace, percent: Decimal | None, budget: int | None) -> Job:
    """Ask for a search."""
    config = QuantizeConfig(scales=options.scales, memory_budget=budget)
    if percent is not None:
        config = dataclasses.replace(config, accuracy_tolerance=percent)
    assert source.data is not None
    return make_job(source, source.data, config)


def run(task: Task, search: Search) -> Run:
    """Run a search with a ledger of its own."""
    task = dataclasses.replace(task, tried=[], best=None, smallest=None, promising=[])
    task.bench.ledger = Ledger(extra=len(task.bench.images), whole=len(task.bench.images))
    started = time.perf_counter()
    found = run_search(search, task)
    return task, found, task.bench.ledger, time.perf_counter() - started


class _Asking:
    """Answers of a task without a budget, as the sequential algorithm wants them."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def passes(self, widths: Widths, most_losses: int) -> bool:
        return self.task.judge(widths, "budget", allowed=most_losses)

    def net_losses(self, widths: Widths) -> int:
        return self.task.net_losses(widths, "budget")

    def weight_bytes(self, weights: Mapping[str, int]) -> int:
        return self.task.subject.payload_bytes(weights) + self.task.overhead_bytes


def smallest_budget(task: Task) -> int:
    """Find the smallest file that `qcapsnets` satisfies: by a plan of stage 2, or by its plan for accuracy."""
    task = dataclasses.replace(task, tried=[], best=None, smallest=None, promising=[])
    asking = _Asking(task)
    allowed = {site: tuple(widths) for site, widths in task.widths.items()}
    blocks = blocks_of(task.subject.network.stages, task.subject.sites)
    alone = search_qcapsnets(blocks, allowed, asking, allowance=task.allowance)
    uniform, accurate = alone.stages[0].widths, alone.satisfied or alone.accuracy
    assert accurate is not None
    found = asking.weight_bytes(accurate)
    budget = found
    while True:  # every plan of stage 2 that is smaller, from the largest on
        try:
            weights = stage2_widths(blocks, allowed, asking.weight_bytes, budget)
        except Exception:
            return found
        size = asking.weight_bytes(weights)
        if asking.passes({**uniform, **weights}, math.ceil(task.allowance) - 1):
            found = size
        budget = size - 1


def compare(theirs: Run, ours: Run) -> bool:
    """Hold one search against the other."""
    a, b = theirs[1].satisfied, ours[1].satisfied
    assert a is not None
    if b is None:
        return False
    share = ours[2].image_forwards / theirs[2].image_forwards
    print(f"  image-forwards {share:.2f} of qcapsnets, at most {MOST_FORWARDS}")
    return share <= MOST_FORWARDS and len(b.file) <= len(a.file) and b.activation_bytes <= a.activation_bytes


def show(name: str, task: Task, found: Found, ledger: Ledger, seconds: float) -> None:
    """Print one row."""
    best = found.satisfied or found.accuracy
    split, in_float = len(task.bench.images), dict.fromkeys(task.subject.sites, 32)
    if best is None:
        print(f"  {name:10} found nothing")
        return
    weights = task.subject.payload_bytes(in_float) / best.payload_bytes
    arrays = task.subject.activation_bytes(in_float) / best.activation_bytes
    print(
        f"  {name:10} {'satisfied' if found.satisfied else 'not satisfied':14} {len(best.file):>9,} bytes"
        f"  W {weights:5.2f}  A {arrays:5.2f}  lost {best.verdict.lost} gained {best.verdict.gained}  image-forwards"
        f" {ledger.image_forwards:>7,} (no early rejection {ledger.without_rejection(split):>9,}, nothing remembered"
        f" {ledger.whole:>9,})  {seconds:.0f} s"
    )


def same_verdicts(task: Task) -> bool:
    """Evaluate every candidate completely, and compare the verdicts; likely ones are guesses, and told apart."""
    wrong = {True: 0, False: 0}
    for tried in task.tried:
        plan = task.subject.plan(tried.widths)
        judged = task.bench.judge(task.subject, plan, tried.allowed)
        measured = task.bench.measure(task.subject, plan)
        lost = sum(task.baseline.measured.correct - found.correct for found in measured)
        assert judged.passed is (lost <= tried.allowed)
        wrong[tried.judgement.certain] += judged.passed != tried.judgement.passed
    likely = sum(not tried.judgement.certain for tried in task.tried)
    print(f"  {len(task.tried) - likely} verdicts, {wrong[True]} differ from the complete evaluation", end="")
    print(f"; {likely} likely ones on the way, {wrong[False]} of them wrong")
    return not wrong[True]


if __name__ == "__main__":
    raise SystemExit(main())
