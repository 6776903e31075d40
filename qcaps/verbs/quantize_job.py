"""What ``qcaps quantize`` is asked for: networks, limits and widths, refused before any computing where hopeless."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import torch

from qcaps.artifacts.checkpoint import Checkpoint
from qcaps.config import QuantizeConfig, format_size
from qcaps.data.images import ImageSet
from qcaps.data.spec import DataSpec
from qcaps.errors import InfeasibleError, UsageError
from qcaps.evaluation.tolerance import Tolerance, search_allowance
from qcaps.models.network import array_sites, float_tensors, weight_sites
from qcaps.models.spec import build
from qcaps.quantization.artifact import Artifact, artifact_bytes, payload_bytes
from qcaps.quantization.balancing import balance_channels
from qcaps.quantization.calibration import Calibration, calibrate
from qcaps.quantization.folding import fold_batch_norms
from qcaps.quantization.formats import FixedPoint, Float32, Logarithmic, NumberFormat, Rounding
from qcaps.quantization.limits import Limits
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.search.groups import allowed_widths
from qcaps.quantization.search.judging import Baseline, Bench
from qcaps.quantization.search.subject import Subject
from qcaps.quantization.search.task import Task
from qcaps.quantization.search.trial import file_bytes

# From the simplest hardware to the least simple: of equally small results the first one is kept.
EVERY_ROUNDING: tuple[Rounding, ...] = ("truncation", "round_to_nearest", "stochastic_rounding", "logarithmic")
# Every record of a file begins at a multiple of so many bytes; six of them hold no weight.
ALIGNMENT, OTHER_RECORDS = 64, 6
# By so much may the description of a weight, or of an array, grow over that at the widest format.
WEIGHT_GROWTH, ARRAY_GROWTH = 32, 2


@dataclass(frozen=True, eq=False)
class Job:
    """What is asked of which network.

    Parameters
    ----------
    source, folded
        The float network as it was trained, and without the batch norms that can be folded away.
    data
        The images to choose and to prove on.
    config, limits
        What is asked.
    """

    source: Checkpoint
    folded: Checkpoint
    data: DataSpec
    config: QuantizeConfig
    limits: Limits

    @property
    def roundings(self) -> tuple[Rounding, ...]:
        """List the schemes to try, the simplest hardware first."""
        auto = self.config.rounding == "auto"
        return EVERY_ROUNDING if auto else (cast("Rounding", self.config.rounding),)

    def widths(self, rounding: Rounding) -> dict[str, tuple[int, ...]]:
        """List the widths that every site may have under a scheme, ascending.

        Raises
        ------
        UsageError
            If a pin matches nothing, or no width is left.
        """
        config, kind = self.config, Logarithmic if rounding == "logarithmic" else FixedPoint
        least = max(config.min_bits, 2 if rounding == "logarithmic" else 1)
        packed = range(min(config.widths, default=least) if config.widths else least, kind.max_bits + 1)
        pins = [(pattern, bits if bits <= kind.max_bits else Float32.bits) for pattern, bits in config.pin]
        found = allowed_widths(self._sites(), packed, only=config.widths, pins=pins)
        if not all(found.values()):
            raise UsageError(f"{rounding} packs none of these widths", where="--widths", do=f"{kind.max_bits} at most")
        return found

    def _sites(self) -> tuple[str, ...]:
        model = self.folded.model
        blank = build(model)
        return (*weight_sites(blank), *array_sites(blank, (model.channels, model.height, model.width)))


def make_job(source: Checkpoint, data: DataSpec, config: QuantizeConfig) -> Job:
    """Understand what is asked, and refuse what cannot be.

    Raises
    ------
    UsageError
        If a pin matches nothing, no width is left, or options contradict each other.
    InfeasibleError
        If a budget is below the smallest plan there is.
    """
    spec, tensors = fold_batch_norms(source.model, source.tensors)
    if prepares(config):
        tensors = balance_channels(spec, tensors, per_channel=config.scales == "channel")
    tolerance = Tolerance(config.accuracy_tolerance, config.tolerance_kind)
    limits = Limits(tolerance, config.memory_budget, config.budget_on, config.activation_budget)
    if config.accounting == "reference" and config.search != "qcapsnets":
        raise UsageError(
            "the reference accounting is that of Q-CapsNets", where="--accounting", do="--search qcapsnets"
        )
    job = Job(source, Checkpoint(spec, tensors, data, {}), data, config, limits)
    refusals = [found for found in (_refusal(job, rounding) for rounding in job.roundings) if found is not None]
    if len(refusals) == len(job.roundings):
        raise refusals[0]
    return job


def prepares(config: QuantizeConfig) -> bool:
    """Tell whether the network is made ready for rounding; Q-CapsNets' own accounting takes it as it is."""
    return config.prepare and config.accounting == "honest"


