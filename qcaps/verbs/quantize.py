"""``qcaps quantize``: from a checkpoint to packed artifacts and a report."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path

import torch

from qcaps.artifacts.bundled import find_checkpoint
from qcaps.artifacts.checkpoint import read_checkpoint
from qcaps.artifacts.journal import Journal
from qcaps.artifacts.writing import atomic_write
from qcaps.config import QuantizeConfig, configure
from qcaps.data.load import load_split, load_training_splits
from qcaps.distributed import joined, process_index
from qcaps.errors import StoppedError
from qcaps.evaluation.ends import INTERRUPT, Ends, Halt
from qcaps.progress import OnProgress, silent
from qcaps.quantization.applying import weights_replaced
from qcaps.quantization.integer import integer_convolutions
from qcaps.quantization.search.judging import Bench
from qcaps.quantization.search.sensitivity import measure_sensitivity
from qcaps.quantization.search.task import Found
from qcaps.quantization.search.trial import Trial
from qcaps.reports.documents import json_text
from qcaps.reports.html.quantization import quantization_page
from qcaps.reports.markdown import markdown
from qcaps.reports.quantization import SCHEMA, to_document
from qcaps.reports.spreadsheets import candidates_csv, sensitivity_csv
from qcaps.verbs.chain import first_of
from qcaps.verbs.chosen_data import chosen_data
from qcaps.verbs.decoding import decoder_for
from qcaps.verbs.interruption import stoppable
from qcaps.verbs.junit import JUNIT, infeasible_told, write_junit
from qcaps.verbs.outcome import Outcome, make_folder
from qcaps.verbs.proof import Evidence, prove
from qcaps.verbs.quantize_job import Job, calibrated, make_job, make_task, prepares
from qcaps.verbs.quantize_search import Material, Ran, run_searches, tried_by_rounding

FILES = ("satisfied.pt", "memory.pt", "accuracy.pt")
REPORTS = ("report.json", "report.md", "report.html", JUNIT, "pareto.csv", "sensitivity.csv")
CONTINUE = "the same command continues"


def quantize(checkpoint: Path | str | None = None, *, on_progress: OnProgress = silent, **options: object) -> Outcome:
    """Search bit widths under a tolerance and budgets; write artifacts, report.json and report.md.

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
        else 1, with ``memory.pt`` and ``accuracy.pt`` if no plan meets all promises.

    Raises
    ------
    UsageError
        If an option is wrong or images are missing.
    ArtifactError
        If the checkpoint is unreadable.
    InfeasibleError
        If a budget is below the smallest plan there is; nothing was computed.
    StoppedError
        If interrupted; the best so far is written, and the same call continues from the journal.
    """
    started = time.perf_counter()
    config = configure(QuantizeConfig, options)
    path = find_checkpoint(None if checkpoint is None else Path(checkpoint))
    source, sha256 = read_checkpoint(path)
    first = first_of(source.record, where=str(path))
    with infeasible_told(config.out):
        job = make_job(source, chosen_data(source, config.dataset, data_dir=config.data_dir, where=str(path)), config)
    draw = decoder_for(source.network(), source.model, config.decoder_from)
    out = config.out or Path("runs") / f"{path.stem}-quantize"
    make_folder(out)
    if config.threads:
        torch.set_num_threads(config.threads)
    training, search = load_training_splits(job.data, data_dir=config.data_dir, on_progress=on_progress)
    report = load_split(job.data, "test", data_dir=config.data_dir, on_progress=on_progress)
    with joined(), contextlib.ExitStack() as open_files:
        journal = None
        if process_index() == 0:
            journal = open_files.enter_context(Journal.open(out / "journal.jsonl", fresh=config.fresh))
        stop = open_files.enter_context(stoppable())
        bench = Bench(
            search,
            journal=journal,
            on_progress=on_progress,
            ends=Ends(stop),
            memory_bytes=config.cache_memory,
        )
        try:
            baseline = bench.measure_float(source.model, source.network())
            known = [None if first is None else first.hits_on(split) for split in (search, report)]
            if known[0] is not None:
                baseline = bench.judge_against(known[0], baseline)
            material = Material(bench, baseline, training, calibrated(job, training, bench))
            if config.sensitivity_only:
                return _sensitivity(job, material, out)
            ran = run_searches(job, material)
            if process_index() > 0:  # the first process alone writes
                return Outcome(0, (), {}, ())
            written = _write_artifacts(ran, out)
            if ran[0].found.stopped == INTERRUPT:
                raise StoppedError(f"interrupted while searching; {written or 'nothing was accepted yet'}")
            if not written:
                return _nothing(ran[0].found, out)
            evidence = Evidence(
                source,
                ran[0],
                ran[1:],
                report,
                out,
                config.confidence,
                _path(next(iter(ran[0].found.by_file().values()))),
                prepares(config),
                known[1],
                draw,
            )
            proven, pictures = prove(evidence, job.limits)
        except Halt as halt:
            raise StoppedError(f"{halt.reason} before the search", where=str(out), do=CONTINUE) from halt
        except StoppedError as error:
            raise StoppedError(error.what, where=str(out), do=CONTINUE) from error
    run = {
        "seconds": round(time.perf_counter() - started, 3),
        "image_forwards": bench.image_forwards_now,
        "threads": torch.get_num_threads(),
        "search_seconds": {f"{one.name}, {one.task.subject.rounding}": round(one.seconds, 3) for one in ran},
    }
    inputs = {"checkpoint": path.name, "checkpoint sha256": sha256}
    if first is not None and known[1] is not None:
        inputs |= {"losses are counted against": first.file, "its sha256": first.sha256}
    finished = dataclasses.replace(proven, inputs=inputs, run=None if config.reproducible else run)
    document = to_document(finished)
    atomic_write(out / "report.json", json_text(document).encode())
    atomic_write(out / "report.md", markdown(finished).encode())
    write_junit(out, document)
    atomic_write(out / "report.html", quantization_page(finished, pictures).encode())
    files = (*(out / model.file for model in finished.result), *(out / name for name in REPORTS))
    return Outcome(
        0 if finished.verdict == "satisfied" else 1,
        files,
        document,
        (finished.message, *(f"warning: {w}" for w in finished.warnings)),
    )


def _sensitivity(job: Job, material: Material, out: Path) -> Outcome:
    """Measure what every width of every group does alone, and write the table."""
    task = make_task(job, job.roundings[0], material.calibration, material.bench, material.baseline)
    widths = {group.name: tuple(task.widths[group.sites[0]]) for group in task.groups}
    scores = measure_sensitivity(task.bench, task.baseline, task.subject, task.groups, widths)
    if process_index() == 0:
        atomic_write(out / "sensitivity.csv", sensitivity_csv(task.groups, scores).encode())
    document = {"schema": SCHEMA, "sensitivity": {name: dict(of_group) for name, of_group in scores.items()}}
    return Outcome(0, (out / "sensitivity.csv",), document, ())


def _nothing(found: Found, out: Path) -> Outcome:
    """Say that a search was ended before any plan was accepted."""
    message = f"not satisfied: the {found.stopped} ended the search before any plan was accepted; allow it more"
    document = {"schema": SCHEMA, "verdict": "not satisfied", "message": message}
    return Outcome(1, (out / "pareto.csv",), document, (message,))


def _write_artifacts(ran: tuple[Ran, ...], out: Path) -> str:
    """Write what was found, nothing of an earlier run beside it, and the tables; say what was written."""
    best, files = ran[0], ran[0].found.by_file()
    for name, trial in files.items():
        atomic_write(out / name, trial.file)
    for name in FILES:
        if name not in files:
            (out / name).unlink(missing_ok=True)
    atomic_write(out / "pareto.csv", candidates_csv(best.task.groups, tried_by_rounding(ran)).encode())
    atomic_write(out / "sensitivity.csv", sensitivity_csv(best.task.groups, best.found.scores).encode())
    return f"the best so far is {out / next(iter(files))}" if files else ""


def _path(trial: Trial) -> str:
    """Say what a candidate was evaluated with."""
    subject = trial.subject
    with (
        weights_replaced(subject.network, subject.round_weights(trial.plan).tensors),
        integer_convolutions(subject.network, trial.plan, subject.convolution_inputs) as names,
    ):
        found = ", ".join(name.removeprefix("stages.") for name in names)
    return f"integers in {found}, float elsewhere" if found else "float"
