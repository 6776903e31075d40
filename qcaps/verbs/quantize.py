"""``qcaps quantize``: from a checkpoint to packed artifacts and a report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from qcaps.artifacts.bundled import find_checkpoint
from qcaps.artifacts.checkpoint import Checkpoint, read_checkpoint
from qcaps.artifacts.journal import Journal
from qcaps.artifacts.writing import atomic_write
from qcaps.config import QuantizeConfig, configure, format_size
from qcaps.data.images import ImageSet
from qcaps.data.load import load_split
from qcaps.data.spec import DataSpec
from qcaps.errors import InfeasibleError, StoppedError
from qcaps.evaluation.measure import Measurement
from qcaps.evaluation.tolerance import Tolerance
from qcaps.models.network import array_sites, weight_sites
from qcaps.models.spec import build
from qcaps.progress import OnProgress, silent
from qcaps.quantization.artifact import Artifact, artifact_bytes, payload_bytes
from qcaps.quantization.calibration import calibrate
from qcaps.quantization.common_width import Found, widths_of
from qcaps.quantization.folding import fold_batch_norms
from qcaps.quantization.formats import FixedPoint, Float32, Logarithmic, NumberFormat, Rounding
from qcaps.quantization.limits import Limits
from qcaps.quantization.plan import BitPlan
from qcaps.quantization.trials import Bench, Subject, Trial, measure_float, size_of_width, try_width
from qcaps.registry import SEARCHES
from qcaps.reports.documents import json_text
from qcaps.reports.markdown import markdown
from qcaps.reports.quantization import to_document
from qcaps.verbs.chosen_data import chosen_data
from qcaps.verbs.interruption import stoppable
from qcaps.verbs.outcome import Outcome, make_folder
from qcaps.verbs.proof import Evidence, prove

FILES = ("satisfied.pt", "memory.pt", "accuracy.pt")


def quantize(checkpoint: Path | str | None = None, *, on_progress: OnProgress = silent, **options: object) -> Outcome:
    """Search bit widths under a tolerance and a budget; write artifacts, report.json and report.md.

    Parameters
    ----------
    checkpoint
        File or name of a shipped one; None takes the shipped default.
    on_progress
        Told after every batch.
    options
        The fields of :class:`~qcaps.config.QuantizeConfig`.

    Returns
    -------
    Outcome
        Exit code 0 with ``satisfied.pt`` if every promise holds on the search split and on the report split;
        else 1, with ``memory.pt`` and ``accuracy.pt`` if no width meets both promises.

    Raises
    ------
    UsageError
        If an option is wrong or images are missing.
    ArtifactError
        If the checkpoint is unreadable.
    InfeasibleError
        If the budget is below the smallest storable size; nothing was computed.
    StoppedError
        If interrupted; the same call continues from the journal.
    """
    started = time.perf_counter()
    config = configure(QuantizeConfig, options)
    path = find_checkpoint(None if checkpoint is None else Path(checkpoint))
    source, sha256 = read_checkpoint(path)
    job = _job(source, chosen_data(source, config.dataset, where=str(path)), config)
    _refuse_the_impossible(job)
    out = config.out or Path("runs") / f"{path.stem}-quantize"
    make_folder(out)
    if config.threads:
        torch.set_num_threads(config.threads)
    search, report, training = (
        load_split(job.data, split, data_dir=config.data_dir) for split in ("validation", "test", "train")
    )
    with Journal.open(out / "journal.jsonl", fresh=config.fresh) as journal, stoppable() as stop:
        bench = Bench(
            search,
            divisor=job.data.divisor,
            batch_size=config.test_batch_size,
            journal=journal,
            on_progress=on_progress,
            stop=stop,
        )
        try:
            baseline = measure_float(bench, source.model, source.network())
            subject = _subject(job, training, bench)
            found = _search(job, bench, subject, baseline)
            _write_artifacts(found, out)
            proven = prove(Evidence(source, subject, found, bench, baseline, report, out), job.limits)
        except StoppedError as error:
            raise StoppedError(error.what, where=str(out), do="the same command continues") from error
    run = {
        "seconds": round(time.perf_counter() - started, 3),
        "image_forwards": bench.image_forwards_now,
        "threads": torch.get_num_threads(),
    }
    inputs = {"checkpoint": path.name, "checkpoint sha256": sha256}
    finished = dataclasses.replace(proven, inputs=inputs, run=None if config.reproducible else run)
    document = to_document(finished)
    atomic_write(out / "report.json", json_text(document).encode())
    atomic_write(out / "report.md", markdown(finished).encode())
    files = (*(out / model.file for model in finished.result), out / "report.json", out / "report.md")
    kept = finished.verdict == "satisfied" or config.exit_zero
    return Outcome(0 if kept else 1, files, document, (finished.message, *(f"warning: {w}" for w in finished.warnings)))


@dataclass(frozen=True, eq=False)
class _Job:
    """What is asked of which network."""

    source: Checkpoint
    folded: Checkpoint
    data: DataSpec
    config: QuantizeConfig
    limits: Limits
    rounding: Rounding


def _job(source: Checkpoint, data: DataSpec, config: QuantizeConfig) -> _Job:
    spec, tensors = fold_batch_norms(source.model, source.tensors)
    tolerance = Tolerance(config.accuracy_tolerance, config.tolerance_kind)
    limits = Limits(tolerance, config.memory_budget, config.budget_on)
    folded = Checkpoint(spec, tensors, data, {})
    return _Job(source, folded, data, config, limits, cast("Rounding", config.rounding))


def _refuse_the_impossible(job: _Job) -> None:
    """Compare the budget with the smallest file there can be."""
    budget = job.limits.budget_bytes
    if budget is None:
        return
    bits = widths_of(job.rounding, job.config.min_bits)[0]
    narrow: NumberFormat = FixedPoint(bits, 0) if bits <= FixedPoint.max_bits else Float32()
    if job.rounding == "logarithmic" and bits <= Logarithmic.max_bits:
        narrow = Logarithmic(bits, 0)
    model = job.folded.model
    blank = build(model)
    arrays = array_sites(blank, (model.channels, model.height, model.width))
    plan = BitPlan(job.rounding, dict.fromkeys(weight_sites(blank), narrow), dict.fromkeys(arrays, narrow))
    network = job.folded.network()
    shortest = Artifact(model, job.data, plan, 0, network, {})
    payload = payload_bytes(network, plan)
    least = payload if job.limits.budget_on == "payload" else len(artifact_bytes(shortest))
    if least > budget:
        raise _infeasible(job, budget, least, bits)


def _infeasible(job: _Job, budget: int, least: int, bits: int) -> InfeasibleError:
    easier = "allow --min-bits 1, " if bits > 1 and job.rounding != "logarithmic" else ""
    return InfeasibleError(
        f"memory budget {format_size(budget)} is below the minimum of {format_size(least)} at {bits} bits",
        where="--memory-budget",
        do=f"raise it, {easier}or prune first",
    )


def _subject(job: _Job, training: ImageSet, bench: Bench) -> Subject:
    """Calibrate the folded network on training images."""
    config, network = job.config, job.folded.network()
    generator = torch.Generator().manual_seed(config.seed)
    drawn = torch.randperm(len(training), generator=generator)[: config.calibration_images]
    calibration = calibrate(
        network,
        training.subset(drawn),
        divisor=job.data.divisor,
        batch_size=config.test_batch_size,
        seed=config.seed,
        on_progress=bench.on_progress,
        stop=bench.stop,
    )
    return Subject(job.folded.model, network, job.data, calibration, job.rounding, config.seed)


def _search(job: _Job, bench: Bench, subject: Subject, baseline: Measurement) -> Found:
    """Run the search that was asked for."""
    config, limits = job.config, job.limits

    def judge(bits: int) -> Trial:
        return try_width(bench, subject, bits, baseline=baseline, tolerance=limits.tolerance, margin_pct=config.margin)

    def fits(bits: int) -> bool:
        return limits.fits(*size_of_width(bench, subject, bits, baseline=baseline))

    widths = widths_of(job.rounding, config.min_bits)
    if limits.budget_bytes is not None and not fits(widths[0]):
        # Now that the scales and the record are known, the smallest file is a little larger than the bound before.
        least = limits.counted(*size_of_width(bench, subject, widths[0], baseline=baseline))
        raise _infeasible(job, limits.budget_bytes, least, widths[0])
    search = cast("Callable[..., Found]", SEARCHES.load(config.search, where="--search"))
    return search(judge, widths, fits)


def _write_artifacts(found: Found, out: Path) -> None:
    """Write what was found, and nothing of an earlier run beside it."""
    for name, trial in found.by_file().items():
        atomic_write(out / name, trial.file)
    for name in FILES:
        if name not in found.by_file():
            (out / name).unlink(missing_ok=True)
