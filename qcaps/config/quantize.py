"""Options of ``qcaps quantize``."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

from qcaps.config.option import LARGEST_SEED, option, parse_percent
from qcaps.config.search_numbers import parse_pins, parse_seconds, parse_widths
from qcaps.config.sizes import parse_size
from qcaps.registry import AUGMENTATIONS, DATASETS, ROUNDINGS, SEARCHES


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """Every option of a bit-width search, with its default."""

    accuracy_tolerance: Decimal = option(
        Decimal("0.2"),
        "Accuracy that may be lost, in percent of the float accuracy.",
        parse=parse_percent,
        metavar="PERCENT",
    )
    tolerance_kind: Literal["relative", "absolute"] = option(
        "relative", "relative: percent of the float accuracy; absolute: percentage points."
    )
    memory_budget: int | None = option(
        None,
        "Largest artifact in MB = 1,000,000 bytes; B, kB, MB, KiB, MiB are understood (default: as small as it gets).",
        parse=parse_size,
        metavar="SIZE",
    )
    budget_on: Literal["file", "payload"] = option(
        "file", "What the budget limits: the file on disk, or its weight payload alone."
    )
    activation_budget: int | None = option(
        None,
        "Largest sum of all arrays of one image, votes included; units as for --memory-budget.",
        parse=parse_size,
        metavar="SIZE",
    )
    activation_weight: float = option(
        1.0, "Bytes of weights that one byte of activations counts as; 0 makes weights alone small.", least=0, most=1e6
    )
    rounding: str = option(
        "round_to_nearest",
        "How numbers are rounded; auto tries every scheme and keeps the smallest result.",
        names=ROUNDINGS,
        also=("auto",),
    )
    search: str = option("pareto", "How widths are searched.", names=SEARCHES)
    min_bits: int = option(2, "Smallest width tried; 1 is legal.", least=1, most=16)
    widths: tuple[int, ...] = option(
        (), "The only widths tried, for example 2,4,8 (default: all).", parse=parse_widths, metavar="N,N,..."
    )
    pin: tuple[tuple[str, int], ...] = option(
        (),
        "The width of all sites that match, for example 'conv1.*=8'; may be repeated.",
        parse=parse_pins,
        metavar="PATTERN=N",
    )
    scales: Literal["tensor", "channel"] = option(
        "tensor", "tensor: one scale per weight; channel: one per output channel."
    )
    prepare: bool = option(
        True, "Balance convolution channels by powers of two, and correct biases for what rounding weights shifts."
    )
    per_iteration: bool = option(False, "Let the routing iterations of an array have widths of their own.")
    accounting: Literal["honest", "reference"] = option(
        "honest",
        "reference: count and round as Q-CapsNets does, one integer bit and no saturation; for --search qcapsnets.",
    )
    drop_iterations: bool = option(False, "Also try to drop routing iterations, which makes inference faster.")
    finetune_steps: int = option(
        0,
        "Steps of 128 images that teach a smaller plan to choose as the float network does; 0 for none.",
        least=0,
    )
    finetune_lr: float = option(0.0002, "Learning rate of this training at its start.", least=0)
    augmentation: str | None = option(
        None, "What is done to the images of this training; by default what suits the data set.", names=AUGMENTATIONS
    )
    compare_baseline: str | None = option(
        None, "Run this search as well, under the same promises, and report both.", names=SEARCHES
    )
    fallback: str | None = option(
        None, "Run this search as well, and keep its answer where it is the better one.", names=SEARCHES
    )
    sensitivity_only: bool = option(False, "Only measure what every width of every site does alone: sensitivity.csv.")
    time_budget: float | None = option(
        None, "End the search after this time, with the best so far: 90s, 10m, 1h.", parse=parse_seconds, metavar="TIME"
    )
    max_image_forwards: int | None = option(
        None, "End the search after so many images have passed a network, with the best so far.", least=1
    )
    confidence: float | None = option(
        None,
        "Decide by statistics: the drop must be within the tolerance with this confidence in percent, for example 95.",
        least=50,
        most=99.99,
    )
    calibration_images: int = option(1024, "Training images that choose the scales.", least=1)
    margin: int = option(
        10,
        "Percent of the allowed losses the search keeps in reserve for the report split.",
        least=0,
        most=100,
    )
    dataset: str | None = option(
        None,
        "Images to choose scales and widths on, and to prove them (default: those it was trained on).",
        names=DATASETS,
    )
    data_dir: Path | None = option(None, "Folder of the data sets (QCAPS_DATA, else ~/.cache/qcaps/data).")
    decoder_from: Path | None = option(
        None, "Checkpoint whose decoder draws what the capsules still hold (default: the network's own)."
    )
    test_batch_size: int = option(200, "Images per batch; changes speed and memory only.", least=1)
    cache_memory: int = option(
        1_000_000_000,
        "Memory for what stages of the network gave, so that candidates with the same beginning share it.",
        parse=parse_size,
        metavar="SIZE",
    )
    seed: int = option(42, "Seed of calibration images and of stochastic rounding.", least=0, most=LARGEST_SEED)
    threads: int | None = option(None, "Compute threads (default: PyTorch's choice).", least=1)
    out: Path | None = option(None, "Output folder (default: runs/<input>-quantize).")
    fresh: bool = option(False, "Ignore the measurements in the output folder and start again.")
    reproducible: bool = option(False, "Leave times and the machine out of report.json.")
