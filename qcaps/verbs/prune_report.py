"""What a pruning has to say: its costs, its finalists and how they were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch

import qcaps
from qcaps.data.images import ImageSet
from qcaps.evaluation.rank_correlation import rank_correlation
from qcaps.pruning.search import Searched
from qcaps.reports.pruning import (
    CandidateRow,
    Change,
    FinalistRow,
    ImagesUsed,
    Milestone,
    PruneSearch,
    PruningReport,
)
from qcaps.reports.pruning_costs import capsules_left, cost_changes, layer_changes, width_changes
from qcaps.verbs.prune_finalists import Finalist, winner_of
from qcaps.verbs.prune_latency import timed
from qcaps.verbs.prune_proof import Proof
from qcaps.verbs.prune_record import CHECKPOINT, finetuning_facts
from qcaps.verbs.prune_workshop import Workshop


def pruning_report(
    shop: Workshop, searched: Searched, finalists: Sequence[Finalist], proof: Proof, source_bytes: int
) -> PruningReport:
    """Put together all that is known, but for `run`."""
    job, winner = shop.job, winner_of(finalists)
    widths = winner.candidate.widths
    cost = cost_changes(job.source.model, job.costs, widths, (source_bytes, proof.file_bytes))
    means = [one.candidate.score.mean for one in finalists]
    return PruningReport(
        message=_message(cost["MACs"], cost["parameters"], proof.milestones),
        file=CHECKPOINT,
        sha256=proof.sha256,
        milestones=proof.milestones,
        by_chance=proof.by_chance,
        cost=cost,
        layers=layer_changes(job.costs, widths),
        widths=width_changes(job.costs, widths),
        capsules=capsules_left(widths),
        finalists=_finalist_rows(finalists, winner, shop.material.images.choosing),
        rank_correlation=rank_correlation([-mean for mean in means], [one.correct for one in finalists]),
        finetuning=finetuning_facts(job),
        history=winner.history,
        search=_search(shop, searched),
        images=proof.images,
        first={"file": proof.first.file, "sha256": proof.first.sha256},
        warnings=_warnings(searched, winner),
        inputs={"checkpoint": job.file, "checkpoint sha256": job.sha256},
        versions={"qcaps": qcaps.__version__, "torch": torch.__version__},
        run=None,
    )


def run_facts(shop: Workshop, searched: Searched, finalists: Sequence[Finalist], seconds: float) -> dict[str, object]:
    """Tell what differs between identical runs: times, measured before and after, and what this run did itself."""
    spec, winner = shop.job.source.model, winner_of(finalists)
    sizes = sorted({1, shop.job.config.latency_batch})
    pairs = [timed(spec, winner.candidate.widths, size, shop.material.device) for size in sizes]
    return {
        "seconds": round(seconds, 3),
        "threads": torch.get_num_threads(),
        "device": str(shop.material.device),
        "candidates_scored": searched.scored_now,
        "latency": [asdict(pair) for pair in pairs],
    }


def _message(macs: Change, parameters: Change, milestones: Sequence[Milestone]) -> str:
    first, last = milestones[0].test.score, milestones[-1].test.score
    return (
        f"pruned: {100 * macs.kept:.1f} % of the MACs and {100 * parameters.kept:.1f} % of the parameters kept, "
        f"{last.correct:,} of {last.images:,} {last.split} images ({100 * last.accuracy:.2f} %) against "
        f"{first.correct:,} ({100 * first.accuracy:.2f} %) before"
    )


def _warnings(searched: Searched, winner: Finalist) -> tuple[str, ...]:
    """Collect what a reader must know before trusting the figures."""
    found = []
    if searched.stopped:
        found.append(f"the search was stopped early: {searched.stopped}")
    if winner.history and not winner.best_epoch:
        found.append("fine-tuning made it worse: the network is the recalibrated one; lower --finetune-lr")
    return tuple(found)


def _finalist_rows(finalists: Sequence[Finalist], winner: Finalist, images: ImageSet) -> tuple[FinalistRow, ...]:
    return tuple(
        FinalistRow(
            number=one.candidate.number,
            widths=dict(one.candidate.widths),
            images=len(images),
            recalibrated_correct=one.recalibrated_correct,
            correct=one.correct,
            best_epoch=one.best_epoch,
            won=one is winner,
        )
        for one in finalists
    )


def _search(shop: Workshop, searched: Searched) -> PruneSearch:
    config, material = shop.job.config, shop.material
    ranked = [searched.candidates[place] for place in searched.ranked]
    best = ranked[0].score
    rows = (
        CandidateRow(c.number, c.origin, c.score.mean, c.score.error_against(best), c.score.top1, dict(c.shares))
        for c in ranked
    )
    return PruneSearch(
        targets=shop.job.kept_shares,
        counting=config.counting,
        importance=config.importance,
        by_l1=material.by_l1,
        scope=config.scope,
        sampler=config.sampler,
        recalibration=material.source.recalibration.method,
        criterion=config.score,
        seed=config.seed,
        calibration=_used(material.images.calibration),
        scoring=_used(material.images.scoring),
        choosing=_used(material.images.choosing),
        ranked=tuple(rows),
        tied=max(0, len(searched.finalists) - config.top_k),
        image_forwards=searched.image_forwards,
        stopped_early=searched.stopped,
    )


def _used(images: ImageSet) -> ImagesUsed:
    places = " ".join(map(str, sorted(images.indices.tolist())))
    return ImagesUsed(images.split, len(images), images.sha256(), places)
