"""What a training is of and how it is named: all that its result depends on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from qcaps.artifacts.checkpoint import Checkpoint
from qcaps.artifacts.journal import content_key
from qcaps.config import TrainConfig
from qcaps.data.spec import DataSpec
from qcaps.errors import UsageError
from qcaps.models.network import CapsuleNetwork
from qcaps.models.spec import ModelSpec, initialised, spec_to_dict
from qcaps.training.beginning import begin
from qcaps.training.optimizers import optimizer
from qcaps.verbs.tracking import check_tracker

# Options that change where, how fast and how loud, never what.
NOT_IN_KEY = {
    *("data_dir", "out", "fresh", "threads", "device", "test_batch_size"),
    *("reconstructions_every", "reproducible", "runs", "tracker"),
}


@dataclass(frozen=True, eq=False)
class Subject:
    """What is trained, whatever the seed.

    Parameters
    ----------
    spec
        The network.
    data, also
        Its images, and further ones that are only scored.
    start, start_sha256
        The checkpoint to start from, or None and nothing.
    """

    spec: ModelSpec
    data: DataSpec
    also: tuple[DataSpec, ...]
    start: Checkpoint | None
    start_sha256: str


def first_network(subject: Subject, config: TrainConfig) -> tuple[CapsuleNetwork, tuple[str, ...]]:
    """Make the network as it is before the first step, and name the stages taken from the checkpoint.

    Raises
    ------
    UsageError
        If something is wrong with the options that only the network can tell.
    """
    network = initialised(subject.spec, config.seed)
    taken = begin(network, subject.start, config.freeze)
    optimizer(config, network)
    check_tracker(config.tracker)
    if config.reconstructions_every and network.decoder is None:
        raise UsageError("this network has no decoder", where="--reconstructions-every", do="name one with --decoder")
    return network, taken


def run_key(subject: Subject, config: TrainConfig) -> str:
    """Name a training by all that its result depends on."""
    return content_key(
        spec_to_dict(subject.spec),
        [dataclasses.asdict(data) for data in (subject.data, *subject.also)],
        plain_options(config),
        subject.start_sha256,
        torch.__version__,
    )


def plain_options(config: TrainConfig) -> dict[str, object]:
    """Give the options that matter to the result, as plain data."""
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in NOT_IN_KEY}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
    return plain | {"init": None if config.init is None else config.init.name}
