"""Options of ``qcaps prune``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qcaps.config.option import LARGEST_SEED, option
from qcaps.config.pruning_numbers import parse_caps, parse_floors
from qcaps.config.search_numbers import parse_seconds
from qcaps.registry import DATASETS, IMPORTANCES


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Every option of a search for a smaller network, with its default."""

    flops: float | None = option(
        None, "Share of the multiply-accumulates (MACs) to keep.", least=0, most=1, metavar="SHARE"
    )
    params: float | None = option(None, "Share of the parameters to keep.", least=0, most=1, metavar="SHARE")
    latency: float | None = option(
        None, "Share of the time of a batch to keep, measured on this machine.", least=0, most=1, metavar="SHARE"
    )
    capsules: float | None = option(
        None, "Share of the capsules to keep that vote for the classes.", least=0, most=1, metavar="SHARE"
    )
    counting: Literal["qcaps", "eagleeye"] = option(
        "qcaps", "eagleeye: count MACs of Conv2d and Linear alone, and parameters of 2 or 4 axes."
    )
    latency_batch: int = option(100, "Images of the batch whose time is measured, beside that of one image.", least=1)
    candidates: int = option(50, "Strategies to draw at random and score.", least=1)
    improve: int = option(30, "Strategies to try near the best ones; 0 for none.", least=0)
    sampler: Literal["bisection", "rejection"] = option(
        "bisection", "How draws meet the target: by their scale, or by drawing again as EagleEye does."
    )
    importance: str = option("l1", "Which units stay.", names=IMPORTANCES)
    scope: Literal["layerwise", "isomorphic"] = option(
        "layerwise", "layerwise: every layer has a share of its own; isomorphic: layers that are built alike compete."
    )
    cap: tuple[tuple[str, float], ...] = option(
        (),
        "Largest share that may go, of all units or of those that match, for example 'conv1.*=0.5'; may be repeated "
        "(default: EagleEye's, 0.8 where a quarter is kept, 0.7 for half).",
        parse=parse_caps,
        metavar="[PATTERN=]SHARE",
    )
    at_least: tuple[tuple[str, int], ...] = option(
        (),
        "How many stay at least, of all units or of those that match, for example 'primary.types=4'; may be repeated.",
        parse=parse_floors,
        metavar="[PATTERN=]N",
    )
    only: tuple[str, ...] = option((), "Units to cut, all others stay whole; may be repeated.", metavar="PATTERN")
    skip: tuple[str, ...] = option((), "Units that stay whole; may be repeated.", metavar="PATTERN")
    round_to: int = option(1, "Multiple that widths of convolutions are rounded to.", least=1)
    strategy: Path | None = option(
        None,
        "JSON file that says how many of every unit stay, by name or all in order; then nothing is searched.",
    )
    recalibrate: Literal["batch-norm", "mean-fold", "least-squares", "tuning", "none"] = option(
        "least-squares",
        "How a candidate is made ready for its score: batch-norm, mean-fold, least-squares, tuning or none.",
        metavar="METHOD",
    )
    score: Literal["loss", "margin", "kl"] = option(
        "loss", "What candidates are compared by: their loss, their margins, or how far they are from the network."
    )
    calibration_images: int = option(2560, "Training images that recalibrate candidates and judge units.", least=1)
    scoring_images: int = option(
        2000,
        "Validation images to score candidates on, half of them at most; the others choose the winner.",
        least=1,
    )
    top_k: int = option(3, "Candidates to fine-tune.", least=1)
    finetune_epochs: int = option(3, "Passes over the training images of each; 0 for none.", least=0)
    finetune_lr: float | None = option(
        None, "Learning rate at the start (default: half of the one it was trained with).", least=0
    )
    augment: bool = option(True, "Augment images of the fine-tuning as those of the training were.")
    distill: Literal["none", "scores", "poses"] = option(
        "scores", "What the unpruned network teaches beside the labels: its class scores, or its class capsules."
    )
    distill_weight: float = option(1.0, "Weight of that loss beside the class loss.", least=0)
    time_budget: float | None = option(
        None, "End the search after this time, with the best so far: 90s, 10m, 1h.", parse=parse_seconds, metavar="TIME"
    )
    dataset: str | None = option(
        None, "Images to prune and fine-tune with (default: those it was trained on).", names=DATASETS
    )
    data_dir: Path | None = option(None, "Folder of the data sets (QCAPS_DATA, else ~/.cache/qcaps/data).")
    test_batch_size: int = option(200, "Images per batch of an evaluation; changes speed and memory only.", least=1)
    seed: int = option(
        42, "Seed of strategies, calibration images, random importance and fine-tuning.", least=0, most=LARGEST_SEED
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N.", metavar="DEVICE")
    threads: int | None = option(None, "Compute threads (default: PyTorch's choice).", least=1)
    out: Path | None = option(None, "Output folder (default: runs/<input>-prune).")
    fresh: bool = option(False, "Ignore what an earlier run left in the output folder and start again.")
    reproducible: bool = option(False, "Leave times and the machine out of report.json.")
