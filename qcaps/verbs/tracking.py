"""TensorBoard and Weights & Biases, through accelerate's trackers: a point of every curve after each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from accelerate.tracking import TensorBoardTracker, WandBTracker
from accelerate.utils import is_tensorboard_available, is_wandb_available

from qcaps.errors import UsageError
from qcaps.training.setting import EpochEnd

PROJECT = "qcaps"


def check_tracker(name: str) -> None:
    """Refuse a tracker whose package is missing.

    Raises
    ------
    UsageError
        With the package to install.
    """
    present = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
    if name in present and not present[name]():
        raise UsageError(f"the package {name} is not installed", where="--tracker", do=f"pip install 'qcaps[{name}]'")


@contextmanager
def tracked(
    name: str, out: Path, *, key: str, done: int, options: Mapping[str, object]
) -> Iterator[Callable[[EpochEnd], None]]:
    """Give a listener to the ends of epochs that hands them to a tracker; steps are epochs, counted from 1.

    Parameters
    ----------
    name
        ``none``, ``tensorboard`` or ``wandb``.
    out
        The files of the tracker lie in here.
    key
        Names the run, so that a continued one goes on with the same curves.
    done
        Epochs that were finished and saved before.
    options
        Of the run, shown beside its curves.
    """
    if name == "none":
        yield lambda end: None
        return
    if name == "tensorboard":
        tracker = TensorBoardTracker("tensorboard", out, purge_step=done + 1)
    else:
        tracker = WandBTracker(PROJECT, id=key[:32], resume="allow", dir=str(out), config=dict(options))
    tracker.start()
    try:
        yield lambda end: tracker.log(tracked_values(end), step=end.record.epoch)
    finally:
        tracker.finish()


def tracked_values(end: EpochEnd) -> dict[str, int | float]:
    """Give what is drawn of an epoch: its row of the history, the accuracies, and its speed."""
    row = end.record.row()
    scores = [name.removesuffix("_correct") for name in row if name.endswith("_correct")]
    accuracies = {f"{name}_accuracy": row[f"{name}_correct"] / row[f"{name}_images"] for name in scores}
    speed = {"images_per_second": end.timing.images_per_second, "waiting": end.timing.waiting}
    return {**{name: value for name, value in row.items() if name != "epoch"}, **accuracies, **speed}