def _refusal(job: Job, rounding: Rounding) -> InfeasibleError | None:
    """Compare the budgets with the smallest plan there is."""
    least = {site: widths[0] for site, widths in job.widths(rounding).items()}
    model, network = job.folded.model, job.folded.network()
    weights, arrays = weight_sites(network), array_sites(network, (model.channels, model.height, model.width))
    bits = min(least.values())
    if job.limits.budget_bytes is not None:
        formats = {site: _narrow(rounding, least[site]) for site in (*weights, *arrays)}
        plan = BitPlan(rounding, {s: formats[s] for s in weights}, {s: formats[s] for s in arrays})
        shortest = Artifact(model, job.data, plan, 0, network, {})
        payload = payload_bytes(network, plan)
        size = payload if job.limits.budget_on == "payload" else len(artifact_bytes(shortest))
        if size > job.limits.budget_bytes:
            return infeasible("--memory-budget", job.limits.budget_bytes, size, bits, rounding)
    widest: dict[str, float] = {}
    for site, values in arrays.items():
        array = site.split("@", 1)[0]
        widest[array] = max(widest.get(array, 0.0), values * least[site] / 8)
    activations = sum(widest.values())
    if job.limits.activation_budget is not None and activations > job.limits.activation_budget:
        return infeasible("--activation-budget", job.limits.activation_budget, round(activations), bits, rounding)
    return None


def _narrow(rounding: Rounding, bits: int) -> NumberFormat:
    if bits == Float32.bits:
        return Float32()
    return Logarithmic(bits, 0) if rounding == "logarithmic" else FixedPoint(bits, 0)


def infeasible(where: str, budget: int, least: int, bits: int, rounding: Rounding) -> InfeasibleError:
    """Say that a budget is below the smallest plan there is."""
    easier = "allow --min-bits 1, " if bits > 1 and rounding != "logarithmic" else ""
    return InfeasibleError(
        f"{where.removeprefix('--').replace('-', ' ')} {format_size(budget)} is below the minimum of "
        f"{format_size(least)} at {bits} bits",
        where=where,
        do=f"raise it, {easier}or prune first",
    )


def calibrated(job: Job, training: ImageSet, bench: Bench) -> Calibration:
    """Find the range of every site of the folded network on training images.

    Raises
    ------
    StoppedError
        If interrupted.
    """
    config = job.config
    generator = torch.Generator().manual_seed(config.seed)
    drawn = torch.randperm(len(training), generator=generator)[: config.calibration_images]
    return calibrate(
        job.folded.network(),
        training.subset(drawn),
        batch_size=config.test_batch_size,
        seed=config.seed,
        with_inputs=prepares(config),
        on_progress=bench.on_progress,
        stop=bench.ends.stop,
    )


def make_task(job: Job, rounding: Rounding, calibration: Calibration, bench: Bench, baseline: Baseline) -> Task:
    """Set a search up under one scheme.

    Raises
    ------
    InfeasibleError
        If the memory budget turns out to be below the smallest file, now that the scales are known.
    """
    config = job.config
    subject = Subject(
        job.folded.model,
        job.folded.network(),
        job.data,
        calibration,
        rounding,
        config.seed,
        per_channel=config.scales == "channel",
        reference=config.accounting == "reference",
    )
    widths = job.widths(rounding)
    measured, tolerance = baseline.measured, job.limits.tolerance
    seeds = len(subject.seeds)
    allowed = search_allowance(
        tolerance, correct=measured.correct, images=measured.images, margin_pct=config.margin, seeds=seeds
    )
    exact = seeds * tolerance.allowance(correct=measured.correct, images=measured.images) * (100 - config.margin) / 100
    task = Task(
        bench=bench,
        baseline=baseline,
        subject=subject,
        limits=job.limits,
        allowed=allowed,
        # K less the margin may be one below T less the margin: never more than the former is lost.
        allowance=min(exact, allowed + Fraction(99, 100)),
        widths=widths,
        overhead_bytes=0,
        activation_weight=config.activation_weight,
        per_iteration=config.per_iteration,
    )
    if not subject.reference:  # which counts no headers
        task = dataclasses.replace(task, overhead_bytes=_overhead(task))
    least = {site: found[0] for site, found in widths.items()}
    if job.limits.budget_bytes is not None and not task.fits(least):
        payload = subject.payload_bytes(least)
        size = job.limits.counted(file_bytes(bench, subject, subject.plan(least)), payload)
        raise infeasible("--memory-budget", job.limits.budget_bytes, size, min(least.values()), rounding)
    return task


def _overhead(task: Task) -> int:
    """Bound what a file holds beside its payload: its header, its alignment, its self-test."""
    subject = task.subject
    widest = Logarithmic.max_bits if subject.rounding == "logarithmic" else FixedPoint.max_bits
    widths = dict.fromkeys(subject.sites, widest)
    size = file_bytes(task.bench, subject, subject.plan(widths))
    weights, arrays = len(subject.calibration.weights), len(subject.calibration.arrays)
    records = weights + len(float_tensors(subject.network)) + OTHER_RECORDS
    slack = (ALIGNMENT - 1) * records + WEIGHT_GROWTH * weights + ARRAY_GROWTH * arrays
    return size - subject.payload_bytes(widths) + slack
