"""Candidates: a network is cut, recalibrated, scored and forgotten; what stays is its strategy and its score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qcaps.data.images import ImageSet
from qcaps.evaluation.cost_model import CostModel
from qcaps.models.network import CapsuleNetwork, to_inference
from qcaps.models.spec import ModelSpec, filled
from qcaps.pruning.ranking import kept_units
from qcaps.pruning.recalibration import Recalibration
from qcaps.pruning.scoring import Criterion, Score, score
from qcaps.pruning.strategy import Widths
from qcaps.pruning.surgery import cut
from qcaps.pruning.targets import Budget


@dataclass(frozen=True, eq=False)
class Source:
    """What is pruned, and the images that candidates are made and judged with.

    Parameters
    ----------
    spec, tensors
        The network before it is cut; its decoder, if the spec has one, is among the tensors.
    network
        The same in inference form, on the device where candidates are to run. It is left as it is.
    scores
        Importance of every unit, shape ``(count,)`` each.
    recalibration
        Of the candidates, prepared with the calibration images.
    calibration
        These images.
    scoring
        Images that candidates are judged on.

    Raises
    ------
    ValueError
        If test images are among them, or some images are to calibrate and to judge.
    """

    spec: ModelSpec
    tensors: Mapping[str, Tensor]
    network: CapsuleNetwork
    scores: Mapping[str, Tensor]
    recalibration: Recalibration
    calibration: ImageSet
    scoring: ImageSet

    def __post_init__(self) -> None:
        """Refuse images that would make scores dishonest."""
        if "test" in (self.calibration.split, self.scoring.split):
            raise ValueError("a search opens no test images")
        same_source = self.calibration.dataset == self.scoring.dataset
        if same_source and bool(torch.isin(self.scoring.indices, self.calibration.indices).any()):
            raise ValueError("images that calibrate cannot judge")


@dataclass(frozen=True)
class Proposal:
    """A strategy to score, its number in the search, and where it comes from."""

    number: int
    origin: str
    widths: Widths


@dataclass(frozen=True, eq=False)
class Candidate:
    """A strategy that was scored.

    Parameters
    ----------
    number
        Within the search. Numbers have gaps where a strategy came up a second time.
    origin
        ``drawn``, ``given`` or ``improved from`` another number.
    widths
        How many of all units stay.
    shares
        Kind of target → kept share, always with those of ``flops`` and ``params``.
    score
        After recalibration.
    """

    number: int
    origin: str
    widths: Widths
    shares: Mapping[str, float]
    score: Score


def cut_network(source: Source, widths: Mapping[str, int]) -> CapsuleNetwork:
    """Cut a network, its decoder included, down to some widths, those of all its units.

    Returns
    -------
    CapsuleNetwork
        In inference form, on the device of the source, with tensors of its own; its spec is the source's
        ``with_widths(widths)``.

    Raises
    ------
    UsageError
        If there are no such units.
    """
    spec, tensors = cut(source.spec, source.tensors, kept_units(source.scores, widths))
    return to_inference(filled(spec, tensors, where="candidate")).to(next(source.network.parameters()).device)


def recalibrated(source: Source, widths: Mapping[str, int]) -> CapsuleNetwork:
    """Cut a network and recalibrate it; as :func:`cut_network` otherwise."""
    network = cut_network(source, widths)
    source.recalibration.apply(network, kept_units(source.scores, widths))
    return network


def scored(source: Source, widths: Mapping[str, int], criterion: Criterion, unpruned: Tensor | None = None) -> Score:
    """Score a network cut down to some widths; it is gone afterwards. `unpruned` as for the criteria of scores."""
    network = recalibrated(source, widths)
    return score(network, source.scoring, criterion=criterion, unpruned=unpruned)


def kept_shares(widths: Mapping[str, int], budgets: Iterable[Budget], costs: CostModel) -> dict[str, float]:
    """Give the shares of all costs that some widths keep: kind of target → share."""
    left, whole = costs.vector(widths), costs.vector({})
    usual = {"flops": costs.macs(left) / costs.macs(whole), "params": costs.parameters(left) / costs.parameters(whole)}
    return usual | {one.target.kind: one.share(left) for one in budgets}
