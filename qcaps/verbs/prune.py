"""``qcaps prune``: from a checkpoint to a smaller one."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from qcaps.artifacts.bundled import find_checkpoint
from qcaps.artifacts.checkpoint import write_checkpoint
from qcaps.artifacts.journal import Journal
from qcaps.artifacts.writing import atomic_write
from qcaps.config import PruneConfig, configure
from qcaps.distributed import joined, process_index
from qcaps.errors import StoppedError
from qcaps.evaluation.ends import INTERRUPT, Ends
from qcaps.progress import OnProgress, silent
from qcaps.pruning.candidates import recalibrated
from qcaps.pruning.search import Searched, search
from qcaps.reports.documents import json_text
from qcaps.reports.html.pruning import pruning_page
from qcaps.reports.pictures import Pictures
from qcaps.reports.pruning import SCHEMA, PruningReport, to_document
from qcaps.reports.pruning_markdown import pruning_markdown
from qcaps.reports.pruning_tables import candidates_csv
from qcaps.reports.strategies import strategies_svg
from qcaps.verbs.interruption import stoppable
from qcaps.verbs.outcome import Outcome, make_folder
from qcaps.verbs.prune_finalists import (
    Finalist,
    finetune_finalists,
    forget_states,
    own_accelerator,
    plain_tensors,
    winner_of,
)
from qcaps.verbs.prune_images import chosen_images
from qcaps.verbs.prune_job import make_job
from qcaps.verbs.prune_latency import latency_budget
from qcaps.verbs.prune_proof import prove
from qcaps.verbs.prune_record import CHECKPOINT, pruned_checkpoint
from qcaps.verbs.prune_report import pruning_report, run_facts
from qcaps.verbs.prune_workshop import Workshop, make_material

CONTINUE = "the same command continues"


def prune(checkpoint: Path | str | None = None, *, on_progress: OnProgress = silent, **options: object) -> Outcome:
    """Search for a smaller network, fine-tune the best and write ``checkpoint.pt`` and reports.

    Parameters
    ----------
    checkpoint
        File or name of a shipped one; None takes the shipped default.
    on_progress
        Told after every candidate, step and batch.
    options
        The fields of :class:`~qcaps.config.PruneConfig`.

    Returns
    -------
    Outcome
        Exit code 0, with the checkpoint of the winner; 1 if the time was over before any candidate was scored.

    Raises
    ------
    UsageError
        If an option is wrong or images are missing.
    ArtifactError
        If the checkpoint is unreadable.
    InfeasibleError
        If a target is below what the narrowest network costs.
    StoppedError
        If interrupted; the best so far is written, and the same call continues.

    Notes
    -----
    Units are judged and candidates recalibrated on training images. Candidates are scored on one part of the
    validation images; epochs and the winner are chosen on the other. Test images are opened when the winner stands.
    """
    started = time.perf_counter()
    config = configure(PruneConfig, options)
    path = find_checkpoint(None if checkpoint is None else Path(checkpoint))
    job = make_job(path, config)
    out = config.out or Path("runs") / f"{path.stem}-prune"
    make_folder(out)
    if config.threads:
        torch.set_num_threads(config.threads)
    with joined(), contextlib.ExitStack() as open_files:
        journal = None
        if process_index() == 0:
            journal = open_files.enter_context(Journal.open(out / "journal.jsonl", fresh=config.fresh))
        if config.fresh:
            forget_states(out)
        stop = open_files.enter_context(stoppable())
        device = own_accelerator(config.device, "no").device
        shop = Workshop(job, make_material(job, chosen_images(job.data, config), device), out, on_progress, stop)
        try:
            searched = _searched(shop, journal)
            if not searched.candidates:
                return _nothing(searched)
            best = [searched.candidates[place] for place in searched.finalists[: config.top_k]]
            finalists = finetune_finalists(best, shop)
            if process_index() > 0:  # the first process alone writes
                return Outcome(0, (), {}, ())
            proof = prove(shop, winner_of(finalists))
        except StoppedError as error:
            raise StoppedError(error.what, where=str(out), do=CONTINUE) from error
    report = pruning_report(shop, searched, finalists, proof, path.stat().st_size)
    run = None if config.reproducible else run_facts(shop, searched, finalists, time.perf_counter() - started)
    forget_states(out)
    return _written(dataclasses.replace(report, run=run), proof.pictures, searched, finalists, out)


def _searched(shop: Workshop, journal: Journal | None) -> Searched:
    """Search, and write the best candidate for whoever has no time for more.

    Raises
    ------
    StoppedError
        If interrupted.
    """
    job, config, source = shop.job, shop.job.config, shop.material.source
    budgets = list(job.budgets)
    if config.latency is not None:
        budgets.append(latency_budget(job, shop.out / "latency.json", shop.material.device))
    searched = search(
        source,
        budgets,
        shop.material.rules,
        job.costs,
        candidates=config.candidates if budgets else 0,
        improve=config.improve if budgets else 0,
        top_k=config.top_k,
        seed=config.seed,
        sampler=config.sampler,
        criterion=config.score,
        given=job.given,
        journal=journal,
        on_progress=shop.on_progress,
        ends=Ends(shop.stop, seconds=config.time_budget or math.inf, start=time.perf_counter()),
    )
    if searched.candidates and process_index() == 0:
        widths = searched.candidates[searched.ranked[0]].widths
        checkpoint = pruned_checkpoint(shop, widths, plain_tensors(recalibrated(source, widths)))
        write_checkpoint(shop.out / CHECKPOINT, checkpoint)
    if searched.stopped == INTERRUPT:
        written = f"the best so far is {shop.out / CHECKPOINT}" if searched.candidates else "nothing was scored yet"
        raise StoppedError(f"interrupted while searching; {written}")
    return searched


def _nothing(searched: Searched) -> Outcome:
    """Say that a search was ended before any candidate was scored."""
    message = f"not pruned: the {searched.stopped} ended the search before any candidate was scored; allow it more"
    return Outcome(1, (), {"schema": SCHEMA, "message": message}, (message,))


def _written(
    report: PruningReport, pictures: Pictures, searched: Searched, finalists: Sequence[Finalist], out: Path
) -> Outcome:
    """Write the reports beside the checkpoint."""
    document = to_document(report)
    correct = {one.candidate.number: one.correct for one in finalists}
    ranked = [searched.candidates[place] for place in searched.ranked]
    texts = {
        "report.json": json_text(document).encode(),
        "report.md": pruning_markdown(report).encode(),
        "report.html": pruning_page(report, pictures).encode(),
        "candidates.csv": candidates_csv(ranked, correct).encode(),
        "strategies.svg": strategies_svg(report),
    }
    for name, text in texts.items():
        atomic_write(out / name, text)
    files = (out / CHECKPOINT, *(out / name for name in texts))
    return Outcome(0, files, document, (report.message, *(f"warning: {warning}" for warning in report.warnings)))
