"""The range of numbers at every site of a file: found in its weights, and measured on training images."""

from __future__ import annotations

import torch

from qcaps.config import InspectConfig
from qcaps.data.load import load_split
from qcaps.errors import StoppedError
from qcaps.evaluation.measure import measure
from qcaps.evaluation.watching import RangeWatch, watched
from qcaps.models.network import weight_sites
from qcaps.progress import OnProgress
from qcaps.quantization.formats import Float32, NumberFormat, PerChannel
from qcaps.quantization.loading import Loaded
from qcaps.verbs.chosen_data import chosen_data
from qcaps.verbs.interruption import stoppable

# Smallest and largest value.
Range = tuple[float, float]
# Which images are drawn; a search draws the same ones by default.
SEED = 42
BATCH = 200


def weight_ranges(loaded: Loaded) -> dict[str, Range]:
    """Find the smallest and the largest number of every weight."""
    watch, parameters = RangeWatch(), dict(loaded.network.named_parameters())
    for site, name in weight_sites(loaded.network).items():
        watch.see(site, parameters[name].detach())
    return watch.ranges


def array_ranges(loaded: Loaded, config: InspectConfig, on_progress: OnProgress) -> dict[str, Range]:
    """Run training images through the network of a file, and find the smallest and the largest value of every array.

    Raises
    ------
    UsageError
        If the images are missing, or the file names none and neither does `config`.
    StoppedError
        If interrupted.
    """
    data = chosen_data(loaded, config.dataset, data_dir=config.data_dir, where=str(loaded.path))
    training = load_split(data, "train", data_dir=config.data_dir)
    drawn = torch.randperm(len(training), generator=torch.Generator().manual_seed(SEED))[: config.calibration_images]
    watch = RangeWatch()
    hook_of = None if loaded.artifact is None else loaded.artifact.rounder().hook
    try:
        with stoppable() as stop:
            measure(
                watched(loaded.network, watch.see, hook_of),
                training.subset(drawn),
                batch_size=BATCH,
                phase="ranges",
                on_progress=on_progress,
                stop=stop,
            )
    except StoppedError as error:
        raise StoppedError(error.what, where=str(loaded.path), do="nothing was written") from error
    return watch.ranges


def held_range(fmt: NumberFormat) -> Range | None:
    """Give the lowest and the highest value that a format has, over all channels; None for float32."""
    if isinstance(fmt, Float32):
        return None
    parts = fmt.channels if isinstance(fmt, PerChannel) else (fmt,)
    return min(part.lowest for part in parts), max(part.highest for part in parts)
