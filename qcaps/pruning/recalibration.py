"""Recalibration: what makes a network that was just cut comparable with others that were."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from qcaps.data.images import ImageSet
from qcaps.errors import QcapsWarning
from qcaps.models.network import CapsuleNetwork
from qcaps.pruning.adaptive_norm import adapt_norms, norms_behind_cuts
from qcaps.pruning.readers import readers
from qcaps.pruning.short_tuning import tune
from qcaps.pruning.strategy import Kept
from qcaps.pruning.substitutes import channel_moments, least_squares, mean_fold

Method = Literal["batch-norm", "mean-fold", "least-squares", "tuning", "none"]
Used = Literal["batch-norm", "mean-fold", "least-squares", "tuning", "none", "not applicable"]


@dataclass(frozen=True)
class Recalibration:
    """How the cut networks of one source are recalibrated.

    Parameters
    ----------
    method
        The one in use, for the report.
    apply
        Recalibrates a cut network in evaluation mode, given which units were kept. The network is changed in place, but
        no tensor is that it may share with another. The source is left alone.
    """

    method: Used
    apply: Callable[[CapsuleNetwork, Kept], None]


def recalibration(
    source: CapsuleNetwork, images: ImageSet, *, method: Method = "least-squares", batch_size: int = 128
) -> Recalibration:
    """Prepare the recalibration of all candidates: what the source network tells is looked at once.

    Parameters
    ----------
    source
        The network that is cut, in evaluation mode.
    images
        Calibration images in a fixed order, 20 batches or so; never those that candidates are judged on.
    method
        ``batch-norm`` measures running statistics anew (:mod:`~qcaps.pruning.adaptive_norm`). ``mean-fold`` and
        ``least-squares`` let the layers behind a cut make up for it (:mod:`~qcaps.pruning.substitutes`), ``tuning``
        makes one gradient step per batch (:mod:`~qcaps.pruning.short_tuning`); where there are batch norms, their
        statistics are measured anew as well.
    batch_size
        Images whose statistics are averaged, and of one gradient step.

    Warns
    -----
    QcapsWarning
        If nothing is recalibrated: as asked, or because no cut can shift a running statistic.
    """
    has_norms = bool(norms_behind_cuts(source))
    if method == "batch-norm" and not has_norms:
        warnings.warn(
            "adaptive batch norm is not applicable: no cut shifts a running statistic of this network", QcapsWarning, 2
        )
        return Recalibration("not applicable", lambda network, kept: None)
    if method == "none":
        warnings.warn("candidates are compared as they were cut, without recalibration", QcapsWarning, 2)
        return Recalibration("none", lambda network, kept: None)
    parts = torch.arange(len(images)).tensor_split(max(1, round(len(images) / batch_size)))
    batches = [images.subset(part) for part in parts]
    layers = readers(source) if method in ("mean-fold", "least-squares") else []
    seen = channel_moments(source, layers, batches)

    def apply(network: CapsuleNetwork, kept: Kept) -> None:
        for layer, moments in zip(layers, seen, strict=True):
            stays = layer.kept_channels(kept)
            if method == "mean-fold":
                layer.refit(network, kept, mean_fold(moments, stays))
            else:
                layer.refit(network, kept, least_squares(moments, stays, with_constant=layer.takes_constant))
        if has_norms:
            adapt_norms(network, batches)
        if method == "tuning":
            tune(network, batches)

    return Recalibration(method, apply)
