"""What a pruning works on and with: judged units, a prepared recalibration, images, a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from qcaps.progress import OnProgress
from qcaps.pruning.candidates import Source
from qcaps.pruning.importance import Criterion, importance
from qcaps.pruning.isomorphic import isomorphic_rules
from qcaps.pruning.recalibration import recalibration
from qcaps.pruning.strategy import Rules
from qcaps.verbs.prune_images import Images
from qcaps.verbs.prune_job import Job

# Images that units are judged on, where the importance looks at any.
JUDGING = 500


@dataclass(frozen=True, eq=False)
class Material:
    """What a search works on.

    Parameters
    ----------
    source, rules
        The network with the importance of its units, and how far these may be cut.
    images
        All that a pruning uses.
    by_l1
        Units that the importance says nothing of.
    """

    source: Source
    rules: Rules
    images: Images
    by_l1: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        """Say where networks run."""
        return next(self.source.network.parameters()).device


@dataclass(frozen=True, eq=False)
class Workshop:
    """A job with its material, the output folder, someone to tell, and a wish to stop."""

    job: Job
    material: Material
    out: Path
    on_progress: OnProgress
    stop: Callable[[], bool]


def make_material(job: Job, images: Images, device: torch.device) -> Material:
    """Judge the units of a network, and prepare the recalibration of its candidates."""
    config = job.config
    network = job.source.network(where=job.file).to(device)
    some = images.calibration.subset(torch.arange(min(JUDGING, len(images.calibration))))
    criterion = cast("Criterion", config.importance)
    found = importance(criterion, network, some, seed=config.seed)
    source = Source(
        spec=job.source.model,
        tensors=job.source.tensors,
        network=network,
        scores=found.scores,
        recalibration=recalibration(network, images.calibration, method=config.recalibrate),
        calibration=images.calibration,
        scoring=images.scoring,
    )
    rules: Rules = job.rules
    if config.scope == "isomorphic":
        rules = isomorphic_rules(job.rules, network, found.scores)
    return Material(source, rules, images, found.by_l1)
