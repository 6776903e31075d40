"""What stands for channels that are gone: their mean, or the channels that stay in the best linear combination.

Both follow from the means and products of the channels of the unpruned network, which is watched once on the
calibration images. So a candidate costs no forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qcaps.data.images import ImageSet
from qcaps.models.network import CapsuleNetwork
from qcaps.pruning.readers import Reader, Substitute

# Of the least squares, times the mean square of the kept channels.
RIDGE = 1e-3


@dataclass(eq=False)
class Moments:
    """Sums over everything that a layer read.

    Parameters
    ----------
    count
        Samples.
    total
        Of each channel, float64, shape ``(channels,)``.
    products
        Of all pairs of channels, float64, shape ``(channels, channels)``.
    """

    count: int
    total: Tensor
    products: Tensor

    def see(self, samples: Tensor) -> None:
        """Add samples, shape ``(n, channels)``."""
        self.count += len(samples)
        self.total = self.total + samples.sum(0).double().cpu()
        self.products = self.products + (samples.T @ samples).double().cpu()


def channel_moments(network: CapsuleNetwork, readers: Sequence[Reader], batches: Sequence[ImageSet]) -> list[Moments]:
    """Watch the channels that each of some layers reads.

    Parameters
    ----------
    network, readers
        The unpruned network in evaluation mode, and its layers.
    batches
        Calibration images.
    """
    found = [Moments(0, torch.zeros(()), torch.zeros(())) for _ in readers]
    device = next(network.parameters()).device
    with torch.no_grad(), ExitStack() as hooks:
        for reader, moments in zip(readers, found, strict=True):

            def see(_: nn.Module, given: tuple[Tensor], reader: Reader = reader, moments: Moments = moments) -> None:
                moments.see(reader.samples(given[0]).float())

            layer = network.stages.get_submodule(reader.path)
            hooks.enter_context(layer.register_forward_pre_hook(see))
        for batch in batches if readers else ():
            network(batch.prepared().to(device))
    return found


def mean_fold(moments: Moments, stays: Tensor) -> Substitute:
    """Take every channel that is gone for its mean.

    Parameters
    ----------
    moments
        Of all channels.
    stays
        Those that stay, int64, shape ``(kept,)``.

    Notes
    -----
    Exact for channels that are constant, where no border is padded with another value.
    """
    offset = moments.total / moments.count
    offset[stays] = 0
    return Substitute(torch.zeros(len(offset), len(stays)), offset.float())


def least_squares(moments: Moments, stays: Tensor, *, with_constant: bool) -> Substitute:
    """Take every channel that is gone for the linear combination of those that stay that comes closest to it.

    Parameters
    ----------
    moments, stays
        As for :func:`mean_fold`.
    with_constant
        Whether a constant may be added.

    Notes
    -----
    A layer that is linear in its channels then computes what comes closest to what it did, of all that it could by
    mixing channels, whatever the size of its kernel; to fit every weight of a 9×9 kernel apart costs hundreds of times
    more and gains little. Exact for channels that are combinations of those that stay, up to the ridge term.

    References
    ----------
    He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", 2017, section 3.1, fits every
    weight.
    """
    mean = moments.total / moments.count if with_constant else torch.zeros_like(moments.total)
    squares = moments.products / moments.count - mean.outer(mean)
    among_kept = squares[stays][:, stays]
    ridge = RIDGE * among_kept.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    mix = torch.linalg.solve(among_kept + ridge * torch.eye(len(stays)), squares[stays]).T  # (channels, kept)
    offset = mean - mix @ mean[stays]
    mix[stays], offset[stays] = 0, 0
    return Substitute(mix.float(), offset.float())
