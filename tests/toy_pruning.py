"""Searches for pruned toy networks: what they prune, and how it is searched."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from toys import toy_images, toy_network

from qcaps.artifacts.journal import Journal
from qcaps.data.images import ImageSet, Split
from qcaps.evaluation.cost_model import CostModel, cost_model
from qcaps.models.efficient_capsnet import EfficientCapsNetSpec
from qcaps.models.network import encoder_tensors
from qcaps.pruning.candidates import Source
from qcaps.pruning.importance import importance
from qcaps.pruning.recalibration import Method, recalibration
from qcaps.pruning.search import Searched, search
from qcaps.pruning.strategy import WidthRules, width_rules
from qcaps.pruning.targets import Budget, Target, budget

# Five kinds of units: channels of three convolutions, types and dimensions of the primary capsules.
PRUNED = EfficientCapsNetSpec(
    height=14, width=14, classes=3, conv_channels=(8, 12, 10, 24), primary_dim=6, class_dim=4, decoder="none"
)
KEPT = 0.5


def images_of(split: Split, count: int, first: int) -> ImageSet:
    """Draw images whose indices begin at a number."""
    images = toy_images(PRUNED, count, seed=first, split=split)
    return dataclasses.replace(images, indices=torch.arange(first, first + count))


def toy_source(method: Method = "batch-norm", *, scoring: int = 30, calibration: int = 24) -> Source:
    """Make the toy network a source, judged by L1 and recalibrated on two batches."""
    network = toy_network(PRUNED)
    seen = images_of("train", calibration, 0)
    return Source(
        PRUNED,
        encoder_tensors(network),
        network,
        importance("l1", network).scores,
        recalibration(network, seen, method=method, batch_size=12),
        seen,
        images_of("validation", scoring, 1000),
    )


@functools.cache
def toy_costs() -> CostModel:
    """Derive the costs of the toy network, once."""
    return cost_model(PRUNED)


@functools.cache
def toy_budget(kept: float = KEPT) -> Budget:
    """Limit its multiply-accumulates."""
    return budget(Target("flops", kept), toy_costs())


@functools.cache
def toy_rules() -> WidthRules:
    """Let at most so much of every unit go."""
    return width_rules(toy_costs().units, caps={"*": 0.75})


def searched(source: Source | None = None, folder: Path | None = None, **options: object) -> Searched:
    """Search with a journal in a folder, if there is one; few candidates unless told otherwise."""
    numbers = {"candidates": 6, "improve": 10, "top_k": 2, "seed": 3, "budgets": [toy_budget()], **options}
    with opened(folder) as journal:
        return search(source or toy_source(), rules=toy_rules(), costs=toy_costs(), journal=journal, **numbers)


@contextlib.contextmanager
def opened(folder: Path | None) -> Iterator[Journal | None]:
    """Open the journal of a folder."""
    if folder is None:
        yield None
    else:
        with Journal.open(folder / "journal.jsonl") as journal:
            yield journal


def plain(found: Searched) -> Mapping[str, object]:
    """Give plain data of everything that a search found, but for what this run spent itself."""
    return {
        "candidates": [
            [one.number, one.origin, one.widths, dict(one.shares), one.score.per_image.tolist(), one.score.correct]
            for one in found.candidates
        ],
        "ranked": list(found.ranked),
        "finalists": list(found.finalists),
        "stopped": found.stopped,
        "image-forwards": found.image_forwards,
    }
