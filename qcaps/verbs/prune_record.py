"""The checkpoint of a pruned network, and what it records of how it was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

import qcaps
from qcaps.artifacts.checkpoint import Checkpoint
from qcaps.pruning.finetuning import training_options
from qcaps.pruning.strategy import Widths
from qcaps.training.state import EpochRecord
from qcaps.verbs.chain import RECORD, First, first_to_record
from qcaps.verbs.prune_finalists import finetune_config
from qcaps.verbs.prune_job import Job
from qcaps.verbs.prune_workshop import Workshop

CHECKPOINT = "checkpoint.pt"
# Options of the training that a fine-tuning is, as far as they matter to one.
TOLD = (
    *("epochs", "batch_size", "lr", "schedule", "hard_training", "reconstruction", "regularization_scale"),
    *(
        "reconstruction_share",
        "mask",
        "optimizer",
        "optimizer_arg",
        "weight_decay",
        "momentum",
        "nesterov",
        "clip_norm",
    ),
    *("mixed_precision", "freeze", "seed"),
)


def pruned_checkpoint(
    shop: Workshop,
    widths: Widths,
    tensors: Mapping[str, Tensor],
    *,
    history: Sequence[EpochRecord] = (),
    best_epoch: int = 0,
    first: First | None = None,
) -> Checkpoint:
    """Make the checkpoint of a pruned network.

    Parameters
    ----------
    shop
        What it was made of.
    widths, tensors
        What it is.
    history, best_epoch
        Of its fine-tuning, if it was fine-tuned.
    first
        Checkpoint that the chain began with; None if more is to come before the network is finished.
    """
    job = shop.job
    options = job.source.record.get("options")
    record: dict[str, object] = {
        "options": options if isinstance(options, dict) else {},  # a further fine-tuning begins with them
        "history": [epoch.row() for epoch in history],
        "best_epoch": best_epoch,
        "pruning": {
            "file": job.file,
            "sha256": job.sha256,
            "targets": job.kept_shares,
            "before": dict(job.costs.units),
            "widths": dict(widths),
            "importance": job.config.importance,
            "scope": job.config.scope,
            "recalibration": shop.material.source.recalibration.method,
            "seed": job.config.seed,
            "finetuning": finetuning_facts(job) if history else None,
            "finished": first is not None,
        },
        "versions": {"qcaps": qcaps.__version__, "torch": torch.__version__},
    }
    if first is not None:
        record[RECORD] = first_to_record(first)
    return Checkpoint(job.source.model.with_widths(widths), tensors, job.data, record)


def finetuning_facts(job: Job) -> dict[str, object]:
    """Name every number of the fine-tuning."""
    own = finetune_config(job)
    options = dataclasses.asdict(training_options(own))
    return {
        **{name: list(options[name]) if isinstance(options[name], tuple) else options[name] for name in TOLD},
        "augmentation": job.data.augmentation if own.augment else "none",
        "distill": own.distill,
        "distill_weight": own.distill_weight,
    }
